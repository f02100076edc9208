"""What the package says, it says once: no function, no value and no docstring is written out in several places."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

HOUSE = Path(__file__).parents[1] / "benchsuite"
LONG = 20  # nodes of a syntax tree: shorter ones are often alike by chance
STOCK = 3  # places of a docstring from which on it says nothing of any of them


@cache
def trees() -> dict[Path, ast.Module]:
    return {path.relative_to(HOUSE): ast.parse(path.read_text()) for path in sorted(HOUSE.rglob("*.py"))}


def long(*nodes: ast.AST) -> bool:
    return sum(1 for node in nodes for _ in ast.walk(node)) > LONG


def bodies() -> Iterator[tuple[str, str]]:
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                body = node.body[ast.get_docstring(node) is not None :]
                if long(*body):
                    yield "\n".join(map(ast.unparse, body)), f"{path}:{node.name}"


def values() -> Iterator[tuple[str, str]]:
    for path, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and long(node.value):
                yield ast.unparse(node.value), f"{path}:{node.lineno}"


def docstrings() -> Iterator[tuple[str, str]]:
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
                yield text, f"{path}:{node.name}"


def in_several(found: Iterator[tuple[str, str]], several: int = 1) -> list[list[str]]:
    places = defaultdict(list)
    for text, place in found:
        places[text].append(place)
    return [each for each in places.values() if len(each) > several]


def test_no_function_is_written_twice() -> None:
    assert in_several(bodies()) == []


def test_no_value_is_defined_twice() -> None:
    assert in_several(values()) == []


def test_no_docstring_is_stock() -> None:
    assert in_several(docstrings(), STOCK) == []
