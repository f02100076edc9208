"""What each recipe is about. Neither pydantic nor most of a recipe is read for it, so that listing many long tables is
quick."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchsuite.errors import InputError
from benchsuite.recipe.shelf import parent_of
from benchsuite.recipe.yamlfile import parse

_KEY = re.compile(r"([A-Za-z_]\w*):(?=\s|$)")
_ITEM = re.compile(r"^( *)-(?=\s|$)", re.MULTILINE)


@dataclass(frozen=True)
class Heading:
    """What a recipe is about; `paper` is the paper's id, `rows` counts the table's."""

    id: str
    paper: str
    table: str
    title: str
    rows: int


def heading(file: Path) -> Heading:
    """The heading of a recipe. Where it cannot be told from a few lines the whole recipe is read; errors as of that."""
    try:
        return _quick(file)
    except (ValueError, KeyError, TypeError, OSError, InputError):
        from benchsuite.recipe.loading import load

        whole = load(file)
        return Heading(whole.id, whole.paper.id, whole.table, whole.title, len(whole.rows))


def _quick(file: Path) -> Heading:
    found: dict[str, str] = {}
    place: Path | None = file
    seen: list[Path] = []
    while place is not None and place not in seen and not {"id", "paper", "table", "title", "rows"} <= found.keys():
        seen.append(place)
        blocks = _blocks(place.read_text(encoding="utf-8"))
        extends = _value(blocks, "extends") if "extends" in blocks else None
        found = blocks | found
        place = parent_of(place, extends) if isinstance(extends, str) else None
    paper = _value(found, "paper")
    words = (_value(found, "id"), paper["id"], _value(found, "table"), _value(found, "title"))
    if not all(isinstance(word, str) for word in words) or not isinstance(paper["title"] + paper["cite"], str):
        raise TypeError("a heading is made of words")
    return Heading(*words, rows=_count(found["rows"]))


def _blocks(text: str) -> dict[str, str]:
    """The text of each key of a mapping in block style; ValueError where it is written otherwise."""
    blocks: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        key = _KEY.match(line)
        if key is not None and key[1] not in blocks:
            lines = blocks[key[1]] = []
        elif not line.strip() or line[0] == "#":
            continue
        elif line[0] not in " -" or not blocks:
            raise ValueError(f"not a mapping of blocks: {line}")
        lines.append(line)
    return {key: "".join(lines) for key, lines in blocks.items()}


def _value(blocks: Mapping[str, str], key: str) -> Any:
    return parse(blocks[key], key).value[key]


def _count(rows: str) -> int:
    """How many items a list has; counted by its marks where it is written in block style."""
    if rows.removeprefix("rows:").partition("\n")[0].partition("#")[0].strip():
        return len(parse(rows, "rows").value["rows"])
    marks = _ITEM.findall(rows)
    return marks.count(marks[0]) if marks else len(parse(rows, "rows").value["rows"])
