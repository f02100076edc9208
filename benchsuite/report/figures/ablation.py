"""The ablation table at a glance: values above, differences to the baseline below, a column of panels each."""

from matplotlib.figure import Figure

from benchsuite.report.compare import compare
from benchsuite.report.figures import bars, differences
from benchsuite.report.figures._style import WIDTH, legend, new_figure, row_names, style
from benchsuite.report.results import Results

ROOM = 45
"""Pairs of bars that fit beside each other on a page; a longer table shows its first columns only."""


def draw(results: Results) -> Figure:
    """Ours and the paper's: values with the deviation over seeds, differences with their 95 % interval."""
    section = compare([results]).sections[0]
    columns = results.columns[: max(1, ROOM // len(results.rows))]
    if not differences.with_baseline(results):
        return bars.draw(results)
    width = min(WIDTH, 2 + len(columns) * len(results.rows) * 0.22)
    with style():
        figure = new_figure(results, 3.4, width)
        panels = figure.subplots(2, len(columns), squeeze=False)
        for index, column in enumerate(columns):
            bars.panel(panels[0, index], section, column)
            row_names(panels[0, index], [""] * len(results.rows))
            differences.panel(panels[1, index], section, column, results.rows)
            row_names(panels[1, index], [row.name for row in results.rows])
        legend(figure, *panels[:, 0])
    return figure
