"""What `bench compare --format json` prints, as types: `docs/compare.schema.json` is made of them.

AP is 0–100; a difference is a row minus its baseline, or a claim's first row minus its second; what was not measured
or cannot be told is null. Fields are added without notice; none is renamed or taken away without another `schema`.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class SummaryForm(_Form):
    """Mean and standard deviation over `n` seeds, the 95 % interval of the mean (Student's t); null for one seed."""

    n: int
    mean: float
    deviation: float | None
    low: float | None
    high: float | None


class CellForm(_Form):
    """A cell of the table: as published, as measured, and the difference to the row's baseline.

    `values` has one value for each of the section's `seeds`. `fidelity` is given at the paper tier on the paper's data.
    """

    published: float | None
    published_std: float | None
    measured: SummaryForm | None
    values: tuple[float | None, ...]
    published_difference: float | None
    difference: SummaryForm | None
    fidelity: Literal["reproduced", "within noise", "off", "not settled"] | None


class RowForm(_Form):
    """A row of the table; its cells by column."""

    id: str
    label: str
    role: str
    status: Literal["done", "partial", "failed", "not_run", "quoted"]
    baseline: str | None
    device: str
    deviations: tuple[str, ...]
    reason: str
    cells: Mapping[str, CellForm]


class ColumnForm(_Form):
    """A column: its id, what the table prints above it, which way is better, and the decimals that are printed."""

    id: str
    label: str
    better: Literal["higher", "lower"]
    decimals: int


class ImagesForm(_Form):
    """A claim's difference under one seed, and its 95 % interval over images."""

    seed: int
    difference: float
    low: float
    high: float


class TogetherForm(_Form):
    """The 95 % interval over images of the mean difference under these seeds."""

    seeds: tuple[int, ...]
    low: float
    high: float


class ClaimForm(_Form):
    """A claim of the paper and what became of it: `better` beats `than` on a column by more than `by`, or `close` is
    within `within` of `to`.

    p           of the difference from the claim's bound, with `df` degrees of freedom, held to `level` (Holm)
    detectable  the distance from the bound that these seeds would have settled
    equivalent_within  the smallest bound within which they show two rows claimed to be close
    both        the 95 % interval of the difference over seeds and images
    published   the paper's difference
    """

    on: str
    better: str | None
    than: str | None
    by: float
    close: str | None
    to: str | None
    within: float | None
    quote: str
    text: str
    verdict: Literal["holds", "fails", "not settled"]
    difference: SummaryForm | None
    p: float | None
    df: float | None
    level: float | None
    detectable: float | None
    equivalent_within: float | None
    images: tuple[ImagesForm, ...]
    images_together: TogetherForm | None
    both: tuple[float, float] | None
    published: float | None
    note: str


class AgreementForm(_Form):
    """How a column's measured differences go with the published ones: equal signs among `signed`, Kendall's τ-b."""

    rows: int
    signs: int
    signed: int
    tau: float | None


class ForeignForm(_Form):
    """Another framework's row minus a row of the table on a column: of means over seeds, with the 95 % intervals over
    images and, with seeds on both sides, over seeds and images."""

    row: str
    other: str
    on: str
    difference: SummaryForm
    images: tuple[float, float] | None
    both: tuple[float, float] | None


class DataForm(_Form):
    """The data; `papers_own`: the very data and protocol of the published table."""

    name: str
    fingerprint: str
    papers_own: bool


class SectionForm(_Form):
    """One results file. `agreement` is by column, of columns with at least two differences."""

    recipe: str
    paper: str
    cite: str
    table: str
    title: str
    tier: Literal["smoke", "mini", "paper"]
    data: DataForm
    protocol: str
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]
    columns: tuple[ColumnForm, ...]
    rows: tuple[RowForm, ...]
    claims: tuple[ClaimForm, ...]
    foreign: tuple[ForeignForm, ...]
    agreement: Mapping[str, AgreementForm]


class SideForm(_Form):
    """A tier, and its data."""

    tier: Literal["smoke", "mini", "paper"]
    data: str


class TierForm(_Form):
    """How a table's differences at one tier go with those at a higher one, by column; and of the claims that both
    settle, how many alike."""

    recipe: str
    lower: SideForm
    higher: SideForm
    agreement: Mapping[str, AgreementForm]
    claims_alike: int
    claims_settled_in_both: int


class Document(_Form):
    """Results files, each compared with its paper; and one tier with another, where a table was run at both."""

    schema_: Literal[1] = Field(1, alias="schema")
    sections: tuple[SectionForm, ...]
    tiers: tuple[TierForm, ...]


def checked(form: Mapping[str, Any]) -> dict[str, Any]:
    """A form of `bench compare`, which must be as described here."""
    return Document.model_validate(form).model_dump(mode="json", by_alias=True)


def described() -> str:
    """The JSON Schema of `Document`, as `docs/compare.schema.json` has it."""
    return json.dumps(Document.model_json_schema(by_alias=True), indent=1, ensure_ascii=False) + "\n"
