"""Whether scores are probabilities: the share of detections that are right, by score, and how many there are."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from benchsuite.report.diagnosed import Calibration
from benchsuite.report.figures._style import ACCENT, OURS, caption, headline, style


def draw(found: Calibration, title: str) -> Figure:
    """Shares above, numbers below, on one axis of scores."""
    with style():
        figure = Figure(figsize=(4.2, 3.9), dpi=300, layout="constrained")
        errors = (
            f"distance of the two: mean {100 * found.mean_error:.1f} %, greatest {100 * found.greatest_error:.1f} %"
        )
        headline(figure, "Scores and what is right of them")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        width, start = np.diff(found.bounds), found.bounds[:-1]
        upper.plot([0, 1], [0, 1], "--", color="#9A9A9A", label="calibrated")
        upper.bar(start, np.nan_to_num(found.right), width, align="edge", color=OURS, edgecolor="white",
                  label="share that is right")  # fmt: skip
        filled = found.counts > 0
        upper.plot(
            found.scores[filled], found.right[filled], "o", color=ACCENT, markersize=3.5, label="at the mean score"
        )
        upper.set(ylim=(0, 1), xlim=(0, 1), ylabel="right")
        upper.legend(loc="upper left")
        lower.bar(start, found.counts, width, align="edge", color="#9A9A9A", edgecolor="white")
        if filled.any():
            lower.set_yscale("log")
            lower.set_ylim(bottom=0.8)
            lower.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            lower.yaxis.set_minor_formatter(NullFormatter())
        lower.set(xlabel="score", ylabel="detections")
        for axes in (upper, lower):
            axes.grid(axis="y")
        caption(figure, f"{title}. COCO's matching at IoU 0.5; {errors}.")
    return figure
