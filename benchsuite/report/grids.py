"""What the tables say, as grids of text: one content for the terminal and for Markdown.

Every measured number stands on a line marked `ours`, every published one on a line marked `paper`; a cell without a
number shows a dash. Tier and data stand above every table.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchsuite.recipe.recipe import Column
from benchsuite.report.compare import Cell, Comparison, ForeignDifference, Section, TierAgreement, tier_agreements
from benchsuite.report.results import ImageInterval, Results, RowRecord
from benchsuite.report.statistics import Summary
from benchsuite.report.verdicts import ClaimVerdict

MISSING = "–"
SEEDS_TOLD = 3  # each by itself; of more, how many


@dataclass(frozen=True)
class Grid:
    """A table of text: its title, what a reader must know first, head and lines, and what follows below.

    Columns in `words` are set to the left, the others, numbers, to the right. `prose`: the words are sentences.
    """

    title: str
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    words: frozenset[int]
    caption: str = ""
    notes: tuple[str, ...] = ()
    prose: bool = False


def number(value: float | None, decimals: int) -> str:
    """A number with its decimals, a dash for none; zero has no sign."""
    if value is None:
        return MISSING
    return f"{round(value, decimals) + 0.0:.{max(decimals, 0)}f}".replace("-", "−")


def signed(value: float | None, decimals: int) -> str:
    """A difference: always with a sign, unless it is printed as zero."""
    text = number(value, decimals)
    return f"+{text}" if value is not None and round(value, decimals) > 0 else text


def with_deviation(summary: Summary | None, decimals: int) -> str:
    """Mean and standard deviation over seeds; the mean alone for one seed."""
    if summary is None or summary.deviation is None:
        return number(summary.mean if summary else None, decimals)
    return f"{number(summary.mean, decimals)} ±{number(summary.deviation, decimals)}"


def with_reach(summary: Summary | None, decimals: int) -> str:
    """Mean difference and half the width of its 95 % interval; the mean alone for one seed."""
    if summary is None or summary.high is None:
        return signed(summary.mean if summary else None, decimals)
    return f"{signed(summary.mean, decimals)} ±{number(summary.high - summary.mean, decimals)}"


def with_interval(summary: Summary | None, decimals: int) -> str:
    """Mean difference and its 95 % interval."""
    if summary is None or summary.low is None:
        return signed(summary.mean if summary else None, decimals)
    return f"{signed(summary.mean, decimals)} [{signed(summary.low, decimals)}, {signed(summary.high, decimals)}]"


def label(column: Column) -> str:
    """What the table prints above the column."""
    return column.name


def heading(results: Results) -> str:
    """Name of the table: recipe, number and title."""
    return f"{results.recipe}: {results.title} (Table {results.table})"


def provenance(results: Results) -> str:
    """Tier, data, protocol, seeds, device, commit and overrides in one line."""
    devices = dict.fromkeys(row.device for row in results.rows if row.device)
    environments = (results.environment, *results.earlier)
    commits = dict.fromkeys(str(env["commit"]) for env in environments if env.get("commit"))
    parts = [
        f"tier {results.tier}",
        f"data {results.data.name}" + ("" if results.data.papers_own else " (not the paper's)"),
        f"protocol {results.protocol}",
        ("seeds " if len(results.seeds) > 1 else "seed ") + ", ".join(map(str, results.seeds)),
        *([f"device {', '.join(devices)}"] if devices else []),
        *([f"commit {', '.join(commits)}"] if commits else []),
        *([f"set {', '.join(results.overrides)}"] if results.overrides else []),
    ]
    return " · ".join(parts)


def meaning(results: Results) -> str:
    """What the numbers do and do not mean, in one sentence."""
    if results.tier == "smoke":
        return "smoke: numbers mean nothing; they show that the whole path runs."
    if results.tier == "mini":
        return "mini: a small experiment; signs and sizes of differences may be compared with the paper's, values not."
    if not results.data.papers_own:
        return "Other data or settings than the paper's: differences may be compared with the paper's, values not."
    return "The paper's data and settings: values may be compared with the paper's."


def grids(comparison: Comparison, values_only: bool = False) -> list[Grid]:
    """Every table of a comparison, in reading order; `values_only` leaves differences and claims out."""
    if values_only:
        return [_values(section) for section in comparison.sections]
    found: list[Grid] = []
    for group in comparison.groups:
        for section in group:
            found += section_grids(section, group)
        if len(group) > 1:
            found += list(_side_by_side(group))
    return found


def section_grids(section: Section, group: Sequence[Section]) -> list[Grid]:
    """The tables of one results file; beside its verdicts stands how far those of `group` at higher tiers agree."""
    made = (_values(section), _differences(section), _claims(section, group), _foreign(section))
    return [grid for grid in made if grid.lines]


def footnotes(results: Results) -> tuple[list[str], dict[str, str]]:
    """Numbered remarks (deviations, reasons, citations), and for each row its name with their marks.

    What holds for every measured row is said once and marks none.
    """
    measured = [row for row in results.rows if row.measured]
    common = [text for text in (measured[0].deviations if measured else ())
              if all(text in row.deviations for row in measured)]  # fmt: skip
    remarks: dict[str, int] = {}
    names: dict[str, str] = {}
    for row in results.rows:
        texts = [*(text for text in row.deviations if text not in common), *filter(None, (row.reason, row.cite))]
        marks = ",".join(str(remarks.setdefault(text, len(remarks) + 1)) for text in texts)
        names[row.id] = row.name + _status(results, row) + (f" [{marks}]" if marks else "")
    return [*(f"All rows: {text}" for text in common), *(f"[{n}] {text}" for text, n in remarks.items())], names


def _status(results: Results, row: RowRecord) -> str:
    if row.status == "partial":
        most = max((sum(value is not None for value in cell.values) for cell in row.measured.values()), default=0)
        return f" ({most} of {len(results.seeds)} seeds)"
    return {"failed": " (failed)", "not_run": " (not run)", "quoted": " (quoted)"}.get(row.status, "")


def _values(section: Section) -> Grid:
    results = section.results
    notes, names = footnotes(results)
    lines: list[tuple[str, ...]] = []
    for row in results.rows:
        cells = [(section.cells[row.id, column.id], column.decimals) for column in results.columns]
        if row.role != "quoted":
            lines.append((names[row.id], "ours", *(with_deviation(cell.measured, d) for cell, d in cells)))
        if row.published:
            name = names[row.id] if row.role == "quoted" else ""
            lines.append((name, "paper", *(_published(cell, d) for cell, d in cells)))
        if any(cell.fidelity for cell, _ in cells):
            lines.append(("", "verdict", *(cell.fidelity or MISSING for cell, _ in cells)))
    several = any(cell.measured and cell.measured.n > 1 for cell in section.cells.values())
    return Grid(
        title=heading(results),
        caption=f"{provenance(results)}\n{meaning(results)}",
        head=("", "", *(label(column) for column in results.columns)),
        lines=tuple(lines),
        words=frozenset({0, 1}),
        notes=(*(["± is the standard deviation over seeds."] if several else []), *notes),
    )


def _published(cell: Cell, decimals: int) -> str:
    deviation = "" if cell.published_std is None else f" ±{number(cell.published_std, decimals)}"
    return number(cell.published, decimals) + deviation


def _differences(section: Section) -> Grid:
    results = section.results
    rows = [row for row in results.rows if row.baseline is not None]
    baselines = list(dict.fromkeys(row.baseline for row in rows if row.baseline is not None))
    lines: list[tuple[str, ...]] = []
    for row in rows:
        cells = [(section.cells[row.id, column.id], column.decimals) for column in results.columns]
        name = row.name if len(baselines) == 1 else f"{row.name} − {results.row(row.baseline or '').name}"
        lines.append((name, "ours", *(with_reach(cell.difference, d) for cell, d in cells)))
        if any(cell.published_difference is not None for cell, _ in cells):
            lines.append(("", "paper", *(signed(cell.published_difference, d) for cell, d in cells)))
    if section.agreements:
        found = [section.agreements.get(column.id) for column in results.columns]
        lines += [
            ("same sign", "", *(f"{a.signs} of {a.signed}" if a else MISSING for a in found)),
            ("Kendall's τ", "", *(signed(a.tau, 2) if a else MISSING for a in found)),
        ]
    title = f"Differences to {results.row(baselines[0]).name}" if len(baselines) == 1 else "Differences"
    several = any(cell.difference and cell.difference.n > 1 for cell in section.cells.values())
    note = "± is half the 95 % interval, paired over seeds, variances of rows drawn towards the table's."
    return Grid(
        title=f"{title} ({results.tier}, {results.data.name})",
        head=("", "", *(label(column) for column in results.columns)),
        lines=tuple(lines),
        words=frozenset({0, 1}),
        notes=(note,) if several else (),
    )


def _claims(section: Section, group: Sequence[Section]) -> Grid:
    results = section.results
    columns = {column.id: column.decimals for column in results.columns}
    lines = tuple(_claim(claim, columns[claim.claim.on]) for claim in section.claims)
    together = "" if len(lines) < 2 else "; the claims of the table share that error rate (Holm)"
    return Grid(
        title=f"Claims ({results.tier}, {results.data.name})",
        head=("claim", "verdict", "paper", "ours, 95 % interval", "remark"),
        lines=lines,
        words=frozenset({0, 1, 4}),
        prose=True,
        notes=(
            f"Verdicts at 5 %, seeds as blocks, variances of rows drawn towards the table's{together}. "
            "What could have been seen is a distance from the claim's bound.",
            *(_trust(one) for one in tier_agreements(group, section)),
        ),
    )


def _trust(one: TierAgreement) -> str:
    """How far verdicts of a lower tier may be trusted."""
    names = {column.id: label(column) for column in one.lower.results.columns}
    parts = [
        f"{names[name]} {found.signs} of {found.signed} signs, τ {signed(found.tau, 2)}"
        for name, found in one.columns.items()
    ]
    lower, higher = (f"{each.results.tier} ({each.results.data.name})" for each in (one.lower, one.higher))
    claims = f"{one.alike} of {one.settled} claims that both settle alike"
    return f"Differences of {lower} against {higher}: {'; '.join([*parts, claims])}."


def _foreign(section: Section) -> Grid:
    """Foreign rows against the table's own."""
    results = section.results
    found = {(each.row, each.other, each.on): each for each in section.foreign}
    on = set(column for _, _, column in found)
    columns = [column for column in results.columns if column.id in on]
    lines = tuple(
        (results.row(row).name, results.row(other).name,
         *(_foreign_cell(found.get((row, other, column.id)), column.decimals + 1) for column in columns))
        for row, other in dict.fromkeys((row, other) for row, other, _ in found)
    )  # fmt: skip
    notes = [
        "Differences of means; seeds of others share nothing with ours. [ ] is the 95 % interval over images, the same "
        "for both rows, or over seeds and images where both rows have several seeds."
    ]
    if any(each.images is None for each in section.foreign):
        notes.append("Without an interval: the store lacked the row's detections; run the row, then add-row again.")
    return Grid(
        title=f"Foreign rows ({results.tier}, {results.data.name})",
        head=("", "against", *(label(column) for column in columns)),
        lines=lines,
        words=frozenset({0, 1}),
        notes=tuple(notes),
    )


def _foreign_cell(found: ForeignDifference | None, decimals: int) -> str:
    if found is None:
        return MISSING
    interval = found.both or found.images
    if interval is None:
        return signed(found.difference.mean, decimals)
    low, high = (signed(side, decimals) for side in interval)
    return f"{signed(found.difference.mean, decimals)} [{low}, {high}]"


def _claim(claim: ClaimVerdict, printed: int) -> tuple[str, ...]:
    """A line of the claims' table; the paper prints so many decimals."""
    paper, decimals = signed(claim.published, printed), printed + 1  # an interval is read against a bound
    parts = [claim.note]
    if claim.beside:
        parts.append(f"the paper's {paper} lies outside")
    if claim.detectable:
        parts.append(f"could have seen {number(claim.detectable, decimals)}")
    if claim.equivalent_within is not None:
        parts.append(f"equivalent within {number(claim.equivalent_within, decimals)}")
    if claim.both is not None:
        low, high = (signed(side, decimals) for side in claim.both)
        parts.append(f"over seeds and images [{low}, {high}]")
    remark = "; ".join(filter(None, [*parts, _over_images(claim.claim.images, decimals)]))
    return claim.text, claim.verdict, paper, with_interval(claim.difference, decimals), remark


def _over_images(images: Sequence[ImageInterval], decimals: int) -> str:
    """Each seed's difference with its interval over images; of many seeds, how many lie clear of zero."""
    if len(images) > SEEDS_TOLD:
        clear = sum(image.low > 0 or image.high < 0 for image in images)
        return f"over images alone {clear} of {len(images)} seeds lie clear of zero"
    told = (
        f"seed {image.seed} {signed(image.difference, decimals)} "
        f"[{signed(image.low, decimals)}, {signed(image.high, decimals)}]"
        for image in images
    )
    return f"over images: {', '.join(told)}" if images else ""


def _side_by_side(group: Sequence[Section]) -> Iterable[Grid]:
    """Differences of several runs of one recipe beside each other, for the columns that claims are about."""
    first = group[0].results
    claimed = {claim.on for section in group for claim in section.results.claims} or {first.columns[0].id}
    runs = [f"{r.tier}, {r.data.name}" + (f", {' '.join(r.overrides)}" if r.overrides else "")
            for r in (section.results for section in group)]  # fmt: skip
    for column in first.columns:
        if column.id not in claimed:
            continue
        lines = []
        for row in first.rows:
            cells = [section.cells.get((row.id, column.id)) for section in group]
            if row.baseline is not None and cells[0] is not None:
                ours = (with_reach(cell.difference if cell else None, column.decimals) for cell in cells)
                lines.append((row.name, signed(cells[0].published_difference, column.decimals), *ours))
        yield Grid(
            title=f"{first.recipe}: differences on {label(column)}, side by side",
            head=("", "paper", *runs),
            lines=tuple(lines),
            words=frozenset({0}),
            notes=("Runs of unlike tier, data or settings: each has differences of its own, none across runs.",),
        )
