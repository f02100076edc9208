"""PASCAL VOC average precision (Everingham et al., IJCV 2010 and 2015): 11-point (2007) and area under the curve."""

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from benchsuite.data.dataset import DetectionSet
from benchsuite.metrics import tide
from benchsuite.metrics.judged import Floats, Judged, average_precisions, mean
from benchsuite.metrics.metric import Found, Metric, parts_of, per_class, percent
from benchsuite.metrics.overlap import iou, owners, pairs
from benchsuite.settings import Json

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
MOST = 100
"""Detections of an image and class whose errors are told; the score itself takes all."""
INTERPOLATIONS: dict[str, int | None] = {"AP50_11point": 11, "AP50_area": None}


class Voc(Metric):
    """AP50, what VOC tables call mAP, and with the same interpolation AP75 and AP, the mean over IoU .50:.05:.95.

    Every detection, by falling score, goes to the box of its class and image with which its IoU is greatest; it is
    right if that IoU is at least the threshold and the box was not taken before. Detections of difficult (and crowd)
    boxes count neither way. `year` 2007 interpolates precision at 11 recalls, 2012 takes the area under the curve of
    falling precision. A class without boxes is left out of the mean.

    The devkit measures pixels that boxes include, width xmax - xmin + 1. Boxes whose edges are coordinates, as our
    VOC reader gives (xmin - 1, ymin - 1, xmax, ymax), have that width as it is. `inclusive` adds the 1 for boxes that
    hold the first and the last pixel.

    `AP50_11point` and `AP50_area` are AP50 by either interpolation, whatever the year: columns to stand beside the
    protocol's own, never in its place.
    """

    version: ClassVar[int] = 2
    of_classes: ClassVar[str] = "AP50"
    year: Literal[2007, 2012] = 2007
    inclusive: bool = False

    @property
    def protocol(self) -> str:
        """`voc07` or `voc12`, with `-inclusive` where 1 is added to widths and heights."""
        return f"voc{self.year % 100:02d}" + ("-inclusive" if self.inclusive else "")

    @property
    def columns(self) -> tuple[str, ...]:
        """The mean over ten IoU thresholds, AP at .5 and .75, and at .5 by either interpolation."""
        return ("AP", "AP50", "AP75", *INTERPOLATIONS)

    @property
    @override
    def paired_columns(self) -> tuple[str, ...]:
        return self.columns

    def score(self, data: DetectionSet, found: Found) -> dict[str, Json]:
        """Score `found`; `per_class` holds AP50."""
        found.check(data)
        told, once = judged(data, found, THRESHOLDS, self.inclusive), np.ones((len(data), 1))
        aps = {points: average_precisions(told, once, points)[:, :, 0] for points in INTERPOLATIONS.values()}
        numbers = {
            name: percent(mean(aps[self._points(name)][list(_rows(name))].reshape(-1, 1))[0]) for name in self.columns
        }
        classes = map(percent, aps[self._points("AP50")][0])
        return {"protocol": self.protocol, **numbers, "per_class": per_class(data, "AP50", classes)}

    @override
    def resampled(self, data: DetectionSet, found: Found, column: str, weights: Floats) -> Floats | None:
        if column not in self.columns:
            return None
        found.check(data)
        thresholds = tuple(THRESHOLDS[row] for row in _rows(column))
        told = judged(data, found, thresholds, self.inclusive)
        return 100 * mean(average_precisions(told, weights, self._points(column)))

    @override
    def parts(self, data: DetectionSet, found: Found, weights: Floats) -> dict[str, Floats]:
        found.check(data)
        points = self._points(self.of_classes)
        each = average_precisions(judged(data, found, THRESHOLDS[:1], self.inclusive), weights, points)
        easy = replace(data, crowd=data.crowd | data.difficult)  # what counts neither way
        return parts_of(self.of_classes, each, data, tide.costs(easy, found, MOST, points, weights))

    def _points(self, column: str) -> int | None:
        """How many recalls a column is interpolated at; None for the area."""
        return INTERPOLATIONS.get(column, 11 if self.year == 2007 else None)


def _rows(column: str) -> tuple[int, ...]:
    """Which thresholds a column is the mean over."""
    return {"AP": tuple(range(len(THRESHOLDS))), "AP75": (5,)}.get(column, (0,))


def judged(data: DetectionSet, found: Found, thresholds: tuple[float, ...], inclusive: bool = False) -> Judged:
    """What VOC says of the detections: right, wrong, or of a box that is difficult (or a crowd) and so neither."""
    order = np.lexsort((-found.scores, found.labels))  # stable: ties keep the order of the detections
    images, labels = found.images(data)[order], found.labels[order]
    ignored = data.crowd | data.difficult
    box, best = _best_boxes(data, found.xywh[order], images, labels, inclusive)
    right, neither = (np.zeros((len(thresholds), len(order)), bool) for _ in range(2))
    for t, threshold in enumerate(thresholds):
        near = (box >= 0) & (best >= threshold)
        neither[t, near] = ignored[box[near]]
        claims = np.flatnonzero(near & ~neither[t])
        _, first = np.unique(box[claims], return_index=True)
        right[t, claims[first]] = True
    positives = np.flatnonzero(~ignored)
    return Judged(
        bounds=np.searchsorted(labels, np.arange(len(data.classes) + 1)),
        images=images,
        right=right,
        neither=neither,
        positive_images=owners(data)[positives],
        positive_labels=data.labels[positives],
    )


def _best_boxes(
    data: DetectionSet, xywh: Floats, images: NDArray[np.int64], labels: NDArray[np.int64], inclusive: bool
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each detection the box of its image and class with the greatest IoU, and that IoU; -1 where there is none."""
    near = pairs(data, images, labels)
    wider = np.array([0, 0, inclusive, inclusive], np.float64)
    ious = iou(xywh[near.detections] + wider, data.xywh[near.boxes] + wider)
    box, best = np.full(len(xywh), -1), np.full(len(xywh), -1.0)
    np.maximum.at(best, near.detections, ious)
    top = np.flatnonzero(ious == best[near.detections])
    detections, first = np.unique(near.detections[top], return_index=True)  # of equals the first, as the devkit
    box[detections] = near.boxes[top[first]]
    return box, best
