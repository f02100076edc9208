"""Which detections overlap which true boxes: the one IoU of boxes in numpy, and all pairs of one image and class."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchsuite.data.dataset import DetectionSet
from benchsuite.metrics.judged import Floats


def iou(a: Floats, b: Floats, crowd: NDArray[np.bool_] | None = None) -> Floats:
    """IoU of boxes [..., 4] (left, top, width, height), broadcast against each other; 0 where neither has area.

    Where b is a `crowd`, it is the share of a that lies in it (COCO).
    """
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    shared: Floats = np.prod(np.maximum(high - np.maximum(a[..., :2], b[..., :2]), 0.0), axis=-1)
    area_a, area_b = (np.prod(boxes[..., 2:], axis=-1) for boxes in (a, b))
    union = area_a + area_b - shared if crowd is None else np.where(crowd, area_a, area_a + area_b - shared)
    ious: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ious


def met(
    boxes: Floats, labels: NDArray[np.int64], others: Floats, other_labels: NDArray[np.int64], least: float = 0.5
) -> NDArray[np.bool_]:
    """For each of boxes [N, 4], whether one of `others` [M, 4] of the same class overlaps it with at least that IoU."""
    near = iou(boxes[:, None], others[None]) >= least
    result: NDArray[np.bool_] = (near & (labels[:, None] == other_labels)).any(axis=1)
    return result


@dataclass(frozen=True)
class Pairs:
    """P pairs of a detection and a true box of its image and class, by detection, then by box.

    detections int64 [P]    rows of the detections in the order they were asked for
    boxes      int64 [P]    rows of the truth
    """

    detections: NDArray[np.int64]
    boxes: NDArray[np.int64]

    def chosen(self, keep: NDArray[np.bool_]) -> "Pairs":
        """Some of the pairs."""
        return Pairs(self.detections[keep], self.boxes[keep])


def owners(data: DetectionSet) -> NDArray[np.int64]:
    """Index of the image of each true box, [T]."""
    return np.repeat(np.arange(len(data)), np.diff(data.offsets))


def pairs(data: DetectionSet, images: NDArray[np.int64], labels: NDArray[np.int64]) -> Pairs:
    """All pairs of detections, of those images (index) and classes, with the true boxes of their image and class."""
    classes = len(data.classes)
    return _alike(images * classes + labels, owners(data) * classes + data.labels)


def pairs_of_any_class(data: DetectionSet, images: NDArray[np.int64]) -> Pairs:
    """All pairs of detections, of those images (index), with the true boxes of their image."""
    return _alike(images, owners(data))


def _alike(detection_group: NDArray[np.int64], box_group: NDArray[np.int64]) -> Pairs:
    boxes_by_group = np.argsort(box_group, kind="stable")
    start = np.searchsorted(box_group[boxes_by_group], detection_group, side="left")
    count = np.searchsorted(box_group[boxes_by_group], detection_group, side="right") - start
    detections = np.repeat(np.arange(len(detection_group)), count)
    first_pair = np.cumsum(count) - count  # where each detection's pairs begin
    return Pairs(detections, boxes_by_group[np.arange(len(detections)) + (start - first_pair)[detections]])
