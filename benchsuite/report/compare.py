"""Measured beside published: cells, differences to the baseline, verdicts on the paper's claims.

Every results file is a section of its own. Nothing is ever computed across files, so tiers, data sets and protocols
never mix; files of one recipe and one protocol form a group whose differences a table may print side by side.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from benchsuite.recipe.form import TIERS
from benchsuite.recipe.recipe import Column, Spread
from benchsuite.report.results import Results, RowRecord, published_value
from benchsuite.report.statistics import Agreement, Summary, agreement, summarise, two_levels, unpaired
from benchsuite.report.verdicts import ClaimVerdict, measured_difference, own_rows, published_difference, verdicts

Fidelity = Literal["reproduced", "within noise", "off", "not settled"]


@dataclass(frozen=True)
class Cell:
    """One cell of the table: what was published, what was measured, and the differences to the row's baseline.

    `difference` is paired over seeds, with the table's shrunk deviation (`statistics.contrast`). `fidelity` is given at
    the paper tier on the paper's data only: *reproduced* where the mean is within the tolerance of the published number
    (half a unit of the printed decimals, plus its printed deviation), *within noise* where only the interval over seeds
    reaches it, *off* where not even that, and *not settled* for one seed.
    """

    published: float | None = None
    published_std: float | None = None
    measured: Summary | None = None
    published_difference: float | None = None
    difference: Summary | None = None
    fidelity: Fidelity | None = None


@dataclass(frozen=True)
class ForeignDifference:
    """A foreign row minus a row of the table on a column: of their means over seeds, which share nothing. The 95 %
    intervals are over images, the same for both rows, and, with seeds on both sides, over seeds and images; None where
    the detections of the table's row were not at hand when the foreign row was added, or are of other seeds now."""

    row: str
    other: str
    on: str
    difference: Summary
    images: tuple[float, float] | None = None
    both: tuple[float, float] | None = None


@dataclass(frozen=True)
class Section:
    """One results file, compared with its paper."""

    results: Results
    cells: dict[tuple[str, str], Cell]
    claims: tuple[ClaimVerdict, ...]
    agreements: dict[str, Agreement]
    foreign: tuple[ForeignDifference, ...] = ()


@dataclass(frozen=True)
class TierAgreement:
    """How the differences of one tier go with those of a higher one, column by column, and of how many claims that
    both settle the verdicts are alike."""

    lower: Section
    higher: Section
    columns: dict[str, Agreement]
    alike: int
    settled: int


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
        """JSON of `bench compare`; `document` describes it."""
        tiers = [_tier_form(one) for group in self.groups for lower in group for one in tier_agreements(group, lower)]
        return {"schema": 1, "sections": [_section_form(section) for section in self.sections], "tiers": tiers}


def compare(results: Sequence[Results]) -> Comparison:
    """Set each file's numbers beside its paper's."""
    return Comparison(tuple(_section(one) for one in results))


def _section(results: Results) -> Section:
    cells = {(row.id, column.id): _cell(results, row, column) for row in results.rows for column in results.columns}
    agreements = {column.id: _agreement(results, cells, column) for column in results.columns}
    return Section(
        results,
        cells,
        verdicts(results),
        {name: a for name, a in agreements.items() if a is not None},
        tuple(_foreign(results)),
    )


def _foreign(results: Results) -> Iterator[ForeignDifference]:
    """Every foreign row against every row of the table, on the columns that claims are about, or on the first."""
    columns = list(dict.fromkeys(claim.on for claim in results.claims)) or [results.columns[0].id]
    for row in results.rows:
        known = {(each.row, each.on): each for each in row.foreign.against} if row.foreign else {}
        for other in own_rows(results) if row.foreign else ():
            for column in columns:
                theirs = results.values(other.id, column)
                found = unpaired(list(results.values(row.id, column).values()), list(theirs.values()))
                if found is None:
                    continue
                difference, df = found
                images = both = None
                record = known.get((other.id, column))
                # It is of these numbers, and not of what stood here before.
                if record and set(record.seeds) == theirs.keys() and abs(record.difference - difference.mean) < 1e-6:
                    images = (record.low, record.high)
                    both = two_levels(difference, df, images) if difference.error is not None else None
                yield ForeignDifference(row.id, other.id, column, difference, images, both)


def tier_agreements(group: Sequence[Section], lower: Section) -> Iterator[TierAgreement]:
    """How far a section may be trusted to tell what those of higher tiers among `group` told; smoke may not."""
    order = [tier for tier in TIERS if tier != "smoke"]
    if lower.results.tier not in order:
        return
    for higher in group:
        if higher.results.tier in order[order.index(lower.results.tier) + 1 :]:
            columns = {column.id: _between(lower, higher, column.id) for column in lower.results.columns}
            verdicts = {_same(claim): claim.verdict for claim in higher.claims if claim.verdict != "not settled"}
            both = [claim for claim in lower.claims if claim.verdict != "not settled" and _same(claim) in verdicts]
            alike = sum(verdicts[_same(claim)] == claim.verdict for claim in both)
            known = {name: found for name, found in columns.items() if found is not None}
            yield TierAgreement(lower, higher, known, alike, len(both))


def _same(claim: ClaimVerdict) -> tuple[object, ...]:
    """What makes it the same claim in another run."""
    return claim.claim.rows, claim.claim.on, claim.claim.by, claim.claim.within


def _between(lower: Section, higher: Section, column: str) -> Agreement | None:
    pairs = [
        (cell.difference.mean, other.difference.mean)
        for key, cell in lower.cells.items()
        if key[1] == column and cell.difference and (other := higher.cells.get(key)) and other.difference
    ]
    return agreement([mine for mine, _ in pairs], [theirs for _, theirs in pairs])


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
    difference = published_difference(results, column.id, row.id, row.baseline)
    found = measured_difference(results, column.id, row.id, row.baseline)
    return replace(cell, published_difference=difference, difference=found[0] if found else None)


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


def _section_form(section: Section) -> dict[str, Any]:
    results = section.results
    return {
        "recipe": results.recipe,
        "paper": results.paper.id,
        "cite": results.paper.cite,
        "table": results.table,
        "title": results.title,
        "tier": results.tier,
        "data": results.data.model_dump(),
        "protocol": results.protocol,
        "overrides": list(results.overrides),
        "seeds": list(results.seeds),
        "rows": [
            {"id": row.id, "label": row.name, "role": row.role, "status": row.status, "baseline": row.baseline,
             "device": row.device, "deviations": list(row.deviations), "reason": row.reason,
             "cells": {column.id: _cell_form(section, row, column) for column in results.columns}}
            for row in results.rows
        ],
        "columns": [
            {"id": column.id, "label": column.name, "better": column.better, "decimals": column.decimals}
            for column in results.columns
        ],
        "claims": [
            {**claim.claim.model_dump(), "text": claim.text, "verdict": claim.verdict, "p": claim.p,
             "df": claim.df, "level": claim.level, "detectable": claim.detectable,
             "equivalent_within": claim.equivalent_within, "both": claim.both,
             "published": claim.published, "note": claim.note,
             "difference": asdict(claim.difference) if claim.difference else None}
            for claim in section.claims
        ],
        "foreign": [asdict(each) for each in section.foreign],
        "agreement": {name: asdict(agreement) for name, agreement in section.agreements.items()},
    }  # fmt: skip


def _cell_form(section: Section, row: RowRecord, column: Column) -> dict[str, Any]:
    """With the raw values, one for each of the section's seeds."""
    values = section.results.values(row.id, column.id)
    raw = [values.get(seed) for seed in section.results.seeds]
    return {**asdict(section.cells[row.id, column.id]), "values": raw}


def _tier_form(one: TierAgreement) -> dict[str, Any]:
    sides = {"lower": one.lower.results, "higher": one.higher.results}
    return {
        "recipe": one.lower.results.recipe,
        **{side: {"tier": results.tier, "data": results.data.name} for side, results in sides.items()},
        "agreement": {name: asdict(agreement) for name, agreement in one.columns.items()},
        "claims_alike": one.alike,
        "claims_settled_in_both": one.settled,
    }
