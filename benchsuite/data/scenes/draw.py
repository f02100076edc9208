"""The drawing: polygons filled with exact horizontal coverage, in numpy alone.

Every floating-point operation here is elementwise +, -, *, /, minimum or rounding, which IEEE 754 fixes to the bit, or
a sum of small integers, which has no order. So the same scene gives the same bytes on any machine.
"""

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchsuite.data.scenes.catalogue import SHAPES
from benchsuite.data.scenes.grid import Placed
from benchsuite.data.scenes.layout import Scene
from benchsuite.data.scenes.outlines import Points
from benchsuite.data.scenes.shapes import RGB, Edges, Paint

Plane: TypeAlias = NDArray[np.float32]
LINES = 4  # scan lines per pixel row
FINE = 64  # steps per pixel along a scan line


class Look(NamedTuple):
    """How scenes are shown: grain in grey levels, and how far colours stand from the ground (1: fully)."""

    noise: float
    contrast: float


class Window(NamedTuple):
    """A rectangle of whole pixels within the image."""

    left: int
    top: int
    right: int
    bottom: int


def draw(scene: Scene, look: Look, height: int, width: int, bits: np.random.PCG64) -> NDArray[np.uint8]:
    """The picture of a scene, uint8 [H, W, 3]; `bits` decides the ground's texture, the light and the grain."""
    numbers = np.asarray(bits.random_raw(64)).tolist()
    canvas = _ground(scene.ground, height, width, numbers)
    for thing in scene.things:
        _paint(canvas, thing, scene.ground, look.contrast)
    canvas *= _light(height, width, numbers)
    grain = np.asarray(bits.random_raw((height * width + 7) // 8)).astype("<u8").view(np.uint8)[: height * width]
    # The sum of the two halves of a byte: 0..30, triangular, standard deviation 6.5.
    spread = ((grain >> 4).astype(np.float32) + (grain & 15) - 15) * np.float32(look.noise / 6.5)
    canvas += spread.reshape(height, width)
    np.clip(canvas, 0, 255, out=canvas)
    return np.ascontiguousarray(np.rint(canvas).astype(np.uint8).transpose(1, 2, 0))


def coverage(points: Points, edges: Edges, window: Window) -> Plane:
    """How much of each pixel of the window lies inside the polygons [h, w], 0..1.

    Each of `LINES` scan lines per row crosses the edges; left of a crossing nothing changes, right of it everything,
    within its pixel a part: the running sum of those changes along the row is the coverage.
    """
    height, width = window.bottom - window.top, window.right - window.left
    start, end = points[edges[0]], points[edges[1]]
    x0, y0 = start[:, 0] - window.left, (start[:, 1] - window.top) * LINES
    x1, y1 = end[:, 0] - window.left, (end[:, 1] - window.top) * LINES
    first = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, height * LINES).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, height * LINES).astype(np.int64)
    counts = last - first
    edge = np.repeat(np.arange(len(counts)), counts)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts - first, counts)
    rise = np.where(y1 == y0, 1.0, y1 - y0)
    slope = (x1 - x0) / rise
    x = x0[edge] + (line + 0.5 - y0[edge]) * slope[edge]
    fine = np.clip(np.rint(x * FINE), 0, width * FINE).astype(np.int64)
    part = fine % FINE
    cell = (line // LINES) * (width + 2) + fine // FINE
    sign = np.where(y1 > y0, 1, -1)[edge]
    changes = np.bincount(
        np.concatenate([cell, cell + 1]),
        np.concatenate([sign * (FINE - part), sign * part]),
        minlength=height * (width + 2),
    )
    sums = np.cumsum(changes.reshape(height, width + 2)[:, :width], axis=1)
    return np.clip(np.abs(sums) / (LINES * FINE), 0, 1).astype(np.float32)


def silhouette(thing: Placed, height: int, width: int) -> NDArray[np.bool_]:
    """The pixels of a picture [H, W] of which the thing covers at least half, whether or not others hide it."""
    window = _window(thing, height, width)
    shape = SHAPES[thing.shape]
    points = shape.placed(thing.variant, thing.turn, thing.scale, thing.x, thing.y)
    inside = np.zeros((height, width), np.bool_)
    inside[window.top : window.bottom, window.left : window.right] = coverage(points, shape.layers[0][0], window) >= 0.5
    return inside


def silhouette_in_box(thing: Placed, cells: int) -> NDArray[np.bool_]:
    """The same for `cells` × `cells` cells over the thing's box, instead of pixels."""
    shape = SHAPES[thing.shape]
    box = np.array(thing.box)
    points = shape.placed(thing.variant, thing.turn, thing.scale, thing.x, thing.y)
    points = (points - box[:2]) * (cells / (box[2:] - box[:2]))
    return coverage(points, shape.layers[0][0], Window(0, 0, cells, cells)) >= 0.5


def _paint(canvas: Plane, thing: Placed, ground: RGB, contrast: float) -> None:
    shape = SHAPES[thing.shape]
    points = shape.placed(thing.variant, thing.turn, thing.scale, thing.x, thing.y)
    window = _window(thing, canvas.shape[1], canvas.shape[2])
    (silhouette, paint), *details = shape.layers
    body = coverage(points, silhouette, window)
    annotated = thing.label >= 0
    if annotated:
        _shade_below(canvas, body, window, thing.scale)
    colours = np.empty((3, *body.shape), np.float32)
    colours[:] = _colour(paint, thing.colour, ground, contrast)
    for edges, paint in details:
        colours += coverage(points, edges, window) * (_colour(paint, thing.colour, ground, contrast) - colours)
    if annotated:
        colours *= _relief(thing, window)
        colours *= 1 - np.float32(0.5) * _rim(body)
    part = canvas[:, window.top : window.bottom, window.left : window.right]
    part += body * (colours - part)


def _window(thing: Placed, height: int, width: int) -> Window:
    """The whole pixels around the thing, cut at the image."""
    left, top, right, bottom = thing.box
    return Window(max(0, int(left) - 1), max(0, int(top) - 1), min(width, int(right) + 2), min(height, int(bottom) + 2))


def _colour(paint: Paint, body: RGB, ground: RGB, contrast: float) -> Plane:
    """The paint as [3, 1, 1], drawn towards the ground where the contrast is low."""
    if paint == "body":
        colour = [float(v) for v in body]
    elif paint == "dark":
        colour = [v * 0.45 for v in body]
    elif paint == "light":
        colour = [v + (255 - v) * 0.55 for v in body]
    else:
        colour = [float(v) for v in paint if not isinstance(v, str)]
    blended = [g + contrast * (c - g) for c, g in zip(colour, ground, strict=True)]
    return np.array(blended, np.float32).reshape(3, 1, 1)


def _shade_below(canvas: Plane, body: Plane, window: Window, scale: float) -> None:
    """A soft shadow, the silhouette moved right and down."""
    step = 1 + int(scale * 0.05)
    part = canvas[:, window.top + step : window.bottom + step, window.left + step : window.right + step]
    part *= 1 - np.float32(0.3) * body[: part.shape[1], : part.shape[2]]


def _relief(thing: Placed, window: Window) -> Plane:
    """Lighter towards the upper left, [h, w]."""
    left, top, right, bottom = thing.box
    across = (np.arange(window.left, window.right, dtype=np.float64) - left) / (right - left)
    down = (np.arange(window.top, window.bottom, dtype=np.float64) - top) / (bottom - top)
    return (1.14 - 0.14 * across[None] - 0.2 * down[:, None]).astype(np.float32)


def _rim(body: Plane) -> Plane:
    """The pixel along the silhouette's border, [h, w]."""
    inner = body.copy()
    np.minimum(inner[1:], body[:-1], out=inner[1:])
    np.minimum(inner[:-1], body[1:], out=inner[:-1])
    np.minimum(inner[:, 1:], body[:, :-1], out=inner[:, 1:])
    np.minimum(inner[:, :-1], body[:, 1:], out=inner[:, :-1])
    return body - inner


def _ground(base: RGB, height: int, width: int, numbers: list[int]) -> Plane:
    """A patterned ground: clouds, a band of another tone, and fine stripes or none, [3, H, W]."""
    cells = 6
    table = np.array([(n >> 20) % 1024 for n in numbers[: (cells + 1) * (cells + 1)]], np.float64) / 1024 - 0.5
    clouds = _stretched(_stretched(table.reshape(cells + 1, cells + 1), height).T, width).T
    x, y = np.arange(width)[None], np.arange(height)[:, None]
    choices = numbers[(cells + 1) * (cells + 1) :]
    a, b = choices[0] % 9 - 4, choices[1] % 9 - 4
    reach = (abs(a) + abs(b) + 1) * 64
    band = ((x - width // 2) * a * 256 // width + (y - height // 2) * b * 256 // height + choices[2] % reach) > 0
    period = 6 + choices[3] % 9
    lines = (x * (choices[4] % 3) + y * (choices[5] % 3)) % period < period // 2
    tones = np.array([choices[6] % 41 - 20, choices[7] % 41 - 20, choices[8] % 41 - 20], np.float32).reshape(3, 1, 1)
    grey = 44.0 * clouds + lines * float(choices[9] % 8)
    canvas = np.array(base, np.float32).reshape(3, 1, 1) + band * tones + grey.astype(np.float32)
    return canvas.astype(np.float32, copy=False)


def _stretched(rows: Points, length: int) -> Points:
    """Rows [R, C] interpolated to [length, C]."""
    position = np.arange(length) * ((len(rows) - 1) / length)
    index = position.astype(np.int64)
    share = (position - index)[:, None]
    return rows[index] * (1 - share) + rows[index + 1] * share


def _light(height: int, width: int, numbers: list[int]) -> Plane:
    """Brightness falling across the image and a tint, [3, H, W]."""
    choice = numbers[-1]
    slope_x, slope_y = (choice % 65 - 32) / 200, (choice // 65 % 65 - 32) / 200
    across = np.arange(width) / width - 0.5
    down = np.arange(height) / height - 0.5
    plane = (0.98 + slope_x * across[None] + slope_y * down[:, None]).astype(np.float32)
    tint = [1 + (choice // divisor % 33 - 16) / 300 for divisor in (65**2, 65**3, 65**4)]
    lit: Plane = plane * np.array(tint, np.float32).reshape(3, 1, 1)
    return lit
