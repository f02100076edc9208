"""What covers what, before anything is drawn: masks on a coarse grid, each one integer with a bit per cell.

An object's hidden share is then an AND and a count of bits, some hundred nanoseconds.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np

from benchsuite.data.scenes.catalogue import LABELS, SHAPES, area, extent
from benchsuite.data.scenes.shapes import RGB

Box = tuple[float, float, float, float]
ROWS = 32


class Placed(NamedTuple):
    """One thing in a scene: its shape, centre and scale in pixels, and its colour."""

    shape: str
    variant: int
    turn: int
    scale: float
    x: float
    y: float
    colour: RGB

    @property
    def label(self) -> int:
        """Index of the class; -1 for hosts and clutter."""
        return LABELS.get(self.shape, -1)

    @property
    def box(self) -> Box:
        """Tight box (xyxy) in pixels, hidden parts included."""
        left, top, right, bottom = extent(self.shape, self.variant, self.turn)
        scale = self.scale
        return self.x + scale * left, self.y + scale * top, self.x + scale * right, self.y + scale * bottom

    @property
    def area(self) -> float:
        """Area in square pixels, hidden parts included."""
        return area(self.shape, self.variant) * self.scale * self.scale


@cache
def spans(name: str, variant: int, turn: int) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Where each of `ROWS` lines through the silhouette enters and leaves it, as shares of its box's width; the last
    line is there twice, for a row beyond it by a rounding."""
    starts, ends = SHAPES[name].layers[0][0]
    points = SHAPES[name].placed(variant, turn)
    left, top, right, bottom = extent(name, variant, turn)
    a, b = points[starts], points[ends]
    lines = top + (np.arange(ROWS)[:, None] + 0.5) * ((bottom - top) / ROWS)
    row, edge = np.nonzero((a[:, 1] <= lines) != (b[:, 1] <= lines))
    share = (lines[row, 0] - a[edge, 1]) / (b[edge, 1] - a[edge, 1])
    crossings = (a[edge, 0] + share * (b[edge, 0] - a[edge, 0]) - left) / (right - left)
    found: list[list[float]] = [[] for _ in range(ROWS)]
    for index, crossing in zip(row.tolist(), crossings.tolist(), strict=True):
        found[index].append(crossing)
    ordered = [sorted(crossings) for crossings in [*found, found[-1]]]
    return tuple(tuple(zip(line[::2], line[1::2], strict=True)) for line in ordered)


class Raster:
    """Cells of `cell` pixels over an image; bit `row * columns + column` of a mask is one of them."""

    def __init__(self, height: int, width: int, cell: float):
        self.cell, self.columns, self.rows = cell, math.ceil(width / cell), math.ceil(height / cell)
        # Bit 0 of every row: a line of cells times this is that line in every row.
        self.every = ((1 << (self.rows * self.columns)) - 1) // ((1 << self.columns) - 1)

    def rectangle(self, box: Box) -> int:
        """The cells of a box (xyxy in pixels) within the image, at least one."""
        left, top = (max(int(edge / self.cell + 0.5), 0) for edge in box[:2])
        right = min(max(int(box[2] / self.cell + 0.5), left + 1), self.columns)
        bottom = min(max(int(box[3] / self.cell + 0.5), top + 1), self.rows)
        line = (1 << right) - (1 << left)
        height = (bottom - top) * self.columns
        return (line * (self.every & ((1 << height) - 1))) << (top * self.columns)

    def mask(self, thing: Placed) -> int:
        """The cells whose centre lies in the thing's silhouette."""
        left, top, right, bottom = (edge / self.cell for edge in thing.box)
        lines = spans(thing.shape, thing.variant, thing.turn)
        width, pace, start = right - left, ROWS / (bottom - top), left + 0.5
        first = int(top + 0.5)
        line, shift, mask = (first + 0.5 - top) * pace, first * self.columns, 0
        for _ in range(first, int(bottom + 0.5)):
            for enter, leave in lines[int(line)]:
                mask |= ((1 << int(start + leave * width)) - (1 << int(start + enter * width))) << shift
            line += pace
            shift += self.columns
        return mask or self.rectangle(thing.box)


class Guard:
    """Cells of which at most the share `limit` may be covered by what is placed later."""

    __slots__ = ("count", "needed", "visible")

    def __init__(self, mask: int, limit: float):
        self.visible, self.count = mask, mask.bit_count()
        self.needed = (1 - limit) * self.count
