"""Pictures with boxes: the truth beside what was predicted."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from benchsuite.errors import shortened, visible
from benchsuite.report.figures._style import PALETTE, WIDTH, headline, style

ACROSS = 2
"""Pairs of pictures beside each other."""
BRIGHT = PALETTE[:-1]
"""The palette without black, which no dark picture shows."""


@dataclass(frozen=True)
class Boxes:
    """Boxes of one image: xyxy [N, 4] in its pixels, labels [N], and scores [N] where they are predictions.

    met  bool [N]: predictions that meet a truth of their class, truths that are met
    """

    boxes: NDArray[np.floating]
    labels: NDArray[np.integer]
    met: NDArray[np.bool_]
    scores: NDArray[np.floating] | None = None


@dataclass(frozen=True)
class Picture:
    """An image, uint8 [H, W, 3] in RGB, with its true and its predicted boxes."""

    image: NDArray[np.uint8]
    truth: Boxes
    predicted: Boxes
    name: str = ""


def detections(pictures: Sequence[Picture], classes: Sequence[str], title: str, threshold: float = 0.3) -> Figure:
    """Each picture twice: truth on the left, predictions, which are of at least that score, on the right.

    A class has one colour throughout, named in the legend where the colours suffice. Dashed boxes are what went
    wrong: truth that is not met, and predictions that meet none.
    """
    sides = [side for picture in pictures for side in (picture.truth, picture.predicted)]
    counts = Counter(int(label) for side in sides for label in side.labels)
    colors = {label: BRIGHT[rank % len(BRIGHT)] for rank, (label, _) in enumerate(counts.most_common())}
    across = min(ACROSS, len(pictures))
    down = -(-len(pictures) // ACROSS)
    cell = WIDTH / (2 * ACROSS)
    ratios = [max(p.image.shape[0] / p.image.shape[1] for p in pictures[r * across : (r + 1) * across])
              for r in range(down)]  # fmt: skip
    with style():
        height = sum(cell * ratio + 0.18 for ratio in ratios) + 0.75
        figure = Figure(figsize=(2 * cell * across, height), dpi=300, layout="constrained")
        headline(figure, f"{title}: truth, and predictions with score ≥ {threshold:g}")
        panels = figure.subplots(down, 2 * across, squeeze=False, gridspec_kw={"height_ratios": ratios})
        for axes in panels.flat:
            axes.set_axis_off()
            axes.set_anchor("N")
        for picture, left, right in zip(pictures, panels.flat[::2], panels.flat[1::2], strict=False):
            _panel(left, picture.image, picture.truth, classes, colors)
            _panel(right, picture.image, picture.predicted, classes, colors)
            left.set_title(f"truth {_name(picture.name)}", fontsize=6, weight="normal", pad=2)
            right.set_title("predicted", fontsize=6, weight="normal", pad=2)
        named = colors if len(colors) <= len(BRIGHT) else {}
        handles = [Patch(color=color, label=_name(classes[label])) for label, color in named.items()]
        handles.append(Patch(fill=False, linestyle="--", label="missed or false"))
        figure.legend(handles=handles, loc="outside lower left", ncols=5, fontsize=6.5)
    return figure


def _panel(axes: Axes, image: NDArray[np.uint8], found: Boxes, classes: Sequence[str], colors: dict[int, str]) -> None:
    axes.imshow(image, interpolation="antialiased")
    scores = found.scores if found.scores is not None else [None] * len(found.boxes)
    for (x0, y0, x1, y1), label, score, right in zip(found.boxes, found.labels, scores, found.met, strict=True):
        color = colors[int(label)]
        dashes = "-" if right else (0, (2, 1.5))
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, linewidth=0.9, ls=dashes))
        above = y0 > 0.06 * image.shape[0]
        text = _name(classes[int(label)]) + ("" if score is None else f" {100 * score:.0f}")
        axes.text(x0, y0, text, fontsize=4, color=_readable_on(color), va="bottom" if above else "top", clip_on=True,
                  bbox={"facecolor": color, "edgecolor": "none", "pad": 0.4, "alpha": 0.85})  # fmt: skip


def _name(text: str) -> str:
    """A class or a picture as it is written into the figure; matplotlib leaves out of a legend what begins with `_`."""
    name = visible(shortened(text, 40))
    return f" {name}" if name.startswith("_") else name


def _readable_on(color: str) -> str:
    """Black or white, whichever has the more contrast on that colour (luma of ITU-R BT.601)."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
