"""Differences to the baseline on small, medium and large objects, side by side for each variant."""

from matplotlib.figure import Figure

from benchsuite.report.compare import compare
from benchsuite.report.figures import bars
from benchsuite.report.figures._style import HATCHED, PALETTE, legend, missing, new_figure, row_names, style
from benchsuite.report.figures.differences import with_baseline
from benchsuite.report.results import Results

SIZES = {"APs": "small", "APm": "medium", "APl": "large"}


def draw(results: Results) -> Figure:
    """ΔAPs, ΔAPm, ΔAPl of every row that has a baseline: ours as bars, the paper's as marks upon them.

    A table without these columns, or without a baseline, is drawn as its bars.
    """
    section, rows = compare([results]).sections[0], with_baseline(results)
    columns = [column for column in results.columns if column.id in SIZES]
    if not columns or not rows:
        return bars.draw(results)
    width = 0.8 / len(columns)
    with style():
        figure = new_figure(results, 2.4)
        axes = figure.subplots()
        axes.axhline(0, color="black", linewidth=0.6)
        for place, column in enumerate(columns):
            shift = (place - (len(columns) - 1) / 2) * width
            cells = [(x + shift, section.cells[row.id, column.id]) for x, row in enumerate(rows)]
            ours = [(x, cell.difference.mean) for x, cell in cells if cell.difference is not None]
            printed = [(x, cell.published_difference) for x, cell in cells if cell.published_difference is not None]
            name = SIZES[column.id]
            axes.bar([x for x, _ in ours], [value for _, value in ours], 0.9 * width, color=PALETTE[place],
                     label=f"{name}, ours")  # fmt: skip
            axes.plot([x for x, _ in printed], [value for _, value in printed], "D", color=PALETTE[place],
                      markeredgecolor="black", markeredgewidth=0.5, markersize=4, label=f"{name}, paper")  # fmt: skip
            for x, cell in cells:
                if cell.difference is None:
                    axes.axvspan(x - 0.45 * width, x + 0.45 * width, **HATCHED, label=missing(rows))
        axes.set_ylabel("Δ AP")
        row_names(axes, [row.name for row in rows])
        legend(figure, axes)
    return figure
