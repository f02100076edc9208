"""One look for all figures: sizes of a two-column paper, colours that everybody can tell apart, no ornament."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from benchsuite.errors import shortened, visible
from benchsuite.recipe.form import LONGEST_LABEL
from benchsuite.recipe.recipe import Column
from benchsuite.report.grids import meaning, provenance
from benchsuite.report.results import Results, RowRecord

# Okabe and Ito's colours for colour-blind readers (jfly.uni-koeln.de/color), dark enough on white first.
OURS, PAPER, ACCENT = "#0072B2", "#9A9A9A", "#D55E00"
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")
HATCHED: dict[str, Any] = {"fill": False, "edgecolor": "#B0B0B0", "linewidth": 0.6, "hatch": "/////"}
"""The place of a number that is missing."""
LONGEST = 300
"""Letters of a title."""
WIDTH = 7.16
"""Width in inches of a page with two columns; 3.5 is one column."""

_RC: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,  # a tick says its whole number
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "hatch.linewidth": 0.5,
    "text.parse_math": False,  # a label is text, dollars and all
    "errorbar.capsize": 2,
    "lines.linewidth": 1,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "benchsuite",
}


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's settings for the time of drawing or writing; the caller's own are untouched."""
    with matplotlib.rc_context(_RC):
        yield


def new_figure(results: Results, height: float, width: float = WIDTH) -> Figure:
    """A figure for panels of that height in inches, 300 dpi, under a short title that says what is shown; tier, data,
    seeds and settings stand in a caption below: no number is seen without them."""
    warning = [meaning(results)] if results.tier == "smoke" else []
    # The caption names no device and no commit: they stand in the table and would crowd the page.
    bare = results.model_copy(update={"rows": (), "environment": {}, "earlier": ()})
    title = f"{shortened(results.title, LONGEST)} ({results.paper.id}, Table {shortened(results.table, LONGEST_LABEL)})"
    name = textwrap.wrap(title, round(11 * width))
    band = 0.33 + 0.16 * len(name) + 0.12 * len(warning)
    longest = max((len(row.name) for row in results.rows), default=0)
    total = height + band + 0.06 * max(0, longest - 14)  # room for long names under the panels
    figure = Figure(figsize=(width, total), dpi=300, layout=ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - band / total)))
    top = 1 - 0.05 / total
    figure.text(0.01, top, "\n".join(name), ha="left", va="top", fontsize=9.5, weight="bold")
    below = top - (0.02 + 0.16 * len(name)) / total
    figure.text(0.01, below, "\n".join(warning), ha="left", va="top", fontsize=7, color=ACCENT)
    caption(figure, provenance(bare))
    return figure


def caption(figure: Figure, text: str, color: str = "#555555") -> None:
    """Write what a figure was made with below it, in as many lines as it needs; the figure grows by them."""
    lines = textwrap.wrap(visible(shortened(text, 4 * LONGEST)), round(17 * figure.get_figwidth()))
    legends = [each for each in figure.legends if each.get_window_extent().y0 < figure.bbox.height / 2]
    # The layout keeps no room for a legend outside that is anchored elsewhere than at the figure's edge.
    room = max((legend.get_window_extent().height / figure.dpi for legend in legends), default=0.0)
    before, foot = figure.get_figheight(), 0.1 + 0.12 * len(lines)
    after, engine = before + foot + room, figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    left, bottom, width, height = engine.get()["rect"]
    engine.set(rect=(left, (bottom * before + foot + room) / after, width, height * before / after))
    for each in figure.texts:  # what stands there already stays where it is, counted from the top
        x, y = each.get_position()
        each.set_position((x, (y * before + foot + room) / after))
    for legend in legends:
        legend.set_bbox_to_anchor((0, foot / after, 1, 1 - foot / after), transform=figure.transFigure)
    figure.set_figheight(after)
    figure.text(0.01, 0.05 / after, "\n".join(lines), ha="left", va="bottom", fontsize=7, color=color)


def headline(figure: Figure, text: str) -> None:
    """What stands above pictures, in as many lines as it needs."""
    lines = textwrap.fill(visible(shortened(text, LONGEST)), round(17 * figure.get_figwidth()))
    figure.suptitle(lines, x=0.01, ha="left", fontsize=8)


def panel_title(axes: Axes, text: str) -> None:
    """What stands above a panel, in as many lines as its width needs."""
    place = axes.get_subplotspec()
    across = 1 if place is None else place.get_gridspec().ncols
    figure = axes.get_figure(root=True)
    assert figure is not None
    axes.set_title(textwrap.fill(text, max(8, round(11 * (figure.get_figwidth() / across - 0.4)))))


ACROSS = 3
"""Panels beside each other."""


def by_column(results: Results, panel: Callable[[Axes, Column], None], names: Sequence[str]) -> Figure:
    """A panel for each column of the table, its rows called `names`, and one legend."""
    down = -(-len(results.columns) // ACROSS)
    with style():
        figure = new_figure(results, 1.9 * down)
        panels = figure.subplots(down, min(ACROSS, len(results.columns)), squeeze=False, sharex=True)
        used = [axes for axes, _ in zip(panels.flat, results.columns, strict=False)]
        for axes, column in zip(used, results.columns, strict=True):
            panel(axes, column)
            row_names(axes, names)
        for axes in panels.flat[len(used) :]:
            axes.set_visible(False)
        legend(figure, *used)
    return figure


def legend(figure: Figure, *panels: Axes) -> None:
    """One legend for all panels, between the title and the panels."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(text, handle)
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    # The panels' own gap to the band is the legend's place.
    _, bottom, _, height = engine.get()["rect"]
    top = bottom + height + 0.02 / figure.get_figheight()
    figure.legend(list(found.values()), list(found), loc="lower left", bbox_to_anchor=(0.01, top), ncols=len(found),
                  handlelength=1.4, columnspacing=1.6, borderaxespad=0)  # fmt: skip


def row_names(axes: Axes, names: Sequence[str]) -> None:
    """Row names under the x axis; slanted where they would touch."""
    axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names), default=0) > 3 else 0)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))


def missing(rows: Sequence[RowRecord]) -> str:
    """What the legend says about rows without a number of ours."""
    return "not run or failed" if any(row.status == "failed" for row in rows) else "not run"
