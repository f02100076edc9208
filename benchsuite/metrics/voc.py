"""PASCAL VOC average precision (Everingham et al., IJCV 2010 and 2015): 11-point (2007) and area under the curve."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from benchsuite.data.dataset import DetectionSet
from benchsuite.metrics.metric import Found, Metric, per_class
from benchsuite.settings import Json

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


class Voc(Metric):
    """AP50, what VOC tables call mAP, and with the same interpolation AP75 and AP, the mean over IoU .50:.05:.95.

    Every detection, by falling score, goes to the box of its class and image with which its IoU is greatest; it is
    right if that IoU is at least the threshold and the box was not taken before. Detections of difficult (and crowd)
    boxes count neither way. `year` 2007 interpolates precision at 11 recalls, 2012 takes the area under the curve of
    falling precision. A class without boxes is left out of the mean.

    The devkit measures pixels that boxes include, width xmax - xmin + 1. Boxes whose edges are coordinates, as our
    VOC reader gives (xmin - 1, ymin - 1, xmax, ymax), have that width as it is. `inclusive` adds the 1 for boxes that
    hold the first and the last pixel.
    """

    of_classes: ClassVar[str] = "AP50"
    year: Literal[2007, 2012] = 2007
    inclusive: bool = False

    @property
    def protocol(self) -> str:
        """`voc07` or `voc12`, with `-inclusive` where 1 is added to widths and heights."""
        return f"voc{self.year % 100:02d}" + ("-inclusive" if self.inclusive else "")

    @property
    def columns(self) -> tuple[str, ...]:
        """The mean over ten IoU thresholds, and AP at .5 and .75."""
        return ("AP", "AP50", "AP75")

    def score(self, data: DetectionSet, found: Found) -> dict[str, Json]:
        """Score `found`; `per_class` holds AP50."""
        found.check(data)
        aps = average_precisions(data, found, THRESHOLDS, self.year, self.inclusive)
        ap50, ap75 = aps[THRESHOLDS.index(0.5)], aps[THRESHOLDS.index(0.75)]
        return {
            "protocol": self.protocol,
            "AP": _percent(aps),
            "AP50": _percent(ap50),
            "AP75": _percent(ap75),
            "per_class": per_class(data, "AP50", map(_percent, ap50)),
        }


def _percent(ap: NDArray[np.float64]) -> float | None:
    defined = ap[~np.isnan(ap)]
    return 100 * float(defined.mean()) if defined.size else None


def average_precisions(
    data: DetectionSet, found: Found, thresholds: tuple[float, ...], year: int, inclusive: bool = False
) -> NDArray[np.float64]:
    """AP, 0–1, [thresholds, classes]; NaN for a class without boxes that count."""
    classes = len(data.classes)
    ignored = data.crowd | data.difficult
    positives = np.bincount(data.labels[~ignored], minlength=classes)
    order = np.lexsort((-found.scores, found.labels))  # stable: ties keep the order of the detections
    best = _best_boxes(data, found, order, inclusive)
    bounds = np.searchsorted(found.labels[order], np.arange(classes + 1))
    average = eleven_point if year == 2007 else area
    result = np.full((len(thresholds), classes), np.nan)
    for t, threshold in enumerate(thresholds):
        right, wrong = _judge(best, ignored, threshold)
        for k in np.flatnonzero(positives):
            rows = slice(bounds[k], bounds[k + 1])
            hits, misses = np.cumsum(right[rows]), np.cumsum(wrong[rows])
            # A detection of a difficult box counts neither way and may come first: 0 / 0 there.
            precision = hits / np.maximum(hits + misses, 1)
            result[t, k] = average(hits / positives[k], precision)
    return result


def eleven_point(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """Mean over recalls 0, .1, …, 1 of the best precision at that recall or beyond (devkit 2007)."""
    best = _falling(precision)
    # The devkit's 0:0.1:1, whose 0.3 is 3 × 0.1 and so a little more than 3 / 10; it decides ties, keep it.
    first = np.searchsorted(recall, np.arange(11) * 0.1)
    return float(np.append(best, 0.0)[first].mean())


def area(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """Area under precision made falling, over recall (devkit 2010 and later, "every point")."""
    return float(np.sum(np.diff(recall, prepend=0.0) * _falling(precision)))


def _falling(precision: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum.accumulate(precision[::-1])[::-1]


@dataclass(frozen=True)
class _Best:
    """For each detection, by class and falling score: the box of greatest IoU and that IoU; -1 where there is none."""

    box: NDArray[np.int64]
    iou: NDArray[np.float64]


def _judge(best: _Best, ignored: NDArray[np.bool_], threshold: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Right and wrong detections; those of ignored boxes are neither."""
    near = (best.box >= 0) & (best.iou >= threshold)
    neither = np.zeros_like(near)
    neither[near] = ignored[best.box[near]]
    claims = np.flatnonzero(near & ~neither)
    _, first = np.unique(best.box[claims], return_index=True)
    right = np.zeros_like(near)
    right[claims[first]] = True
    return right, ~right & ~neither


def _best_boxes(data: DetectionSet, found: Found, order: NDArray[np.int64], inclusive: bool) -> _Best:
    """All (detection, box) pairs of one image and class at once, then the greatest IoU of each detection."""
    classes = len(data.classes)
    detection_group = found.images(data)[order] * classes + found.labels[order]
    box_group = np.repeat(np.arange(len(data)), np.diff(data.offsets)) * classes + data.labels
    boxes_by_group = np.argsort(box_group, kind="stable")
    start = np.searchsorted(box_group[boxes_by_group], detection_group, side="left")
    count = np.searchsorted(box_group[boxes_by_group], detection_group, side="right") - start

    pair_detection = np.repeat(np.arange(len(order)), count)
    first_pair = np.cumsum(count) - count  # where each detection's pairs begin
    pair_box = boxes_by_group[np.arange(len(pair_detection)) + (start - first_pair)[pair_detection]]
    pair_iou = _iou(found.boxes[order].astype(np.float64)[pair_detection], data.boxes[pair_box], float(inclusive))

    best = _Best(np.full(len(order), -1), np.full(len(order), -1.0))
    some = count > 0
    if some.any():
        best.iou[some] = np.maximum.reduceat(pair_iou, first_pair[some])
        top = np.flatnonzero(pair_iou == best.iou[pair_detection])
        detections, first = np.unique(pair_detection[top], return_index=True)  # of equals the first, as the devkit
        best.box[detections] = pair_box[top[first]]
    return best


def _iou(a: NDArray[np.float64], b: NDArray[np.float64], extra: float) -> NDArray[np.float64]:
    """IoU of paired boxes xyxy [P, 4]; `extra` is added to every width and height."""
    overlap = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]) + extra
    shared: NDArray[np.float64] = np.prod(np.maximum(overlap, 0.0), axis=1)
    union = np.prod(a[:, 2:] - a[:, :2] + extra, axis=1) + np.prod(b[:, 2:] - b[:, :2] + extra, axis=1) - shared
    ious: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ious
