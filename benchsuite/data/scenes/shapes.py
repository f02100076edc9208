"""A shape: a few layers of polygons that can be bent, stretched, rotated, scaled and moved.

It lives in its own frame, about -1..1, x to the right and y down. Its first layer is the silhouette, which alone
decides box and area; the other layers are clipped to it. Coordinates are rounded to 1/4096, so that no machine's sine
or cosine can change a picture.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchsuite.data.scenes.outlines import Points

RGB: TypeAlias = tuple[int, int, int]
Paint: TypeAlias = "str | tuple[int, int, int]"
Edges: TypeAlias = tuple[NDArray[np.intp], NDArray[np.intp]]
TURNS = 32
VARIANTS = 8
STRAIGHT = (0.0,) * VARIANTS
BENT = (-0.7, -0.5, -0.3, -0.1, 0.1, 0.3, 0.5, 0.7)
ROUND = (1.0,) * VARIANTS
VARIED = (0.86, 0.9, 0.94, 0.98, 1.02, 1.06, 1.1, 1.16)


def rounded(values: Sequence[float] | Points) -> Points:
    """To the nearest 1/4096."""
    return np.rint(np.asarray(values, dtype=np.float64) * 4096) / 4096


COSINES = tuple(float(v) for v in rounded([math.cos(2 * math.pi * turn / TURNS) for turn in range(TURNS)]))


@dataclass(frozen=True)
class Shape:
    """Layers of polygons, ready to be transformed and filled.

    points   float64 [V, 2]; layers: the edges of each (start and end rows of `points`) and its paint: `body` (the
    object's own colour), `dark` or `light` (made from it), or a fixed RGB
    sway     largest rotation to either side in 1/32 turns; 16 is any
    bends    bend of each variant: y moves by bend * (x² - 1/3)
    stretch  width of each variant, the height being its inverse
    smallest least size (square root of the area, for a 256-pixel image) at which it can still be recognised
    """

    points: Points
    layers: tuple[tuple[Edges, Paint], ...]
    sway: int
    bends: tuple[float, ...]
    stretch: tuple[float, ...]
    smallest: float

    def placed(self, variant: int, turn: int, scale: float = 1.0, x: float = 0.0, y: float = 0.0) -> Points:
        """The points bent, stretched, rotated by `turn`/32, scaled and moved to (x, y) [V, 2]."""
        width = self.stretch[variant]
        across = self.points[:, 0]
        down = (self.points[:, 1] + self.bends[variant] * (across * across - 1 / 3)) / width
        across = across * width
        cos, sin = COSINES[turn % TURNS], COSINES[(turn - TURNS // 4) % TURNS]
        return np.stack([x + scale * (across * cos - down * sin), y + scale * (across * sin + down * cos)], axis=1)


def shape(
    *layers: tuple[Paint, Sequence[Points]],
    sway: int = 16,
    bends: tuple[float, ...] = STRAIGHT,
    stretch: tuple[float, ...] = ROUND,
    smallest: float = 13.0,
) -> Shape:
    """A shape from (paint, polygons) per layer; a polygon after the first of the silhouette is a hole in it."""
    points: list[Points] = []
    built: list[tuple[Edges, Paint]] = []
    total = 0
    for depth, (paint, polygons) in enumerate(layers):
        starts, ends = [], []
        for number, corners in enumerate(polygons):
            hole = depth == 0 and number > 0
            points.append(corners if (_signed_area(corners) > 0) != hole else corners[::-1])
            index = np.arange(total, total + len(corners))
            starts.append(index)
            ends.append(np.roll(index, -1))
            total += len(corners)
        built.append(((np.concatenate(starts), np.concatenate(ends)), paint))
    return Shape(rounded(np.concatenate(points)), tuple(built), sway, bends, stretch, smallest)


def _signed_area(points: Points) -> float:
    after = np.roll(points, -1, axis=0)
    return math.fsum((points[:, 0] * after[:, 1] - after[:, 0] * points[:, 1]).tolist()) / 2
