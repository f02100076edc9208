"""Differences to the baseline, ours with the 95 % interval over seeds beside the paper's: what other data can tell."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchsuite.recipe.recipe import Column
from benchsuite.report.compare import Cell, Section, compare
from benchsuite.report.figures._style import HATCHED, OURS, PAPER, by_column, missing, panel_title
from benchsuite.report.grids import label
from benchsuite.report.results import Results, RowRecord


def draw(results: Results) -> Figure:
    """Every row that has a baseline, a panel for each column of the table."""
    section, rows = compare([results]).sections[0], with_baseline(results)
    return by_column(results, lambda axes, column: panel(axes, section, column, rows), [row.name for row in rows])


def with_baseline(results: Results) -> tuple[RowRecord, ...]:
    """The rows whose difference to a baseline the table is about."""
    return tuple(row for row in results.rows if row.baseline is not None)


def panel(axes: Axes, section: Section, column: Column, rows: tuple[RowRecord, ...]) -> None:
    """One column of the table: for each row our difference with its interval, and the paper's."""
    cells = {x: section.cells[row.id, column.id] for x, row in enumerate(rows)}
    ours = [(x, cell.difference) for x, cell in cells.items() if cell.difference is not None]
    printed = [(x, cell.published_difference) for x, cell in cells.items() if cell.published_difference is not None]
    axes.axhline(0, color="black", linewidth=0.6)
    if printed:
        axes.plot([x + 0.2 for x, _ in printed], [value for _, value in printed], "D", color=PAPER, markersize=4,
                  label="paper")  # fmt: skip
    if ours:
        several = any(one.high is not None for _, one in ours)
        reach = [0.0 if one.high is None else one.high - one.mean for _, one in ours]
        axes.errorbar(
            [x - 0.2 for x, _ in ours], [one.mean for _, one in ours], reach if several else None, fmt="o",
            color=OURS, markersize=4, label="ours (95 % interval)" if several else "ours (one seed)",
        )  # fmt: skip
    absent = [x for x, cell in cells.items() if cell.difference is None and rows[x].baseline is not None]
    for x in absent:
        axes.axvspan(x - 0.39, x - 0.01, **HATCHED, label=missing([rows[other] for other in absent]))
    low, high = _limits(list(cells.values()))
    axes.set_ylim(low, high)
    panel_title(axes, f"Δ {label(column)}")


def _limits(cells: list[Cell]) -> tuple[float, float]:
    """Limits of the y axis that show every mean; an interval much wider than the means runs out of the frame."""
    means = [0.0, *(cell.published_difference for cell in cells if cell.published_difference is not None),
             *(cell.difference.mean for cell in cells if cell.difference is not None)]  # fmt: skip
    reached = [end for cell in cells if cell.difference for end in (cell.difference.low, cell.difference.high)
               if end is not None]  # fmt: skip
    span = (max(means) - min(means)) or 1.0
    low = max(min([*means, *reached]), min(means) - 1.5 * span)
    high = min(max([*means, *reached]), max(means) + 1.5 * span)
    return low - 0.12 * span, high + 0.12 * span
