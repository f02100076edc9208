"""The channel weights of both tasks, sorted by those of the class task (HAR-Net)."""

import numpy as np
from matplotlib.figure import Figure

from benchsuite.report.figures._style import ACCENT, OURS, WIDTH, headline, style
from benchsuite.report.probed._arrays import Arrays, named


def draw(arrays: Arrays, title: str) -> Figure:
    """The channels' weights of both tasks; sorted by those of the class task, so that a common order would show.

    Separate blocks (SE) have a panel for each level.
    """
    named(arrays, "weights_", "channel attention")
    cls, box = (np.atleast_2d(arrays[f"weights_{task}"].astype(np.float32)) for task in ("cls", "box"))
    with style():
        figure = Figure(figsize=(WIDTH, 0.5 + 1.5 * len(cls)), dpi=300, layout="constrained")
        headline(figure, f"{title}: channel weights")
        panels = figure.subplots(len(cls), 1, squeeze=False, sharey=True)[:, 0]
        for level, (axes, ours, other) in enumerate(zip(panels, cls, box, strict=True), 3):
            order = np.argsort(-ours, kind="stable")
            axes.plot(ours[order], color=OURS, label="classes")
            axes.plot(other[order], ".", color=ACCENT, markersize=3, label="boxes")
            axes.set_xlabel("channel, sorted by the weight for classes")
            axes.set_ylabel("weight")
            axes.set_title("all levels" if len(cls) == 1 else f"P{level}", fontsize=7)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure
