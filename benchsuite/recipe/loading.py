"""Recipes read from their files: parents laid below children, the whole checked."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchsuite.errors import InputError, nearest
from benchsuite.recipe.explain import explain
from benchsuite.recipe.form import TIERS
from benchsuite.recipe.recipe import Recipe, Row
from benchsuite.recipe.references import check_references
from benchsuite.recipe.shelf import available, folder, parent_of
from benchsuite.recipe.yamlfile import Document, read
from benchsuite.settings import look_beside

_ROW_KEYS = frozenset(Row.model_fields) - {"change"}


def load(file: Path) -> Recipe:
    """Read a recipe and its parents; InputError naming file, line, key, and the nearest key there is."""
    document = _extended(file, ())
    outer = dict(document.value)
    rows, columns = outer.get("rows", []), outer.get("columns", [])
    if isinstance(rows, list):
        outer["rows"] = [_row(document, index) for index in range(len(rows))]
    if isinstance(columns, list):
        outer["columns"] = [_column(document, column) for column in columns]
    tiers = outer.get("tiers", {})
    if isinstance(tiers, dict):
        outer["tiers"] = {name: _mapping(document, "tiers", name) for name in tiers}
    outer["base"] = _mapping(document, "base")
    try:
        recipe = Recipe.model_validate(outer)
    except ValidationError as error:
        raise explain(error, document, Recipe) from None
    check_references(recipe, document)
    if file.parent.resolve() != folder().resolve():
        recipe._file = file
        look_beside(file.parent.resolve())
    return recipe


def _extended(file: Path, below: tuple[Path, ...]) -> Document:
    if file.resolve() in below:
        chain = " → ".join(path.name for path in (*below, file))
        raise InputError(f"{file.name}: `extends` goes in a circle ({chain}); take one of them out")
    document = _parent(file, file.stat().st_mtime_ns) if below and file.is_file() else read(file)
    parent = document.value.get("extends")
    if parent is None:
        return document
    if not isinstance(parent, str):
        raise InputError(f"{document.origin(('extends',))}: `extends` takes the name of one file")
    own = document.without(frozenset({"extends"}))
    parent_file = parent_of(file, parent)
    if parent_file is None:
        if parent_of(file, f"{parent}.yaml") is not None:
            raise InputError(f"{document.origin(('extends',))}: `extends` takes a file's name: {parent}.yaml")
        raise InputError(
            f"{document.origin(('extends',))}: `extends: {parent}` is not there; it is looked up beside {file.name} "
            "and among the recipes that `bench list` shows"
        )
    return _over(_extended(parent_file, (*below, file.resolve())), own)


@cache
def _parent(file: Path, changed: int) -> Document:
    """What several recipes extend is read once."""
    return read(file)


def _over(above: Document, own: Document) -> Document:
    """A recipe laid over the one it extends. `base` and tiers are the settings of whole rows, which no `kind` replaces;
    where one of their parts is exchanged, what was said of the old part goes, also in the tiers of the parent."""
    gone = tuple(above.at("base").exchanged(own.at("base")))
    base = above.at("base").merged(own.at("base"))
    for tier in TIERS:
        part = above.at("tiers", tier)
        also = base.merged(part).exchanged(own.at("tiers", tier))
        above = above.less(("tiers", tier, *path) for path in (*gone, *also))
    return above.merged(own, whole=[("base",), *(("tiers", tier) for tier in TIERS)])


def _mapping(document: Document, *path: str | int) -> Document:
    part = document.at(*path)
    if not isinstance(part.value, dict):
        raise InputError(f"{document.origin(path)}: `{path[-1]}` is a mapping of settings, found {part.value!r}")
    return part


def _row(document: Document, index: int) -> dict[str, Any]:
    row = _mapping(document, "rows", index)
    outer = {name: value for name, value in row.value.items() if name in _ROW_KEYS}
    if isinstance(outer.get("tiers"), dict):
        outer["tiers"] = {name: _mapping(document, "rows", index, "tiers", name) for name in outer["tiers"]}
    return outer | {"change": row.without(_ROW_KEYS)}


def _column(document: Document, column: object) -> object:
    entry: Any = {"id": column} if isinstance(column, str) else column
    if isinstance(entry, dict) and "decimals" not in entry:
        name = entry.get("id")
        printed = [o.text for p, o in document.origins.items() if p[:1] == ("rows",) and p[2:4] == ("published", name)]
        decimals = [len(text.partition(".")[2]) for text in printed if text.replace(".", "").lstrip("-").isdigit()]
        entry = {**entry, "decimals": max(decimals, default=1)}
    return entry


def select(names: Sequence[str]) -> list[Recipe]:
    """Recipes by id, glob (`har-*`) or path of a YAML file, each once; InputError with the nearest id."""
    known = available()
    files: dict[Path, Path] = {}
    for name in names:
        matches = [known[recipe_id] for recipe_id in known if fnmatchcase(recipe_id, name)]
        if not matches and name.endswith((".yaml", ".yml")):
            matches = [Path(name)]
        if not matches:
            raise InputError(f"no recipe '{name}'; {nearest(name, known)}")
        files |= {file.resolve(): file for file in matches}
    recipes = [load(file) for file in files.values()]
    for index, recipe in enumerate(recipes):
        twin = next(other for other in recipes if other.id == recipe.id)
        if twin is not recipe:
            both = f"{list(files.values())[recipes.index(twin)]} and {list(files.values())[index]}"
            raise InputError(f"{both} have one id, '{recipe.id}', and would share their results; change one")
    return recipes


def load_recipe(name: str | Path) -> Recipe:
    """One recipe by id or path of a YAML file; InputError where there is none, or a glob names several."""
    recipes = select([str(name)])
    if len(recipes) > 1:
        raise InputError(f"'{name}' names {len(recipes)} recipes; give one")
    return recipes[0]
