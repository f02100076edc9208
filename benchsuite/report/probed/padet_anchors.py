"""Scores of anchors at each level, positive ones before and after promotion, and their IoU (PADet's figure 4)."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from benchsuite.errors import InputError
from benchsuite.report.figures._style import ACCENT, OURS, WIDTH, headline, style
from benchsuite.report.probed._arrays import Arrays, crop

SIDES = {"before": OURS, "after": ACCENT}
BINS = np.linspace(0.5, 1, 6)


def draw(arrays: Arrays, title: str) -> Figure:
    """(a) each level's highest score of a cell, dark where low; (b, c) positive anchors and how many, truth in white;
    (d) positives by IoU."""
    if any(name not in arrays for name in (*SIDES, "before_iou", "after_iou")):
        raise InputError("the run has no promoted anchors to draw; choose a row that has")
    image = arrays["image"]
    scores = sorted(name for name in arrays if name.startswith("score_"))
    with style():
        heights = [*([WIDTH / 6] if scores else []), WIDTH / 3 * image.shape[0] / image.shape[1]]
        figure = Figure(figsize=(WIDTH, sum(heights) + 0.8), dpi=300, layout="constrained")
        headline(figure, f"{title}: anchors before and after promotion")
        parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)
        if scores:
            for axes, name in zip(parts[0, 0].subplots(1, len(scores), squeeze=False)[0], scores, strict=True):
                axes.imshow(arrays[name], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axes.set_title(f"(a) level {name.removeprefix('score_')}", fontsize=7)
                axes.set(xticks=(), yticks=())
        panels = parts[-1, 0].subplots(1, 3)
        for axes, letter, (side, colour) in zip(panels, "bc", SIDES.items(), strict=False):
            _boxes(axes, image, arrays["truth"], arrays[side], colour)
            axes.set_title(f"({letter}) {side}: {len(arrays[side])} positives", fontsize=7)
        _histogram(panels[2], {side: arrays[f"{side}_iou"] for side in SIDES})
    return figure


def _boxes(
    axes: Axes, image: NDArray[np.generic], truth: NDArray[np.generic], boxes: NDArray[np.generic], colour: str
) -> None:
    axes.imshow(image)
    for corners, edge, width in ((boxes, colour, 0.7), (truth, "white", 0.9)):
        for left, top, right, bottom in corners.astype(float).tolist():
            axes.add_patch(
                Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=edge, linewidth=width)
            )
    crop(axes, image)


def _histogram(axes: Axes, overlaps: Arrays) -> None:
    values = [overlaps[side].astype(float) for side in SIDES]
    axes.hist(values, BINS.tolist(), color=list(SIDES.values()), label=list(SIDES))
    axes.set_title("(d) positives by IoU", fontsize=7)
    axes.set(xticks=BINS, xlabel="IoU with the truth")
    axes.legend()
