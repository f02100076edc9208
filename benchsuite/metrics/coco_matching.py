"""COCO's matching of detections with true boxes or masks (pycocotools' `evaluateImg`), of all images and thresholds at
once: what a bootstrap over images resamples. The score itself is an evaluator's (`coco.Coco`); a test holds them equal.
"""

from dataclasses import dataclass

import hotcoco
import numpy as np
from hotcoco.primitives import mask_iou
from numpy.typing import NDArray

from benchsuite.data.dataset import DetectionSet, Masks, Rle
from benchsuite.errors import InputError
from benchsuite.metrics.judged import Judged
from benchsuite.metrics.metric import Found
from benchsuite.metrics.overlap import Pairs, iou, owners, pairs

THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class Matching:
    """Which true box each of D detections takes, by class, falling score, image id and their own order.

    rows     int64 [D]      of the detections
    ranks    int64 [D]      in image and class
    boxes    int64 [T, D]   row of the box at each of `THRESHOLDS`, -1 for none
    ignored  bool [boxes]   what is found there counts neither way
    """

    rows: NDArray[np.int64]
    ranks: NDArray[np.int64]
    boxes: NDArray[np.int64]
    ignored: NDArray[np.bool_]


def matching(data: DetectionSet, found: Found, area: tuple[float, float], most: int, masks: Masks | None) -> Matching:
    """Of the `most` best detections of each image and class, for true boxes whose area is in the range."""
    images = found.images(data)
    order, rank = _ranked(data, found, images)
    order, rank = order[rank < most], rank[rank < most]
    ignored = data.crowd | (data.areas < area[0]) | (data.areas > area[1])
    candidates = pairs(data, images[order], found.labels[order])
    ious = overlaps(data, found, order, candidates, masks)
    near = ious >= THRESHOLDS[0]
    boxes = _matched(candidates.chosen(near), ious[near], rank, data.crowd, ignored)
    return Matching(order, rank, boxes, ignored)


def judged(
    data: DetectionSet, found: Found, area: tuple[float, float], limit: int, most: int, masks: Masks | None = None
) -> Judged:
    """What COCO says of the detections among the `limit` best of their image and class, for objects whose area is in
    the range. `most` are matched; with the true `masks`, by masks."""
    told = matching(data, found, area, most, masks)
    order, box, ignored = told.rows, told.boxes, told.ignored
    areas = _areas(data, found, masks)[order]
    beyond = (areas < area[0]) | (areas > area[1])
    neither = np.where(box >= 0, np.append(ignored, False)[box], beyond)
    right = (box >= 0) & ~neither
    kept = told.ranks < limit
    positives = np.flatnonzero(~ignored)
    return Judged(
        bounds=np.searchsorted(found.labels[order[kept]], np.arange(len(data.classes) + 1)),
        images=found.images(data)[order[kept]],
        right=right[:, kept],
        neither=neither[:, kept],
        positive_images=owners(data)[positives],
        positive_labels=data.labels[positives],
    )


def _ranked(data: DetectionSet, found: Found, images: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The detections by class, falling score, image id and their own order; and each one's rank in image and class."""
    number = np.arange(len(found))
    by_image = np.lexsort((number, -found.scores, images, found.labels))
    group = found.labels[by_image] * len(data) + images[by_image]
    starts = np.searchsorted(group, group)  # where each detection's image and class begins
    rank = np.empty(len(found), np.int64)
    rank[by_image] = number - starts
    order = np.lexsort((number, found.image_ids, -found.scores, found.labels))
    return order, rank[order]


def _matched(
    candidates: Pairs,
    ious: NDArray[np.float64],
    rank: NDArray[np.int64],
    crowd: NDArray[np.bool_],
    ignored: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """The box of each detection, -1 for none, [T, D].

    By rank, which settles every image and class at once: each takes the box of greatest IoU that is free (a crowd
    always is), one that counts before one that is ignored, and of equals the last.
    """
    matched = np.full((len(THRESHOLDS), len(rank)), -1)
    taken = np.zeros((len(THRESHOLDS), len(crowd)), bool)
    places = np.lexsort((candidates.boxes, candidates.detections, rank[candidates.detections]))
    by_rank = rank[candidates.detections[places]]
    for start, stop in zip(*_runs(by_rank), strict=True):
        now = places[start:stop]
        detections, boxes = candidates.detections[now], candidates.boxes[now]
        first, after = _runs(detections)
        which = np.repeat(np.arange(len(first)), after - first)
        free = (ious[now] >= THRESHOLDS[:, None]) & (~taken[:, boxes] | crowd[boxes])
        counts = free & ~ignored[boxes]
        free &= counts | ~np.logical_or.reduceat(counts, first, axis=1)[:, which]
        best = np.maximum.reduceat(np.where(free, ious[now], -1.0), first, axis=1)
        last = np.maximum.reduceat(
            np.where(free & (ious[now] == best[:, which]), np.arange(len(now)), -1), first, axis=1
        )
        t, d = np.nonzero(last >= 0)
        box = boxes[last[t, d]]
        matched[t, detections[first][d]] = box
        taken[t, box] = True
    return matched


def _runs(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where runs of equal values start and stop."""
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    return starts, np.append(starts, len(values))[1:]


def _areas(data: DetectionSet, found: Found, masks: Masks | None) -> NDArray[np.float64]:
    """Areas of the detections."""
    if masks is not None:
        return np.asarray(hotcoco.mask.area(rles(data, found)), np.float64)
    areas: NDArray[np.float64] = np.prod(found.xywh[:, 2:], axis=1)
    return areas


def overlaps(
    data: DetectionSet,
    found: Found,
    order: NDArray[np.int64],
    candidates: Pairs,
    masks: Masks | None,
) -> NDArray[np.float64]:
    """IoU of each pair, of places in `order`; with a crowd, what share of the detection lies in it."""
    rows = order[candidates.detections]
    if masks is None:
        return iou(found.xywh[rows], data.xywh[candidates.boxes], crowd=data.crowd[candidates.boxes])
    held, result = rles(data, found), np.empty(len(rows))
    by_image = np.argsort(owners(data)[candidates.boxes], kind="stable")
    for start, stop in zip(*_runs(owners(data)[candidates.boxes[by_image]]), strict=True):
        now = by_image[start:stop]
        (own, d), (true, t) = (np.unique(each, return_inverse=True) for each in (rows[now], candidates.boxes[now]))
        true_masks = [masks.rle(row) for row in true.tolist()]
        table = mask_iou([held[row] for row in own.tolist()], true_masks, data.crowd[true])
        result[now] = table[d, t]
    return result


def rles(data: DetectionSet, found: Found) -> list[Rle]:
    """The detections' masks; InputError where they have none."""
    if found.masks is None:
        raise InputError(f"detections of {data.name}: have boxes but no masks; choose a model that finds masks")
    sizes = data.sizes[found.images(data)].tolist()
    return [{"size": size, "counts": counts} for size, counts in zip(sizes, found.masks, strict=True)]
