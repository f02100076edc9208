"""Polygons in a shape's own frame: the few outlines from which `shapes` composes everything. Each is float64 [V, 2]."""

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Points: TypeAlias = NDArray[np.float64]
Pairs: TypeAlias = "Sequence[tuple[float, float]]"


def arc(x: float, y: float, radius: float, start: float = 0.0, stop: float = 1.0, count: int = 28) -> Points:
    """Points on a circle from `start` to `stop` turns, both included; the whole circle lacks its repeated end."""
    turns = np.linspace(start, stop, count, endpoint=stop - start < 1.0) * 2 * math.pi
    return np.stack([x + radius * np.cos(turns), y + radius * np.sin(turns)], axis=1)


def disc(x: float, y: float, radius: float, count: int = 28) -> Points:
    """A full circle."""
    return arc(x, y, radius, count=count)


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """A rectangle."""
    return polygon([(left, top), (right, top), (right, bottom), (left, bottom)])


def polygon(corners: Pairs) -> Points:
    """Straight edges between the corners."""
    return np.asarray(corners, dtype=np.float64)


def dense(points: Points, pieces: int = 6) -> Points:
    """The same polygon with every edge cut into pieces, so that it can be bent."""
    steps = np.arange(pieces)[:, None] / pieces
    ends = np.roll(points, -1, axis=0)
    return (points[:, None] * (1 - steps) + ends[:, None] * steps).reshape(-1, 2)


def spikes(count: int, inner: float, outer: float = 1.0, width: float = 0.0, phase: float = -0.25) -> Points:
    """A star of `count` spikes; with a `width` (share of the pitch) the spikes end flat, like a gear's teeth."""
    offsets, radii = (
        ([0.0, 0.5], [outer, inner])
        if not width
        else (
            [-width / 2, width / 2, 0.5 - width * 0.35, 0.5 + width * 0.35],
            [outer, outer, inner, inner],
        )
    )
    turns = phase + (np.arange(count)[:, None] + np.asarray(offsets)[None]).ravel() / count
    radius = np.tile(np.asarray(radii), count)
    return np.stack([radius * np.cos(turns * 2 * math.pi), radius * np.sin(turns * 2 * math.pi)], axis=1)


def band(middle: Points, half_width: Points | float) -> Points:
    """A stroke along the points `middle` [M, 2], `half_width` [M] or one number to either side."""
    step = np.gradient(middle, axis=0)
    normal = np.stack([-step[:, 1], step[:, 0]], axis=1) / np.hypot(step[:, 0], step[:, 1])[:, None]
    offset = normal * np.broadcast_to(np.asarray(half_width), len(middle))[:, None]
    return np.concatenate([middle + offset, (middle - offset)[::-1]])


def wave(left: float, right: float, height: float, cycles: float, count: int = 28, phase: float = 0.0) -> Points:
    """Points of a sine wave around y = 0."""
    x = np.linspace(left, right, count)
    return np.stack([x, height * np.sin((np.linspace(0, cycles, count) + phase) * 2 * math.pi)], axis=1)


def blob(lobes: Sequence[tuple[int, float, float]], count: int = 40) -> Points:
    """A circle whose radius is changed by waves of (cycles, amplitude, phase in turns)."""
    turns = np.arange(count) / count
    radius = 1 + sum(size * np.cos(2 * math.pi * (cycles * turns + phase)) for cycles, size, phase in lobes)
    return np.stack([radius * np.cos(2 * math.pi * turns), radius * np.sin(2 * math.pi * turns)], axis=1)


def heart(count: int = 40) -> Points:
    """A heart, its point down."""
    t = np.arange(count) / count * 2 * math.pi
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([np.sin(t) ** 3, -y / 16.5], axis=1)


def shifted(points: Points, x: float, y: float, scale: float = 1.0) -> Points:
    """Scaled, then moved."""
    moved: Points = points * scale + np.asarray([x, y])
    return moved
