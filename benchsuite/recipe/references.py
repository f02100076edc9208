"""Whether what a recipe refers to is in it, and each of its names stands once."""

from collections.abc import Sequence

from benchsuite.errors import InputError, nearest
from benchsuite.recipe.form import TIERS
from benchsuite.recipe.recipe import Recipe
from benchsuite.recipe.yamlfile import Document, Origin


def check_references(recipe: Recipe, document: Document) -> None:
    """InputError, with file and line, at the first name that is unknown, stands twice or refers to itself."""
    _check_columns(recipe, document)
    _check_rows(recipe, document)
    if recipe.baseline is not None:
        _known("row", recipe.baseline, [row.id for row in recipe.rows], document.origin(("baseline",)))
    for tier in recipe.tiers:
        _known("tier", tier, TIERS, document.origin(("tiers", tier)))
        recipe.seeds_of(tier)
    _check_claims(recipe, document)


def _check_columns(recipe: Recipe, document: Document) -> None:
    for index, column in enumerate(recipe.column_ids):
        if recipe.column_ids.index(column) != index:
            raise InputError(f"{document.origin(('columns', index))}: column '{column}' stands twice; take one out")


def _check_rows(recipe: Recipe, document: Document) -> None:
    ids = [row.id for row in recipe.rows]
    for index, row in enumerate(recipe.rows):
        place = document.origin(("rows", index, "id"))
        if ids.index(row.id) != index:
            raise InputError(f"{place}: row id '{row.id}' stands twice; rename one")
        for column in row.published:
            _known("column", column, recipe.column_ids, document.origin(("rows", index, "published", column)))
        for other in filter(None, (row.same_as, row.baseline)):
            _known("row", other, ids, place)
        if row.same_as == row.id:
            raise InputError(f"{place}: row '{row.id}' is `same_as` itself; name the other row, or leave it out")


def _check_claims(recipe: Recipe, document: Document) -> None:
    for index, claim in enumerate(recipe.claims):
        place = document.origin(("claims", index))
        for row in claim.rows:
            _known("row", row, [row.id for row in recipe.rows], place)
        if claim.rows[0] == claim.rows[1]:
            raise InputError(f"{place}: the claim compares row '{claim.rows[0]}' with itself; name another")
        _known("column", claim.on, recipe.column_ids, place)


def _known(what: str, name: str, there: Sequence[str], place: Origin) -> None:
    if name not in there:
        raise InputError(f"{place}: no {what} '{name}'; {nearest(name, there)}")
