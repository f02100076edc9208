"""Everything the generated scenes hold: the classes, the hosts that surround some of them, and the clutter.

Families of classes differ in one thing only. The balls share their outline and differ by texture. Star to bolt share
their paint and differ by outline. Arrow to magnet are long, and are rotated and bent. Buoy to eye are the very same
pale disc, told apart by what it lies on or belongs to (`HOSTS`). The rest are composed of several parts.
"""

import math
from functools import cache

import numpy as np

from benchsuite.data.scenes.outlines import (
    Points,
    arc,
    band,
    blob,
    box,
    dense,
    disc,
    heart,
    polygon,
    shifted,
    spikes,
    wave,
)
from benchsuite.data.scenes.shapes import BENT, RGB, VARIED, Shape, shape

PALE: RGB = (238, 234, 220)
PALETTE: tuple[RGB, ...] = (
    (214, 48, 49),
    (235, 120, 30),
    (150, 60, 190),
    (30, 110, 210),
    (10, 150, 140),
    (226, 70, 150),
    (60, 150, 50),
    (130, 80, 40),
    (70, 60, 160),
    (170, 30, 80),
    (240, 180, 30),
    (40, 60, 90),
)
GROUNDS: tuple[RGB, ...] = (
    (196, 186, 168),
    (150, 160, 168),
    (178, 190, 172),
    (206, 196, 200),
    (140, 134, 126),
    (188, 200, 208),
    (168, 150, 140),
    (126, 140, 132),
)


def _tiles(pitch: float) -> list[Points]:
    """Every second square of a board."""
    cells = range(-3, 3)
    return [box(i * pitch, j * pitch, (i + 1) * pitch, (j + 1) * pitch) for i in cells for j in cells if (i + j) % 2]


STRIPES = [box(-1.1, y - 0.13, 1.1, y + 0.13) for y in (-0.78, -0.26, 0.26, 0.78)]
DOTS = [disc(0.0, 0.0, 0.21, 12)] + [shifted(disc(0, 0, 0.21, 12), x, y) for x, y in spikes(3, 0.64, 0.64).tolist()]
BALL = ("body", [disc(0, 0, 1, 40)])
WHITE = (250, 248, 244)
BLACK = (38, 36, 42)
_arrow = dense(polygon([(-1, -0.17), (0.3, -0.17), (0.3, -0.52), (1, 0), (0.3, 0.52), (0.3, 0.17), (-1, 0.17)]))
_snake = wave(-1.25, 1.25, 0.3, 1.5, 40)
_snake_width = np.interp(np.linspace(0, 1, 40), [0, 0.3, 0.82, 0.9, 0.97, 1], [0.02, 0.13, 0.14, 0.21, 0.17, 0.05])
_snake_rings = [box(x - 0.05, -0.6, x + 0.05, 0.6) for x in (-0.8, -0.55, -0.3, -0.05, 0.2, 0.45, 0.7)]
_banana = np.stack([np.linspace(-1, 1, 24), np.zeros(24)], axis=1)
_banana_width = np.interp(
    np.linspace(-1, 1, 24), [-1, -0.88, -0.8, -0.4, 0.3, 0.9, 1], [0.06, 0.07, 0.13, 0.27, 0.27, 0.09, 0.05]
)
_crescent = np.concatenate([arc(0, 0, 1, 0.146, 0.854, 30), arc(0.5, 0, 0.8, 0.772, 0.228, 24)])
_magnet = np.concatenate(
    [
        [(0.95, 1.0)],
        arc(0, 0, 0.95, 0.0, -0.5, 24),
        [(-0.95, 1.0), (-0.42, 1.0)],
        arc(0, 0, 0.42, -0.5, 0.0, 18),
        [(0.42, 1.0)],
    ]
)
_tree = [
    (0.16, 1),
    (-0.16, 1),
    (-0.16, 0.5),
    (-0.8, 0.5),
    (-0.42, -0.02),
    (-0.62, -0.02),
    (-0.28, -0.48),
    (-0.42, -0.48),
    (0, -1),
]
_tree += [(-x, y) for x, y in reversed(_tree[2:-1])]
_house = [(-0.8, 0.9), (-0.8, -0.1), (-1, -0.1), (0, -0.95), (0.45, -0.567), (0.45, -0.9), (0.68, -0.9), (0.68, -0.372)]
_house += [(1, -0.1), (0.8, -0.1), (0.8, 0.9)]
_car = np.concatenate(
    [
        [
            (-1.15, 0.25),
            (-1.15, -0.05),
            (-0.75, -0.12),
            (-0.45, -0.5),
            (0.35, -0.5),
            (0.7, -0.1),
            (1.1, 0.0),
            (1.15, 0.25),
        ],
        arc(0.62, 0.25, 0.27, 0.0, 0.5, 12),
        arc(-0.62, 0.25, 0.27, 0.0, 0.5, 12),
    ]
)
_fish = np.concatenate(
    [
        arc(0.2, 0.62, 1.0, -0.12, -0.38, 14),
        [(-1.15, -0.5), (-0.98, 0), (-1.15, 0.5)],
        arc(0.2, -0.62, 1.0, 0.38, 0.12, 14),
    ]
)

OBJECTS: dict[str, Shape] = {
    "plain ball": shape(BALL),
    "striped ball": shape(BALL, (WHITE, STRIPES), smallest=16),
    "checked ball": shape(BALL, (WHITE, _tiles(0.4)), smallest=18),
    "dotted ball": shape(BALL, (WHITE, DOTS), smallest=16),
    "star": shape(("body", [spikes(5, 0.42)]), stretch=VARIED),
    "cross": shape(("body", [spikes(4, 0.41, 1.0, 0.24)]), stretch=VARIED),
    "gear": shape(("body", [spikes(9, 0.74, 1.0, 0.45), disc(0, 0, 0.34, 18)]), smallest=15),
    "heart": shape(("body", [heart()]), sway=4, stretch=VARIED),
    "crescent": shape(("body", [_crescent]), stretch=VARIED),
    "bolt": shape(
        (
            "body",
            [polygon([(0.25, -1), (-0.6, 0.18), (-0.08, 0.18), (-0.3, 1), (0.6, -0.28), (0.06, -0.28), (0.55, -1)])],
        ),
        sway=4,
        stretch=VARIED,
    ),
    "arrow": shape(("body", [_arrow]), bends=BENT),
    "banana": shape(
        ((248, 214, 60), [band(_banana, _banana_width)]),
        ((96, 74, 40), [dense(box(-1.2, -0.5, -0.86, 0.5)), dense(box(0.94, -0.5, 1.2, 0.5))]),
        bends=(-0.75, -0.65, -0.55, -0.45, 0.45, 0.55, 0.65, 0.75),
    ),
    "snake": shape(
        ("body", [band(_snake, _snake_width)]),
        ("dark", _snake_rings),
        (WHITE, [disc(1.0, 0.2, 0.07, 12)]),
        bends=BENT,
        smallest=15,
    ),
    "magnet": shape(
        ("body", [_magnet]), ((226, 228, 232), [box(-1, 0.62, -0.3, 1.1), box(0.3, 0.62, 1, 1.1)]), stretch=VARIED
    ),
    "buoy": shape((PALE, [disc(0, 0, 1)]), smallest=8),
    "golf ball": shape((PALE, [disc(0, 0, 1)]), smallest=8),
    "moon": shape((PALE, [disc(0, 0, 1)]), smallest=8),
    "lamp": shape((PALE, [disc(0, 0, 1)]), smallest=8),
    "eye": shape((PALE, [disc(0, 0, 1)]), smallest=8),
    "face": shape(
        ((236, 178, 134), [disc(0, 0, 1, 40)]),
        (
            "dark",
            [
                polygon(
                    [(-1.1, -0.3), (-0.75, -0.48), (0, -0.66), (0.75, -0.48), (1.1, -0.3), (1.1, -1.1), (-1.1, -1.1)]
                )
            ],
        ),
        ((176, 52, 60), [band(arc(0, 0.12, 0.56, 0.07, 0.43, 16), 0.07)]),
        ((206, 138, 100), [polygon([(0, -0.1), (0.14, 0.26), (-0.14, 0.26)])]),
        sway=1,
        smallest=40,
    ),
    "house": shape(
        ("body", [polygon(_house)]),
        ("dark", [polygon([(-1.1, -0.08), (0, -1.02), (1.1, -0.08)]), box(0.45, -0.95, 0.68, -0.4)]),
        ((112, 66, 40), [box(-0.16, 0.3, 0.18, 0.95)]),
        ((250, 240, 170), [box(-0.62, 0.12, -0.32, 0.45), box(0.34, 0.12, 0.64, 0.45)]),
        sway=1,
        stretch=VARIED,
        smallest=17,
    ),
    "tree": shape(
        ((40, 132, 70), [polygon(_tree)]), ((120, 78, 46), [box(-0.5, 0.5, 0.5, 1.1)]), sway=1, stretch=VARIED
    ),
    "car": shape(
        ("body", [_car]),
        (BLACK, [disc(0.62, 0.25, 0.25, 18), disc(-0.62, 0.25, 0.25, 18)]),
        (
            (214, 232, 244),
            [
                polygon([(-0.62, -0.12), (-0.4, -0.4), (-0.1, -0.4), (-0.1, -0.12)]),
                polygon([(0.02, -0.12), (0.02, -0.4), (0.3, -0.4), (0.52, -0.12)]),
            ],
        ),
        sway=1,
        stretch=VARIED,
        smallest=16,
    ),
    "fish": shape(
        ("body", [_fish]),
        (
            "light",
            [polygon([(-0.86, -0.6), (-0.7, 0), (-0.86, 0.6), (-1.3, 0.6), (-1.3, -0.6)]), box(0.22, -0.6, 0.32, 0.6)],
        ),
        (WHITE, [disc(0.62, -0.1, 0.13, 14)]),
        (BLACK, [disc(0.65, -0.1, 0.07, 10)]),
        bends=(-0.24, -0.18, -0.1, -0.04, 0.04, 0.1, 0.18, 0.24),
        smallest=15,
    ),
}
CLASSES = tuple(OBJECTS)
LABELS = {name: label for label, name in enumerate(CLASSES)}
DISCS = ("buoy", "golf ball", "moon", "lamp", "eye")

_ripples = [
    shifted(band(wave(-1.3, 1.3, 0.035, 5, 40, y), 0.02), 0, y) for y in (-0.84, -0.56, -0.28, 0, 0.28, 0.56, 0.84)
]
_grid = [(x / 4 + (y % 2) / 8, y / 5.5) for y in range(-6, 7) for x in range(-5, 5)]
_blades = [
    shifted(
        polygon([(-0.06, -0.07), (0, 0.03), (0.01, -0.11), (0.03, 0.03), (0.09, -0.05), (0.03, 0.08), (0, 0.08)]), x, y
    )
    for x, y in _grid
]
_sparks = [shifted(spikes(4, 0.3), x, y, 0.035) for x, y in _grid[::3]]

HOSTS: dict[str, Shape] = {
    "water": shape(
        ((58, 122, 190), [blob([(2, 0.12, 0.1), (3, 0.07, 0.4), (5, 0.03, 0.2)])]),
        ((128, 182, 226), _ripples),
        sway=1,
        stretch=VARIED,
    ),
    "grass": shape(
        ((86, 150, 66), [blob([(2, 0.1, 0.4), (3, 0.09, 0.1), (4, 0.03, 0.7)])]),
        ((52, 108, 44), _blades),
        sway=1,
        stretch=VARIED,
    ),
    "night": shape(
        ((34, 34, 72), [blob([(2, 0.14, 0.7), (3, 0.05, 0.2), (5, 0.04, 0.6)])]),
        ((170, 170, 150), _sparks),
        sway=1,
        stretch=VARIED,
    ),
    "pole": shape(
        (
            (64, 64, 70),
            [
                polygon(
                    [
                        (-0.16, 1),
                        (-0.1, 0.9),
                        (-0.05, 0.86),
                        (-0.05, -1),
                        (0.05, -1),
                        (0.05, 0.86),
                        (0.1, 0.9),
                        (0.16, 1),
                    ]
                )
            ],
        ),
        sway=0,
    ),
}
ON = {"buoy": "water", "golf ball": "grass", "moon": "night"}

CLUTTER: dict[str, Shape] = {
    "arc": shape(("body", [band(arc(0, 0, 0.85, 0.0, 0.32, 18), 0.13)])),
    "half star": shape(("body", [polygon([*spikes(5, 0.42).tolist()[:6]])])),
    "tooth": shape(("body", [polygon([(-0.4, 0.5), (-0.25, -0.5), (0.25, -0.5), (0.4, 0.5)])])),
    "stripes": shape(("body", [box(-0.9, -0.5, 0.9, 0.5)]), (WHITE, STRIPES)),
    "checks": shape(("body", [polygon([(-0.8, 0.7), (0, -0.7), (0.8, 0.7)])]), (WHITE, _tiles(0.4))),
    "wedge": shape(("body", [np.concatenate([[(0.0, 0.0)], arc(0, 0, 1, 0.0, 0.3, 14)])])),
    "dots": shape(("body", [box(-0.7, -0.7, 0.7, 0.7)]), (WHITE, DOTS)),
    "zigzag": shape(("body", [band(polygon([(-1, 0.25), (-0.5, -0.25), (0, 0.25), (0.5, -0.25), (1, 0.25)]), 0.12)])),
    "shaft": shape(("body", [dense(box(-1, -0.16, 1, 0.16), 8)]), bends=BENT),
    "stray disc": shape((PALE, [disc(0, 0, 1)])),
}
SHAPES = OBJECTS | HOSTS | CLUTTER


@cache
def extent(name: str, variant: int, turn: int) -> tuple[float, float, float, float]:
    """Box (xyxy) of the silhouette at scale 1 around the origin."""
    points = SHAPES[name].placed(variant, turn)[SHAPES[name].layers[0][0][0]]
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return float(left), float(top), float(right), float(bottom)


@cache
def area(name: str, variant: int) -> float:
    """Area of the silhouette at scale 1."""
    starts, ends = SHAPES[name].layers[0][0]
    points = SHAPES[name].placed(variant, 0)
    a, b = points[starts], points[ends]
    return math.fsum((a[:, 0] * b[:, 1] - b[:, 0] * a[:, 1]).tolist()) / 2
