"""Results files: what one run of a recipe measured, published beside the code and kept in git.

The form is versioned (`SCHEMA`): a file of an older schema stays readable, one of a newer schema is refused. Raw
values of every seed are kept; a mean is never stored without them. Nothing here imports torch.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from benchsuite.disk import read_json
from benchsuite.errors import InputError, shortened
from benchsuite.recipe.form import LONGEST_LABEL, Id, Outer, Seeds
from benchsuite.recipe.recipe import Claim, Column, Paper, Published, Spread
from benchsuite.settings import flat_errors

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA = 1
LARGEST = 1e100  # of a measured value: its square is a number too
CURE = "delete or restore it, and let `bench run` write it again: what was finished is kept"
Tier = Literal["smoke", "mini", "paper"]
RowStatus = Literal["done", "partial", "failed", "not_run", "quoted"]


Key = Annotated[str, Field(pattern=r"^\w[^/\\]{0,199}$")]  # it names a folder of the store


class _Record(Outer):
    model_config = ConfigDict(populate_by_name=True)


class DataRecord(_Record):
    """The data the numbers were measured on. `papers_own`: the very data and protocol of the published table, so
    that a measured cell may be held against a published one."""

    name: str
    fingerprint: str
    papers_own: bool = False

    @property
    def told(self) -> str:
        """Name and fingerprint."""
        return f"{self.name} (fingerprint {self.fingerprint})"


class Measured(_Record):
    """One cell: a value per seed of the results, None where that seed measured nothing; and their mean."""

    mean: float | None
    values: tuple[float | None, ...]

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Measured":
        """The cell of these values, one per seed of the results in the order of `Results.seeds`."""
        return cls(mean=_mean(values), values=tuple(values))

    @model_validator(mode="after")
    def _mean_of_values(self) -> "Measured":
        expected = _mean(self.values)
        both = self.mean is not None and expected is not None
        if not (
            math.isclose(self.mean or 0, expected or 0, rel_tol=1e-6, abs_tol=1e-9) if both else self.mean is expected
        ):
            raise ValueError(f"its mean is {self.mean}, its values give {expected}")
        if any(abs(value) > LARGEST for value in self.values if value is not None):
            raise ValueError(f"a value beyond {LARGEST:g} is no measurement")
        return self


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present else None


class ForeignFile(_Record):
    """A file of detections that somebody else made, of one seed."""

    seed: int
    name: str
    sha256: str


class Against(_Record):
    """A foreign row minus a row of the table on a column: the difference of their means over seeds, under `seeds` in
    the table's row, with its 95 % interval over images, each draw of images the same for both."""

    row: Id
    on: str
    seeds: tuple[int, ...]
    difference: float
    low: float
    high: float


class ForeignRecord(_Record):
    """Where a foreign row comes from, what scored it, and how it stands against the table's own rows."""

    files: tuple[ForeignFile, ...]
    scored_by: str
    against: tuple[Against, ...] = ()


class RowRecord(_Record):
    """One row of the table as it came out; a foreign row is of somebody else's detections, scored here.

    `settings` is the content key of the row's measuring jobs planned at seed 0: equal for equal settings whatever
    the seeds, "" where unknown. So is `trained` of its trainings: rows that have it in common are uses of one network.
    `keys` are the keys of the jobs that measured. `reason` says in one line why a row failed or was not run;
    `deviations` what differs from the paper.
    """

    id: Id
    label: str = ""
    role: Literal["run", "quoted", "foreign"] = "run"
    status: RowStatus
    cite: str = ""
    published: Mapping[str, Published] = Field(default_factory=dict)
    baseline: str | None = None
    measured: Mapping[str, Measured] = Field(default_factory=dict)
    settings: str = ""
    trained: str = ""
    keys: tuple[Key, ...] = ()
    device: str = ""
    deviations: tuple[str, ...] = ()
    reason: str = ""
    foreign: ForeignRecord | None = None

    @property
    def name(self) -> str:
        """What the table prints for the row."""
        return shortened(self.label or self.id, LONGEST_LABEL) + (" (foreign)" if self.role == "foreign" else "")


class ImageInterval(_Record):
    """Difference of a claim's rows under one seed, with its interval from a paired bootstrap over images."""

    seed: int
    difference: float
    low: float
    high: float


class ImagesTogether(_Record):
    """The 95 % interval over images of the mean difference over `seeds`, each draw of images the same for all."""

    seeds: tuple[int, ...]
    low: float
    high: float


class ClaimRecord(Claim):
    """A claim of the recipe and, where stored, its bootstrap intervals over images, of each seed and of their mean."""

    images: tuple[ImageInterval, ...] = ()
    images_together: ImagesTogether | None = None


class Results(_Record):
    """What a run of one recipe at one tier on one dataset measured."""

    schema_version: int = Field(default=SCHEMA, alias="schema")
    recipe: Id
    paper: Paper
    table: str
    title: str
    tier: Tier
    data: DataRecord
    protocol: str
    overrides: tuple[str, ...] = ()
    seeds: Seeds
    columns: tuple[Column, ...]
    rows: tuple[RowRecord, ...]
    claims: tuple[ClaimRecord, ...] = ()
    environment: Mapping[str, Any] = Field(default_factory=dict)
    earlier: tuple[Mapping[str, Any], ...] = ()
    """Environments of earlier runs, other than `environment`, that some kept cells come from."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Results":
        rows, columns = [row.id for row in self.rows], {column.id for column in self.columns}
        if len(set(rows)) < len(rows):
            raise ValueError("a row stands twice")
        for row in self.rows:
            unknown = sorted({*row.measured, *row.published} - columns)
            if unknown:
                raise ValueError(f"row '{row.id}' has a cell in column '{unknown[0]}', which the table has not")
            if row.baseline is not None and row.baseline not in rows:
                raise ValueError(f"row '{row.id}' has the baseline '{row.baseline}', which is no row")
            for column, cell in row.measured.items():
                if len(cell.values) != len(self.seeds):
                    raise ValueError(
                        f"row '{row.id}', column '{column}': {len(cell.values)} values for {len(self.seeds)} seeds"
                    )
        for claim in self.claims:
            if claim.on not in columns or not set(claim.rows) <= set(rows):
                raise ValueError(f"a claim is about {claim.rows} on '{claim.on}', which the table has not")
        return self

    def row(self, row_id: str) -> RowRecord:
        """The row of that id; KeyError where there is none."""
        return {row.id: row for row in self.rows}[row_id]

    def values(self, row_id: str, column: str) -> dict[int, float]:
        """Measured values of a cell by seed, missing ones left out."""
        cell = self.row(row_id).measured.get(column)
        pairs = zip(self.seeds, cell.values if cell else (), strict=False)
        return {seed: value for seed, value in pairs if value is not None}


def load(path: Path) -> Results:
    """Read a results file; InputError, one line, where it is missing, malformed, or of a newer schema."""
    if path.suffix != ".json" or not path.is_file():
        what = "is no results file" if path.exists() else "there is no such file"
        raise InputError(f"{path}: {what}; give one that `bench run` wrote, results/har-table1.mini.json")
    content = read_json(path, CURE)
    schema = content.get("schema") if isinstance(content, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise InputError(f"{path}: has no `schema` number, so it is no results file; give one that `bench run` wrote")
    if schema > SCHEMA:
        raise InputError(f"{path}: has schema {schema}, this benchsuite reads up to {SCHEMA}; upgrade benchsuite")
    try:
        return Results.model_validate(content)
    except ValidationError as error:
        where, message, _ = flat_errors(error)[0]
        place = ".".join(str(step) for step in where) or "the file"
        raise InputError(f"{path}: {place}: {message[0].lower() + message[1:]}; {CURE}") from None


def published_value(cell: Published) -> float | None:
    """The number of a published cell, its mean where a deviation is printed too."""
    return cell.mean if isinstance(cell, Spread) else cell


def to_frame(results: Results) -> "DataFrame":
    """Long form: one line per row, column and seed, with the published number beside the measured one (NaN where
    there is none). Columns: recipe, tier, data, protocol, row, label, role, status, baseline, column, seed, measured,
    published."""
    import pandas as pd

    lines = [
        {"recipe": results.recipe, "tier": results.tier, "data": results.data.name, "protocol": results.protocol,
         "row": row.id, "label": row.name, "role": row.role, "status": row.status, "baseline": row.baseline,
         "column": column.id, "seed": seed, "measured": results.values(row.id, column.id).get(seed),
         "published": published_value(row.published.get(column.id))}
        for row in results.rows for column in results.columns for seed in results.seeds
    ]  # fmt: skip
    frame = pd.DataFrame(lines)
    return frame.astype({"measured": float, "published": float}) if lines else frame
