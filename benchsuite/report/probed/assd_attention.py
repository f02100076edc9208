"""Where ASSD looks from the cells behind its best detections, level by level, and on average (its figure 3)."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from benchsuite.report.figures._style import ACCENT, WIDTH, headline, style
from benchsuite.report.probed._arrays import Arrays, crop, named


def draw(arrays: Arrays, title: str) -> Figure:
    """A row for each detection: its box in the image, then ā_i over the image at each level, from blue, its lowest
    value, to red, a cross on the query's cell; the level of the detection's own anchor is in bold. The last row is the
    mean over all queries."""
    levels = sorted(int(name.rpartition("_")[2]) for name in named(arrays, "attention_", "attention units"))
    image, boxes = arrays["image"], arrays["boxes"]
    grey = image.mean(axis=2)
    down, across = len(boxes) + 1, len(levels) + 1
    with style():
        height = WIDTH / across * image.shape[0] / image.shape[1]
        figure = Figure(figsize=(WIDTH, down * (height + 0.13) + 0.5), dpi=300, layout="constrained")
        headline(figure, f"{title}: attention behind the best detections")
        panels = figure.subplots(down, across, squeeze=False)
        for place, row in enumerate(panels[:-1]):
            row[0].imshow(image)
            _box(row[0], boxes[place])
            origin = int(arrays["levels"][place])
            row[0].set_title(f"score {float(arrays['scores'][place]):.2f}, level {origin}", fontsize=6, weight="normal")
            for axes, level in zip(row[1:], levels, strict=True):
                _overlay(axes, grey, arrays[f"attention_{level}"][place].astype(np.float32))
                _query(axes, arrays[f"cells_{level}"][place], arrays[f"mean_{level}"].shape, image.shape)
                axes.set_title(f"level {level}", fontsize=6, weight="bold" if level == origin else "normal")
        panels[-1, 0].imshow(image)
        panels[-1, 0].set_title("mean over all cells", fontsize=6, weight="normal")
        for axes, level in zip(panels[-1, 1:], levels, strict=True):
            _overlay(axes, grey, arrays[f"mean_{level}"].astype(np.float32))
            axes.set_title(f"level {level}", fontsize=6, weight="normal")
        for axes in panels.flat:
            crop(axes, image)
    return figure


def _overlay(axes: Axes, grey: NDArray[np.floating], attention: NDArray[np.floating]) -> None:
    """Each map by itself from its lowest value to its highest, smoothly over the whole image."""
    height, width = grey.shape
    axes.imshow(grey, cmap="gray")
    axes.imshow(attention, cmap="jet", alpha=0.5, extent=(0, width, height, 0), interpolation="bilinear")


def _query(axes: Axes, cell: NDArray[np.generic], cells: tuple[int, ...], pixels: tuple[int, ...]) -> None:
    y, x = ((int(at) + 0.5) * side / count for at, count, side in zip(cell, cells, pixels, strict=False))
    axes.plot(x, y, "x", color="white", markersize=4, markeredgewidth=1.2)


def _box(axes: Axes, box: NDArray[np.generic]) -> None:
    left, top, right, bottom = (float(side) for side in box)
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=ACCENT, linewidth=1.2))
