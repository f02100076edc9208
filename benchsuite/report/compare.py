"""Measured beside published: cells, differences to the baseline, verdicts on the paper's claims.

Every results file is a section of its own. Nothing is ever computed across files, so tiers, data sets and protocols
never mix; files of one recipe and one protocol form a group whose differences a table may print side by side.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from benchsuite.recipe.recipe import Column, Spread
from benchsuite.report.results import ClaimRecord, Results, RowRecord, published_value
from benchsuite.report.statistics import (
    LEVEL,
    Agreement,
    Summary,
    Verdict,
    agreement,
    contrast,
    differences,
    holm,
    p_value,
    seeds_needed,
    summarise,
    t_quantile,
    two_levels,
)

Fidelity = Literal["reproduced", "within noise", "off", "not settled"]


@dataclass(frozen=True)
class Cell:
    """One cell of the table: what was published, what was measured, and the differences to the row's baseline.

    `difference` is paired over seeds. `fidelity` is given at the paper tier on the paper's data only: *reproduced*
    where the mean is within the tolerance of the published number (half a unit of the printed decimals, plus its
    printed deviation), *within noise* where only the interval over seeds reaches it, *off* where not even that, and
    *not settled* for one seed.
    """

    published: float | None = None
    published_std: float | None = None
    measured: Summary | None = None
    published_difference: float | None = None
    difference: Summary | None = None
    fidelity: Fidelity | None = None


@dataclass(frozen=True)
class ClaimVerdict:
    """What became of a claim: paired difference, verdict at Holm's `level`, p, and a note for the reader.

    `difference` has the table's shrunk deviation, with `df` degrees of freedom (`statistics.contrast`). `detectable` is
    the distance from the claim's bound that these seeds would have settled, and `equivalent_within`, for a claim that
    two rows are close, the smallest bound within which these seeds show them. `both` is the 95 % interval over seeds
    and images.
    """

    claim: ClaimRecord
    text: str
    verdict: Verdict
    difference: Summary | None = None
    p: float | None = None
    df: float | None = None
    level: float | None = None
    detectable: float | None = None
    equivalent_within: float | None = None
    both: tuple[float, float] | None = None
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One results file, compared with its paper."""

    results: Results
    cells: dict[tuple[str, str], Cell]
    claims: tuple[ClaimVerdict, ...]
    agreements: dict[str, Agreement]


@dataclass(frozen=True)
class Comparison:
    """The sections, in the order of their files."""

    sections: tuple[Section, ...]

    @property
    def groups(self) -> list[list[Section]]:
        """Sections of the same recipe and protocol together."""
        groups: dict[tuple[str, str], list[Section]] = {}
        for section in self.sections:
            groups.setdefault((section.results.recipe, section.results.protocol), []).append(section)
        return list(groups.values())

    @property
    def failed(self) -> bool:
        """Whether a claim fails or a cell is *off*; what is not settled does neither."""
        return any(
            any(claim.verdict == "fails" for claim in section.claims)
            or any(cell.fidelity == "off" for cell in section.cells.values())
            for section in self.sections
        )

    def form(self) -> dict[str, Any]:
        """JSON of `bench compare`."""
        return {"sections": [_section_form(section) for section in self.sections]}


def compare(results: Sequence[Results]) -> Comparison:
    """Set each file's numbers beside its paper's."""
    return Comparison(tuple(_section(one) for one in results))


def _section(results: Results) -> Section:
    cells = {(row.id, column.id): _cell(results, row, column) for row in results.rows for column in results.columns}
    agreements = {column.id: _agreement(results, cells, column) for column in results.columns}
    return Section(results, cells, _verdicts(results), {name: a for name, a in agreements.items() if a is not None})


def _cell(results: Results, row: RowRecord, column: Column) -> Cell:
    printed = row.published.get(column.id)
    cell = Cell(
        published=published_value(printed),
        published_std=printed.std if isinstance(printed, Spread) else None,
        measured=summarise(list(results.values(row.id, column.id).values())),
    )
    cell = replace(cell, fidelity=_fidelity(results, cell, column))
    if row.baseline is None or "quoted" in (row.role, results.row(row.baseline).role):
        return cell
    other = published_value(results.row(row.baseline).published.get(column.id))
    difference = None
    if cell.published is not None and other is not None:
        difference = round(cell.published - other, max(column.decimals, 0) + 6)
    pairs = differences(results.values(row.id, column.id), results.values(row.baseline, column.id))
    return replace(cell, published_difference=difference, difference=summarise(list(pairs.values())))


def _fidelity(results: Results, cell: Cell, column: Column) -> Fidelity | None:
    if results.tier != "paper" or not results.data.papers_own or cell.published is None or cell.measured is None:
        return None
    if cell.measured.low is None or cell.measured.high is None:
        return "not settled"
    # A number within rounding of the printed one is the printed one; the last digits of floats are no difference.
    tolerance = 0.5 * 10.0**-column.decimals + (cell.published_std or 0.0) + 1e-9
    if abs(cell.measured.mean - cell.published) <= tolerance:
        return "reproduced"
    reached = cell.measured.low - tolerance <= cell.published <= cell.measured.high + tolerance
    return "within noise" if reached else "off"


def _agreement(results: Results, cells: dict[tuple[str, str], Cell], column: Column) -> Agreement | None:
    if results.tier == "smoke":
        return None
    pairs = [
        (cell.difference.mean, cell.published_difference)
        for row in results.rows
        if (cell := cells[row.id, column.id]).difference is not None and cell.published_difference is not None
    ]
    return agreement([measured for measured, _ in pairs], [published for _, published in pairs])


def _verdicts(results: Results) -> tuple[ClaimVerdict, ...]:
    """Verdicts on all claims of the table, which share one error rate."""
    tested = [_tested(results, claim) for claim in results.claims]
    levels = holm([verdict.p for verdict in tested])
    return tuple(_settled(results, verdict, level) for verdict, level in zip(tested, levels, strict=True))


def _tested(results: Results, claim: ClaimRecord) -> ClaimVerdict:
    first, second = claim.rows
    found = contrast({row.id: results.values(row.id, claim.on) for row in results.rows}, first, second)
    verdict = ClaimVerdict(claim, _text(results, claim), "not settled", found[0] if found else None)
    if results.tier == "smoke":
        return replace(verdict, note="smoke: numbers mean nothing")
    if found is None:
        return replace(verdict, note="not measured")
    difference, df = found
    if difference.error is None:
        return replace(verdict, note="one seed settles nothing")
    p = p_value(_margin(results, claim, difference.mean), difference.error, df)
    together = claim.images_together
    seeds = differences(results.values(first, claim.on), results.values(second, claim.on)).keys()
    if together is not None and set(together.seeds) == seeds:
        verdict = replace(verdict, both=two_levels(difference, df, (together.low, together.high)))
    return replace(verdict, p=p, df=df)


def _settled(results: Results, verdict: ClaimVerdict, level: float) -> ClaimVerdict:
    difference = verdict.difference
    if verdict.p is None or verdict.df is None or difference is None or difference.error is None:
        return verdict
    margin = _margin(results, verdict.claim, difference.mean)
    tightest = level or LEVEL / len(results.claims)
    reach = t_quantile(tightest, verdict.df) * difference.error
    within = None if verdict.claim.within is None else abs(difference.mean) + reach
    settled = replace(verdict, level=level, detectable=reach, equivalent_within=within)
    if verdict.p <= level:
        note = "the difference is the same for all seeds" if difference.deviation == 0 else ""
        return replace(settled, verdict="holds" if margin > 0 else "fails", note=note)
    return replace(settled, note=_remedy(results, settled, margin, tightest))


def _remedy(results: Results, verdict: ClaimVerdict, margin: float, level: float) -> str:
    """Why a claim is not settled, and what would settle it."""
    assert verdict.difference is not None and verdict.difference.deviation is not None and verdict.p is not None
    rows = sum(bool(results.values(row.id, verdict.claim.on)) for row in results.rows)
    needed = seeds_needed(margin, verdict.difference.deviation, level, rows)
    enough = f"about {needed} seeds would settle it" if needed else "too close to settle by seeds"
    alone = "settled were it the only claim; " if verdict.p <= LEVEL else ""
    return f"{alone}{enough} if the spread stays as it is"


def _margin(results: Results, claim: ClaimRecord, difference: float) -> float:
    """How far a difference lies on the claim's side of its bound; negative on the other side."""
    if claim.within is not None:
        return claim.within - abs(difference)
    lower = {column.id: column.better for column in results.columns}[claim.on] == "lower"
    return (-difference if lower else difference) - claim.by


def _text(results: Results, claim: ClaimRecord) -> str:
    first, second = (results.row(row_id).name for row_id in claim.rows)
    label = {column.id: column.name for column in results.columns}[claim.on]
    return claim.sentence(first, second, label)


def _section_form(section: Section) -> dict[str, Any]:
    results = section.results
    return {
        "recipe": results.recipe,
        "tier": results.tier,
        "data": results.data.model_dump(),
        "protocol": results.protocol,
        "overrides": list(results.overrides),
        "seeds": list(results.seeds),
        "rows": [
            {"id": row.id, "status": row.status, "baseline": row.baseline,
             "cells": {column.id: asdict(section.cells[row.id, column.id]) for column in results.columns}}
            for row in results.rows
        ],
        "claims": [
            {**claim.claim.model_dump(), "text": claim.text, "verdict": claim.verdict, "p": claim.p,
             "df": claim.df, "level": claim.level, "detectable": claim.detectable,
             "equivalent_within": claim.equivalent_within, "both": claim.both,
             "note": claim.note,
             "difference": asdict(claim.difference) if claim.difference else None}
            for claim in section.claims
        ],
        "agreement": {name: asdict(agreement) for name, agreement in section.agreements.items()},
    }  # fmt: skip
