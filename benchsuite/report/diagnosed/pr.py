"""Precision against recall: the mean over classes at several IoU thresholds, and each class at 0.5."""

from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchsuite.report.diagnosed import Curves
from benchsuite.report.figures._style import PALETTE, WIDTH, caption, headline, style

FEW = len(PALETTE)
"""Classes that have a colour each; of more, the best and the worst half as many."""


def draw(found: Curves, title: str) -> Figure:
    """Two panels on one axis."""
    with style():
        figure = Figure(figsize=(WIDTH, 3.0), dpi=300, layout="constrained")
        headline(figure, "Precision and recall")
        left, right = figure.subplots(1, 2, sharey=True)
        shades = colormaps["viridis"](np.linspace(0.05, 0.9, len(found.thresholds)))
        for (name, curve), colour in zip(found.thresholds.items(), shades, strict=True):
            left.plot(found.recalls, curve, color=colour, label=f"IoU {name} ({100 * curve.mean():.1f})")
        left.set_title("mean over classes (AP)")
        _classes(right, found.recalls, found.classes)
        for axes in (left, right):
            axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall")
            axes.grid()
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=6.5)
        left.set_ylabel("precision")
        caption(figure, f"{title}. COCO's matching; in brackets AP.")
    return figure


def _classes(axes: Axes, recalls: NDArray[np.float64], curves: Mapping[str, NDArray[np.float64]]) -> None:
    defined = {name: curve for name, curve in curves.items() if not np.isnan(curve).any()}
    ranked = sorted(defined, key=lambda name: -float(defined[name].mean()))
    named = ranked if len(ranked) <= FEW else [*ranked[: FEW // 2], *ranked[-(FEW // 2) :]]
    for name in ranked:
        if name not in named:
            axes.plot(recalls, defined[name], color="#DDDDDD", linewidth=0.6)
    for name, colour in zip(named, PALETTE, strict=False):
        axes.plot(recalls, defined[name], color=colour, label=f"{name} ({100 * defined[name].mean():.1f})")
    axes.set_title("each class at IoU 0.5" if len(named) == len(ranked) else "classes at IoU 0.5, best and worst")
