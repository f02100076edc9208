"""Recipes' YAML: read safely, every value with the file and line it came from, so that errors can name them."""

import math
import re
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from benchsuite.disk import DEPTH, DIGITS, read_within, told
from benchsuite.errors import InputError, harmless

KeyPath = tuple[str | int, ...]
LIMIT = 4 * 2**20  # bytes of a recipe; the longest of the project's has 20,000


@dataclass(frozen=True)
class Origin:
    """Where a value was written, and the text of a number as printed."""

    file: str
    line: int
    text: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class Document:
    """Plain values and, for each path into them, its origin."""

    value: Any
    origins: Mapping[KeyPath, Origin] = field(default_factory=dict)

    def origin(self, path: KeyPath) -> Origin:
        """Origin of `path`, or of the nearest thing above it."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path, Origin("recipe", 0))

    @cached_property
    def _origins_below(self) -> Mapping[str | int, dict[KeyPath, Origin]]:
        split: dict[str | int, dict[KeyPath, Origin]] = {}
        for path, origin in self.origins.items():
            if path:
                split.setdefault(path[0], {})[path[1:]] = origin
        return split

    @cached_property
    def _parts(self) -> dict[str | int, "Document"]:
        return {}

    def at(self, *path: str | int) -> "Document":
        """The part of the document below `path`; an empty mapping where there is none."""
        if not path:
            return self
        step, rest = path[0], path[1:]
        if step not in self._parts:  # kept: a long table asks for each of its rows
            keys: Container[object] = range(len(self.value)) if isinstance(self.value, list) else self.value
            present = isinstance(self.value, (dict, list)) and step in keys
            below = self._origins_below.get(step, {})
            self._parts[step] = Document(self.value[step] if present else {}, below)
        return self._parts[step].at(*rest)

    def below(self, name: str) -> "Document":
        """The document as the value of one key."""
        return Document({name: self.value}, {(name, *path): origin for path, origin in self.origins.items()})

    def without(self, keys: frozenset[str]) -> "Document":
        """The same mapping less some of its keys."""
        kept = {name: value for name, value in self.value.items() if name not in keys}
        return Document(kept, {path: origin for path, origin in self.origins.items() if not path or path[0] in kept})

    def merged(self, change: "Document", whole: Collection[KeyPath] = ()) -> "Document":
        """`change` laid over this document. Mappings merge, but one that names another `kind` than the mapping it
        changes replaces it: what was said of one part is not said of another. All else (lists too) is replaced.

        The document itself always merges, and so do the mappings at the paths in `whole`.
        """
        if not (isinstance(self.value, dict) and isinstance(change.value, dict)):
            return change
        value, origins = dict(self.value), dict(self.origins)
        for name in change.value:
            mine, theirs = self.at(name), change.at(name)
            inside = {path[1:] for path in whole if path[:1] == (name,)}
            merges = name in value and (() in inside or not _unlike(mine, theirs))
            below = mine.merged(theirs, inside) if merges else theirs
            origins = {path: origin for path, origin in origins.items() if path[:1] != (name,)}
            value[name] = below.value
            origins |= {(name, *path): origin for path, origin in below.origins.items()}
        return Document(value, origins)

    def exchanged(self, change: "Document") -> Iterator[KeyPath]:
        """Paths of this document's mappings that `change` replaces by another `kind`."""
        if isinstance(self.value, dict) and isinstance(change.value, dict):
            for name in self.value.keys() & change.value.keys():
                mine, theirs = self.at(name), change.at(name)
                inside = [()] if _unlike(mine, theirs) else mine.exchanged(theirs)
                yield from ((name, *path) for path in inside)

    def less(self, paths: Iterable[KeyPath]) -> "Document":
        """The same less what stands at `paths` without a `kind` of its own, which was said of a part that is gone."""
        found = self
        for name, *rest in paths:
            below = found.at(name)
            if not isinstance(below.value, dict) or not below.value or (not rest and "kind" in below.value):
                continue
            others = found.without(frozenset({str(name)}))
            found = others.merged(below.less([tuple(rest)]).below(str(name))) if rest else others
        return found


def _unlike(first: Document, second: Document) -> bool:
    """Whether both are parts, and of different kinds."""
    parts = [each.value for each in (first, second) if isinstance(each.value, dict) and "kind" in each.value]
    return len(parts) == 2 and parts[0]["kind"] != parts[1]["kind"]


class _Loader(yaml.CSafeLoader):
    """YAML 1.2's plain scalars: `on` and `no` are words, `1e-4` is a number."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|)$", ["~", "n", ""]),
    ("bool", r"^(?:true|false)$", ["t", "f"]),
    ("int", r"^[-+]?\d+$", list("-+0123456789")),
    ("float", r"^[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?$", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)

_SCALARS: dict[str, Callable[[str], Any]] = {
    "tag:yaml.org,2002:null": lambda text: None,
    "tag:yaml.org,2002:bool": lambda text: text == "true",
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": float,
    "tag:yaml.org,2002:str": str,
}
_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


def read(file: Path) -> Document:
    """Read a YAML mapping; InputError with file and line for whatever is not plain YAML."""
    try:
        if not file.exists():
            raise InputError(f"{file}: no such file; `bench list` shows the recipes there are")
        text = read_within(file, "a recipe is a text file", LIMIT).decode("utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the name
        raise InputError(f"{file}: cannot be read ({told(error)}); a recipe is a UTF-8 text file") from None
    return parse(text, file.name)


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        _refuse_depth(text, name)
        return yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{name}:{mark.line + 1 if mark else 1}: not valid YAML: {problem}; mend the line") from None


def _refuse_depth(text: str, name: str) -> None:
    """InputError where values are nested too deep: to build them would end the interpreter."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise InputError(f"{name}:{line}: is nested more than {DEPTH} deep; write it flatter")


def parse(text: str, name: str) -> Document:
    """Parse YAML text; `name` stands in errors."""
    document = _Builder(name).build(_compose(text, name))
    if not isinstance(document.value, dict):
        raise InputError(f"{name}:1: a recipe is a mapping (`id: …`), found {type(document.value).__name__}")
    return document


def parse_value(text: str) -> Any:
    """One value as on the command line (`--set a.b=[1, 2]`)."""
    try:
        _refuse_depth(text, "--set")
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError:
        raise InputError(f"--set: '{text}' is not a YAML value; quote it, for instance \"a.b='text'\"") from None
    return _Builder("--set").build(node).value


def _scalar(tag: str, text: str, origin: Origin) -> Any:
    if not text.isprintable() and not all(harmless(sign) or sign in "\n\t" for sign in text):
        raise InputError(f"{origin}: '{text}' has control characters; take them out")
    try:
        if tag.endswith(":int") and len(text) > DIGITS:
            raise ValueError(f"it has {len(text)} digits")
        value = _SCALARS[tag](text)
    except ValueError:
        raise InputError(f"{origin}: '{text}' is no number that can be read; write another") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{origin}: '{text}' is no finite number; write another")
    return value


class _Builder:
    def __init__(self, file: str) -> None:
        self.file = file
        self.origins: dict[KeyPath, Origin] = {}
        self.seen: set[int] = set()

    def build(self, node: yaml.Node | None) -> Document:
        return Document(None if node is None else self.value(node, ()), self.origins)

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        origin = Origin(self.file, node.start_mark.line + 1)
        if id(node) in self.seen:
            raise InputError(f"{origin}: anchors and aliases are not used in recipes; write the value out")
        self.seen.add(id(node))
        self.origins[path] = origin
        if node.tag not in (_SCALARS if isinstance(node, yaml.ScalarNode) else _COLLECTIONS):
            raise InputError(f"{origin}: tag {node.tag} is not allowed; recipes hold plain values only")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        self.origins[path] = replace(origin, text=node.value)
        return _scalar(node.tag, node.value, origin)

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            line = f"{self.file}:{key_node.start_mark.line + 1}"
            if not isinstance(key, str) or not all(map(harmless, key)):
                raise InputError(f"{line}: a key must be a word")
            if key in built:
                raise InputError(f"{line}: key '{key}' stands twice; keep one")
            built[key] = self.value(value_node, (*path, key))
            self.origins[*path, key] = replace(self.origins[*path, key], line=key_node.start_mark.line + 1)
        return built
