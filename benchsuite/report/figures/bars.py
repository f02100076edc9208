"""Grouped bars: what we measured beside what was published, a panel for each column of the table."""

from math import nan

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchsuite.recipe.recipe import Column
from benchsuite.report.compare import Section, compare
from benchsuite.report.figures._style import ACCENT, HATCHED, OURS, PAPER, by_column, missing, panel_title
from benchsuite.report.grids import label
from benchsuite.report.results import Results


def draw(results: Results) -> Figure:
    """All cells of the table, with the standard deviation over seeds."""
    section = compare([results]).sections[0]
    return by_column(results, lambda axes, column: panel(axes, section, column), [row.name for row in results.rows])


def panel(axes: Axes, section: Section, column: Column) -> None:
    """One column of the table: a pair of bars per row, a hatched outline where ours is missing."""
    rows = section.results.rows
    cells = [section.cells[row.id, column.id] for row in rows]
    printed = [(x, cell.published) for x, cell in enumerate(cells) if cell.published is not None]
    ours = [(x, cell.measured) for x, cell in enumerate(cells) if cell.measured is not None]
    values = [value for _, value in printed] + [one.mean for _, one in ours]
    absent = [x for x, cell in enumerate(cells) if cell.measured is None and rows[x].role == "run"]
    several = any(one.deviation is not None for _, one in ours)
    for role, name, colour in (("run", "ours", OURS), ("foreign", "foreign", ACCENT)):
        bars = [(x, one) for x, one in ours if rows[x].role == role]
        if bars:
            axes.bar(
                [x - 0.2 for x, _ in bars], [one.mean for _, one in bars], 0.38, color=colour,
                yerr=[nan if one.deviation is None else one.deviation for _, one in bars] if several else None,
                error_kw={"linewidth": 0.8, "capsize": 1.5},
                label=f"{name} (± s.d. over seeds)" if several else f"{name} (one seed)",
            )  # fmt: skip
    if printed:
        axes.bar([x + 0.2 for x, _ in printed], [value for _, value in printed], 0.38, color=PAPER, label="paper")
    if absent:
        axes.bar([x - 0.2 for x in absent], max(values, default=1.0), 0.38, **HATCHED,
                 label=missing([rows[x] for x in absent]))  # fmt: skip
    panel_title(axes, label(column))
