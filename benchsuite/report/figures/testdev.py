"""Detectors on COCO test-dev as published, and our minival beside the paper's, a panel for each metric."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import FillStyleType

from benchsuite.recipe.recipe import MINIVAL, Column
from benchsuite.report.compare import Section, compare
from benchsuite.report.figures._style import (
    ACROSS,
    HATCHED,
    OURS,
    PAPER,
    legend,
    missing,
    new_figure,
    panel_title,
    style,
)
from benchsuite.report.grids import label
from benchsuite.report.results import Results


def draw(results: Results) -> Figure:
    """All rows, quoted ones too, as dots against their names: ours was measured on minival, so that it stands beside
    the paper's minival and is never one of the test-dev numbers. A column without a minival one is its own."""
    section = compare([results]).sections[0]
    ids = {column.id: column for column in results.columns}
    pairs = [(one, ids.get(MINIVAL + one.id, one)) for one in results.columns if not one.id.startswith(MINIVAL)]
    down = -(-len(pairs) // ACROSS)
    with style():
        figure = new_figure(results, down * max(1.5, 0.3 + 0.13 * len(results.rows)))
        panels = figure.subplots(down, min(ACROSS, len(pairs)), squeeze=False, sharey=True)
        used = [axes for axes, _ in zip(panels.flat, pairs, strict=False)]
        for axes, (testdev, minival) in zip(used, pairs, strict=True):
            _panel(axes, section, testdev, minival)
        for axes in panels.flat[len(used) :]:
            axes.set_visible(False)
        legend(figure, *used)
    return figure


def _panel(axes: Axes, section: Section, testdev: Column, minival: Column) -> None:
    rows = section.results.rows
    own = minival is testdev
    _printed(axes, section, testdev, "paper" if own else "paper, test-dev", fillstyle="full")
    if not own:
        _printed(axes, section, minival, "paper, minival", fillstyle="none")
    for y, row in enumerate(rows):
        ours = section.cells[row.id, minival.id].measured
        if ours is not None:
            axes.errorbar(ours.mean, y, xerr=ours.deviation or 0.0, fmt="o", color=OURS, markersize=3.5,
                          label="ours" if own else "ours, minival")  # fmt: skip
        elif row.role == "run":
            axes.axhspan(y - 0.4, y + 0.4, **HATCHED, label=missing([row]))
    panel_title(axes, label(testdev).removesuffix(" test-dev"))
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=6.5)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="both")


def _printed(axes: Axes, section: Section, column: Column, name: str, fillstyle: FillStyleType) -> None:
    """The published numbers of a column, where it has any."""
    cells = [section.cells[row.id, column.id].published for row in section.results.rows]
    known = [(value, y) for y, value in enumerate(cells) if value is not None]
    if known:
        axes.plot(*zip(*known, strict=True), "D", color=PAPER, fillstyle=fillstyle, markersize=3.5, label=name)
