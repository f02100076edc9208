"""A ladder for each baseline: from the baseline up through its variants, ours beside the paper's."""

from itertools import takewhile
from math import nan

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchsuite.recipe.recipe import Column
from benchsuite.report.compare import Section, compare
from benchsuite.report.figures._style import HATCHED, OURS, PAPER, legend, missing, new_figure, style
from benchsuite.report.grids import label
from benchsuite.report.results import Results, RowRecord

ACROSS = 6
"""Ladders beside each other."""


def draw(results: Results) -> Figure:
    """The table's first column, a panel for each baseline: its row, then those that name it, in their order."""
    section, column = compare([results]).sections[0], results.columns[0]
    groups = ladders(results)
    across = min(ACROSS, len(groups))
    down = -(-len(groups) // ACROSS)
    with style():
        figure = new_figure(results, 2.2 * down)
        panels = figure.subplots(down, across, squeeze=False, sharey=True)
        for axes, rows in zip(panels.flat, groups, strict=False):
            _panel(axes, section, column, rows)
        for axes in panels.flat[len(groups) :]:
            axes.set_visible(False)
        for axes in panels[:, 0]:
            axes.set_ylabel(label(column))
        legend(figure, *panels.flat)
    return figure


def ladders(results: Results) -> list[list[RowRecord]]:
    """Each baseline with the rows that name it; quoted rows are none, and without baselines all rows are one ladder."""
    rows = [row for row in results.rows if row.role == "run"]
    found = [[row, *(other for other in rows if other.baseline == row.id)] for row in rows if row.baseline is None]
    return [group for group in found if len(group) > 1] or [rows]


def _panel(axes: Axes, section: Section, column: Column, rows: list[RowRecord]) -> None:
    cells = [section.cells[row.id, column.id] for row in rows]
    printed = [(x, cell.published) for x, cell in enumerate(cells) if cell.published is not None]
    axes.plot([x for x, _ in printed], [value for _, value in printed], "D-", color=PAPER, markersize=4, label="paper")
    ours = [cell.measured for cell in cells]
    if any(ours):
        means = [nan if one is None else one.mean for one in ours]  # a gap where a step was not run
        spread = [nan if one is None or one.deviation is None else one.deviation for one in ours]
        axes.errorbar(range(len(rows)), means, spread, fmt="o-", color=OURS, markersize=4, label="ours")
    for x, row in enumerate(rows):
        if cells[x].measured is None:
            axes.axvspan(x - 0.3, x + 0.3, **HATCHED, label=missing([row]))
    shared = _shared([row.name for row in rows])
    axes.set_title(shared or rows[0].name, fontsize=7)
    axes.set_xticks(range(len(rows)), [row.name.removeprefix(shared).strip() for row in rows], rotation=90)
    axes.set_xlim(-0.5, max(1, len(rows)) - 0.5)
    axes.grid(axis="y")


def _shared(names: list[str]) -> str:
    """The words that all names begin with; they stand above the panel. None where a name has no others."""
    words = [name.split() for name in names]
    shared = [heads[0] for heads in takewhile(lambda heads: len(set(heads)) == 1, zip(*words, strict=False))]
    return "" if len(shared) == min(map(len, words)) else " ".join(shared)
