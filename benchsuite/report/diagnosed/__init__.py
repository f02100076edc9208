"""Figures of what a row's detections are like, by name. A figure is a module in this folder with one function,
`draw(found, title) -> Figure`, of what is declared here; its first docstring line says what it shows. Only drawing
imports matplotlib.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchsuite.report.figures import described

if TYPE_CHECKING:  # listing what can be drawn needs none of it
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

Numbers = Sequence[Mapping[str, str | int | float]]
"""Lines of a long table: a mapping of column to value for each point that is plotted."""


@dataclass(frozen=True)
class Part:
    """One part of a difference, in points of AP, with its 95 % interval. `group`: total, error, size or class."""

    group: str
    name: str
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Why:
    """What the difference of two rows on `column` is made of. `over` says what the intervals are over; `errors_on` the
    column of which errors cost so many points."""

    row: str
    baseline: str
    column: str
    parts: tuple[Part, ...]
    over: str
    errors_on: str = "AP50"

    @property
    def numbers(self) -> Numbers:
        """A line a part."""
        return [{"group": p.group, "part": p.name, "gain": p.gain, "low": p.low, "high": p.high} for p in self.parts]

    def of(self, group: str) -> list[Part]:
        """The parts of one group."""
        return [part for part in self.parts if part.group == group]


@dataclass(frozen=True)
class Curves:
    """Precision at recalls 0 … 1. `thresholds` [T, R] the mean over classes at each IoU threshold, `classes` [K, R] at
    the first of them; NaN where a class has no boxes."""

    recalls: "NDArray[np.float64]"
    thresholds: "Mapping[str, NDArray[np.float64]]"
    classes: "Mapping[str, NDArray[np.float64]]"

    @property
    def numbers(self) -> Numbers:
        """A line a point."""
        curves = [("IoU", self.thresholds), ("class", self.classes)]
        return [
            {"of": of, "name": name, "recall": float(recall), "precision": float(precision)}
            for of, named in curves for name, curve in named.items()
            for recall, precision in zip(self.recalls, curve, strict=True)
        ]  # fmt: skip


@dataclass(frozen=True)
class Confusion:
    """How often a true box of a class (row) was found as which (column); the last row is of detections where nothing
    is, the last column of boxes that were missed. [K + 1, K + 1], of detections with at least `least` of score."""

    classes: tuple[str, ...]
    counts: "NDArray[np.int64]"
    least: float

    @property
    def numbers(self) -> Numbers:
        """A line a pair that came."""
        true, found = (*self.classes, "nothing"), (*self.classes, "missed")
        return [
            {"true": true[row], "found": found[column], "count": int(self.counts[row, column])}
            for row, column in zip(*((self.counts > 0).nonzero()), strict=True)
        ]


@dataclass(frozen=True)
class Calibration:
    """Bins of scores: bounds [B + 1], mean score, share that is right (NaN where empty) and how many, each [B]; with
    the mean and the greatest distance between score and share, 0–1."""

    bounds: "NDArray[np.float64]"
    scores: "NDArray[np.float64]"
    right: "NDArray[np.float64]"
    counts: "NDArray[np.int64]"
    mean_error: float
    greatest_error: float

    @property
    def numbers(self) -> Numbers:
        """A line a bin."""
        return [
            {"from": float(self.bounds[bin]), "to": float(self.bounds[bin + 1]), "detections": int(self.counts[bin]),
             "score": float(self.scores[bin]), "right": float(self.right[bin])}
            for bin in range(len(self.counts))
        ]  # fmt: skip


def available() -> dict[str, str]:
    """Name of each figure and what it shows."""
    return described(Path(__file__).parent)


def draw(name: str, found: Any, title: str) -> "Figure":
    """The figure `name` of what was found."""
    figure: Figure = import_module(f"{__name__}.{name.replace('-', '_')}").draw(found, title)
    return figure
