"""Which class was found as which, what was missed, and what was found where nothing is."""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchsuite.errors import shortened
from benchsuite.report.diagnosed import Confusion
from benchsuite.report.figures._style import WIDTH, caption, headline, style

MOST, NAME = 20, 18
"""Classes that are shown, those of most confusion with each other; letters of a name."""


def draw(found: Confusion, title: str) -> Figure:
    """Shares of each true class; counts in the cells where they can be read."""
    shown = _shown(found)
    true = [shortened(found.classes[k], NAME) for k in shown]
    counts = found.counts[np.ix_([*shown, -1], [*shown, -1])]
    whole = found.counts[[*shown, -1]].sum(axis=1, keepdims=True)
    shares = np.divide(counts, whole, out=np.zeros(counts.shape), where=whole > 0)
    shares[-1] = 0  # of nothing there is no share
    with style():
        side = min(WIDTH, 1.9 + 0.33 * len(counts))
        figure = Figure(figsize=(max(side, 4.2), side), dpi=300, layout="constrained")
        fewer = f", the {len(shown)} classes most confused of {len(found.classes)}" if len(shown) < len(
            found.classes) else ""  # fmt: skip
        headline(figure, "True and found classes")
        axes = figure.subplots()
        drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(counts)), [*true, "missed"], rotation=90)
        axes.set_yticks(range(len(counts)), [*true, "nothing"])
        axes.set(xlabel="found", ylabel="true")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.axhline(len(shown) - 0.5, color="black", linewidth=0.6)
        axes.axvline(len(shown) - 0.5, color="black", linewidth=0.6)
        size = 7.0 if len(counts) <= 10 else 5.0
        for row, column in np.argwhere(counts > 0).tolist():
            colour = "white" if shares[row, column] > 0.55 else "black"
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=size, color=colour)
        caption(figure, f"{title}. COCO's matching at IoU 0.5, scores of at least {found.least:g}{fewer}.")
        figure.colorbar(drawn, ax=axes, shrink=0.7, label="share of the true class")
    return figure


def _shown(found: Confusion) -> list[int]:
    """In their order."""
    between: NDArray[np.int64] = found.counts[:-1, :-1].copy()
    np.fill_diagonal(between, 0)
    most = np.argsort(-(between.sum(axis=0) + between.sum(axis=1)), kind="stable")[:MOST]
    return sorted(most.tolist())
