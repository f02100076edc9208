"""Verdicts on a paper's claims, from the seeds of its table: *holds*, *fails* or *not settled*."""

import math
from dataclasses import dataclass, replace

from benchsuite.report.results import ClaimRecord, Results, RowRecord, published_value
from benchsuite.report.statistics import (
    LEVEL,
    Summary,
    Verdict,
    contrast,
    differences,
    holm,
    p_value,
    seeds_needed,
    t_quantile,
    two_levels,
)


@dataclass(frozen=True)
class ClaimVerdict:
    """What became of a claim: paired difference, verdict at Holm's `level`, p, and a note for the reader.

    `difference` has the table's shrunk deviation, with `df` degrees of freedom (`statistics.contrast`). `detectable` is
    the distance from the claim's bound that these seeds would have settled, and `equivalent_within`, for a claim that
    two rows are close, the smallest bound within which these seeds show them. `both` is the 95 % interval over seeds
    and images, `published` the paper's difference.
    """

    claim: ClaimRecord
    text: str
    verdict: Verdict
    published: float | None = None
    difference: Summary | None = None
    p: float | None = None
    df: float | None = None
    level: float | None = None
    detectable: float | None = None
    equivalent_within: float | None = None
    both: tuple[float, float] | None = None
    note: str = ""

    @property
    def beside(self) -> bool:
        """Whether the paper's difference lies outside the 95 % interval of ours; one without width tells nothing."""
        found = self.difference
        if self.published is None or found is None or found.low is None or found.high is None:
            return False
        return found.low < found.high and not found.low <= self.published <= found.high


def verdicts(results: Results) -> tuple[ClaimVerdict, ...]:
    """Verdicts on all claims of the table, which share one error rate."""
    tested = [_tested(results, claim) for claim in results.claims]
    levels = holm([verdict.p for verdict in tested])
    passed = [verdict.p is not None and verdict.p <= level for verdict, level in zip(tested, levels, strict=True)]
    open_ = len(tested) - sum(passed)
    return tuple(
        _settled(results, verdict, level, LEVEL / (open_ + passes))
        for verdict, level, passes in zip(tested, levels, passed, strict=True)
    )


def _tested(results: Results, claim: ClaimRecord) -> ClaimVerdict:
    first, second = claim.rows
    found = measured_difference(results, claim.on, first, second)
    published = published_difference(results, claim.on, first, second)
    verdict = ClaimVerdict(claim, _text(results, claim), "not settled", published, found[0] if found else None)
    if results.tier == "smoke":
        return replace(verdict, note="smoke: numbers mean nothing")
    if found is None:
        return replace(verdict, note="not measured")
    difference, df = found
    if difference.error is None:
        return replace(verdict, note="one seed settles nothing")
    p = p_value(_margin(results, claim, difference.mean), difference.error, df)
    together = claim.images_together
    pairs = differences(results.values(first, claim.on), results.values(second, claim.on))
    # Those that are of the values here, and not of an earlier run's.
    fresh = tuple(one for one in claim.images if abs(one.difference - pairs.get(one.seed, math.inf)) < 1e-5)
    verdict = replace(verdict, p=p, df=df, claim=claim.model_copy(update={"images": fresh}))
    if together is None or set(together.seeds) != pairs.keys() or len(fresh) < len(claim.images):
        return verdict
    each = [(one.difference, one.low, one.high) for one in fresh] if len(fresh) == len(pairs) else []
    return replace(verdict, both=two_levels(difference, df, (together.low, together.high), each))


def _settled(results: Results, verdict: ClaimVerdict, level: float, last: float) -> ClaimVerdict:
    """With what becomes of it at its `level`; had its difference been smaller, it would have been held to the `last`
    that the other settled ones leave."""
    difference = verdict.difference
    if verdict.p is None or verdict.df is None or difference is None or difference.error is None:
        return verdict
    margin = _margin(results, verdict.claim, difference.mean)
    reach = t_quantile(last, verdict.df) * difference.error
    within = None if verdict.claim.within is None else abs(difference.mean) + reach
    settled = replace(verdict, level=level, detectable=reach, equivalent_within=within)
    if verdict.p <= level:
        note = "the difference is the same for all seeds" if difference.deviation == 0 else ""
        return replace(settled, verdict="holds" if margin > 0 else "fails", note=note)
    return replace(settled, note=_remedy(settled, margin, level))


def _remedy(verdict: ClaimVerdict, margin: float, level: float) -> str:
    """Why a claim is not settled, and what would settle it."""
    found = verdict.difference
    assert found is not None and found.deviation is not None and verdict.p is not None and verdict.df is not None
    if found.deviation == 0 and margin:
        return "two seeds of equal differences settle nothing; take a third"
    needed = seeds_needed(margin, found.deviation, level, verdict.df - (found.n - 1))
    enough = f"about {needed} seeds would settle it" if needed else "too close to settle by seeds"
    alone = "settled were it the only claim; " if verdict.p <= LEVEL else ""
    return f"{alone}{enough} if mean and spread stay as they are"


def _margin(results: Results, claim: ClaimRecord, difference: float) -> float:
    return claim.margin(difference, {column.id: column.better for column in results.columns}[claim.on] == "lower")


def _text(results: Results, claim: ClaimRecord) -> str:
    first, second = (results.row(row_id).name for row_id in claim.rows)
    label = {column.id: column.name for column in results.columns}[claim.on]
    return claim.sentence(first, second, label)


def own_rows(results: Results) -> list[RowRecord]:
    """The rows that were trained here."""
    return [row for row in results.rows if row.role == "run"]


def published_difference(results: Results, column: str, first: str, second: str) -> float | None:
    """`first` minus `second` as the paper prints them, without what floats leave of decimals."""
    printed = [published_value(results.row(row).published.get(column)) for row in (first, second)]
    decimals = {each.id: each.decimals for each in results.columns}[column]
    return None if printed[0] is None or printed[1] is None else round(printed[0] - printed[1], max(decimals, 0) + 6)


def measured_difference(results: Results, column: str, first: str, second: str) -> tuple[Summary, float] | None:
    """`first` minus `second`, and its degrees of freedom: the same for a cell and for a claim."""
    rows = dict.fromkeys([first, second, *(row.id for row in own_rows(results))])
    trained = {row.id: row.trained for row in results.rows}
    return contrast({row: results.values(row, column) for row in rows}, first, second, trained)
