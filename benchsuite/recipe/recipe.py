"""A recipe: one published table as data. Here only its outer form; settings inside are checked when planned."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from benchsuite.errors import InputError, nearest, shortened
from benchsuite.recipe.form import LONGEST_LABEL, Id, Outer, Seeds, seeds_in
from benchsuite.recipe.yamlfile import Document, Origin, parse_value

MINIVAL = "minival_"
"""What the id of a column begins with that holds on minival (val2017) what the column of the rest of its id holds on
test-dev."""


class Spread(Outer):
    """A published cell printed as mean ± deviation."""

    mean: float
    std: float


Published = float | Spread | None


class Paper(Outer):
    """Where the table was published."""

    id: Id
    title: str
    cite: str


class Column(Outer):
    """A column of the table. `measures` is the name of the number that a job of the row leaves: the column's `id` where
    nothing else is said; None where only the paper's numbers fill it."""

    id: Id
    measures: str | None = ""
    label: str = ""
    better: Literal["higher", "lower"] = "higher"
    decimals: Annotated[int, Field(ge=0, le=10)] = 1

    @property
    def name(self) -> str:
        """What the table prints above the column."""
        return shortened(self.label or self.id, LONGEST_LABEL)

    @property
    def number(self) -> str | None:
        """The name of the number that is measured."""
        return self.id if self.measures == "" else self.measures


class Row(Outer):
    """One configuration, as its change to the base. `quoted` rows are printed, never run."""

    id: Id
    label: str = ""
    role: Literal["run", "quoted"] = "run"
    cite: str = ""
    same_as: str | None = None
    baseline: str | None = None
    published: Mapping[str, Published] = Field(default_factory=dict)
    change: Document = Field(default_factory=lambda: Document({}))
    tiers: Mapping[str, Document] = Field(default_factory=dict)


class Claim(Outer):
    """A sentence of the paper that can be checked: `better` beats `than` on a column by more than `by`, or `close`
    is within `within` of `to`."""

    on: str
    better: str | None = None
    than: str | None = None
    by: Annotated[float, Field(ge=0)] = 0.0
    close: str | None = None
    to: str | None = None
    within: Annotated[float, Field(ge=0)] | None = None
    quote: str = ""

    @model_validator(mode="after")
    def _one_form(self) -> "Claim":
        comparison = self.better is not None and self.than is not None
        closeness = self.close is not None and self.to is not None and self.within is not None
        mixed = any(each is not None for each in (self.close, self.to, self.within)) if comparison else bool(self.by)
        if comparison == closeness or mixed:
            raise ValueError(
                "a claim is {better: ROW, than: ROW, on: COLUMN, by: N} or {close: ROW, to: ROW, within: N, on: …}"
            )
        return self

    @property
    def rows(self) -> tuple[str, str]:
        """The two rows the claim is about, the first minus the second being the difference."""
        return (self.better or self.close or "", self.than or self.to or "")

    def margin(self, difference: float, lower: bool) -> float:
        """How far a difference lies on the claim's side of its bound, where `lower` values may be the better ones;
        negative on the other side. What floats leave of equal decimals is 0."""
        if self.within is not None:
            margin = self.within - abs(difference)
        else:
            margin = (-difference if lower else difference) - self.by
        return 0.0 if abs(margin) < 1e-9 else margin

    def sentence(self, first: str = "", second: str = "", column: str = "") -> str:
        """The claim in words, its rows and column by these names or by their ids."""
        first, second = first or self.rows[0], second or self.rows[1]
        column = column or self.on
        if self.within is not None:
            return f"{first} is within {self.within:g} of {second} on {column}"
        return f"{first} beats {second} on {column}" + (f" by more than {self.by:g}" if self.by else "")


class Recipe(Outer):
    """One published table (or figure)."""

    id: Id
    paper: Paper
    table: str
    title: str
    columns: Annotated[tuple[Column, ...], Field(min_length=1)]
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]
    baseline: str | None = None
    claims: tuple[Claim, ...] = ()
    seeds: Seeds = (0,)
    base: Document = Field(default_factory=lambda: Document({}))
    tiers: Mapping[str, Document] = Field(default_factory=dict)
    _file: Path | None = PrivateAttr(None)

    @property
    def called(self) -> str:
        """How the command line calls it: by its id, or by its file where that lies outside the project's recipes."""
        return self.id if self._file is None else self._file.as_posix()

    def row(self, row_id: str) -> Row:
        """The row of that id; InputError with the nearest name."""
        for row in self.rows:
            if row.id == row_id:
                return row
        raise InputError(f"{self.id}: no row '{row_id}'; {nearest(row_id, (row.id for row in self.rows))}")

    def with_row(self, row_id: str, *, like: str, change: Mapping[str, Any]) -> "Recipe":
        """The recipe with one more row: `like` another one, with `change` laid over its settings. InputError where the
        recipe has no row `like`, or `row_id` is no id or taken."""
        parent, own = self.row(like), Document(dict(change), {(): Origin(f"change of {row_id}", 0)})
        gone = tuple(self.base.merged(parent.change).exchanged(own))
        row = Row.model_validate(
            dict(parent)
            | {
                "id": row_id,
                "label": row_id,
                "published": {},
                "change": parent.change.less(gone).merged(own),
                "tiers": {tier: part.less(gone) for tier, part in parent.tiers.items()},
            }
        )
        if any(other.id == row_id for other in self.rows):
            raise InputError(f"{self.id}: row id '{row_id}' stands twice; choose another")
        return self.model_copy(update={"rows": (*self.rows, row)})

    def baseline_of(self, row: Row) -> str | None:
        """The row that differences of `row` are taken to; None for the baseline itself and for quoted rows."""
        chosen = row.baseline or self.baseline
        return None if row.role == "quoted" or chosen == row.id else chosen

    @cached_property
    def column_ids(self) -> tuple[str, ...]:
        """Ids of the columns in their order."""
        return tuple(column.id for column in self.columns)

    def seeds_of(self, tier: str) -> tuple[int, ...]:
        """Seeds of a tier, the recipe's own where the tier names none."""
        found = self.tier(tier)
        if "seeds" not in found.value:
            return self.seeds
        return seeds_in(found.value["seeds"], f"{found.origin(('seeds',))}: `tiers.{tier}.seeds`")

    def tier(self, tier: str) -> Document:
        """Settings of a tier; InputError where the recipe has no such tier."""
        if tier not in self.tiers:
            raise InputError(f"{self.id}: no tier '{tier}'; {nearest(tier, self.tiers)}")
        return self.tiers[tier]

    def compose(
        self, row: Row, tier: str, data: Mapping[str, Any] | None = None, overrides: Sequence[str] = ()
    ) -> Document:
        """The row's settings: base → tier → row → the row's own part for the tier → `--data` → `--set`, each laid over
        what was before (`Document.merged`)."""
        settings = self.base.merged(self.tier(tier).without(frozenset({"seeds"}))).merged(row.change)
        if tier in row.tiers:
            settings = settings.merged(row.tiers[tier])
        if data is not None:
            rest = settings.at("data").without(frozenset(data))
            chosen = rest.merged(Document(dict(data), {(name,): Origin("--data", 0) for name in data}))
            settings = settings.without(frozenset({"data"})).merged(chosen.below("data"))
        asked = Document({})  # together first: `--set a.name=Y --set a.kind=X` is one change
        for override in overrides:
            asked = asked.merged(_override(override))
        return settings.merged(asked)


def _override(text: str) -> Document:
    path, equals, value = text.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise InputError(f"--set {text}: is not PATH=VALUE; for instance --set solver.lr=0.01")
    tree: Any = parse_value(value)
    for key in reversed(keys):
        tree = {key: tree}
    return Document(tree, {tuple(keys[: n + 1]): Origin(f"--set {text}", 0) for n in range(len(keys))})
