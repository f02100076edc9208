"""TIDE (D. Bolya et al., ECCV 2020): what the errors of a detector cost it, each kind by itself.

Section 2.2's six kinds of error, by the greatest IoU of a wrong detection with true boxes of its class and of others,
and what AP50 would be were all of one kind mended (section 2.3). Here for any number of draws of the images at once.

    CLASSIFICATION  of another class a box overlaps enough: counts for that class
    LOCALISATION    of its class a box overlaps, but too little: counts as right
    BOTH            neither is right, yet something is there: left out
    DUPLICATE       of its class a box overlaps enough, which another detection has: left out
    BACKGROUND      nothing is there: left out
    MISSED          a box that nothing found, and that no mended detection would find: not looked for

Of several detections that would be right of one box once mended, the best is, and the others are left out; all are
where the box is found already.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchsuite.data.dataset import DetectionSet, Masks
from benchsuite.metrics.coco_matching import THRESHOLDS, Matching, matching, overlaps
from benchsuite.metrics.judged import Floats, Judged, average_precisions
from benchsuite.metrics.metric import Found
from benchsuite.metrics.overlap import Pairs, owners, pairs_of_any_class

ENOUGH, LITTLE = float(THRESHOLDS[0]), 0.1
"""Overlap from which a detection is right, and up to which it is of the background (section 2.2)."""
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(KINDS))


@dataclass(frozen=True)
class Errors:
    """What D detections are, in their order in `Matching`, and which boxes were missed.

    kinds    int64 [D]      one of `KINDS`; -1 for what is right or counts neither way
    mended   int64 [D]      row of the box that the detection would find, -1 where it would be left out
    missed   bool [boxes]
    """

    kinds: NDArray[np.int64]
    mended: NDArray[np.int64]
    missed: NDArray[np.bool_]


def costs(data: DetectionSet, found: Found, most: int, points: int | None, weights: Floats,
          masks: Masks | None = None) -> dict[str, Floats]:  # fmt: skip
    """For each kind of error what mending all of it would add to AP50, 0–100, [R]; NaN where a draw has no boxes.

    most     detections of each image and class
    points   recalls of the interpolation; None for the area (`average_precisions`)
    weights  float64 [N, R]: how often each image counts
    """
    whole = (0.0, np.inf)
    told = matching(data, found, whole, most, masks)
    errors = errors_of(data, found, told, masks)
    labels, scores = found.labels[told.rows], found.scores[told.rows]
    ignored = np.append(told.ignored, False)[told.boxes[0]]
    right = (told.boxes[0] >= 0) & ~ignored
    plain = _judged(data, found, told, labels, right, ignored, np.ones(len(scores), bool))
    asked = plain.positives(weights) > 0

    def ap(judged: Judged) -> Floats:
        """Classes that have boxes stay in the mean, also where mending leaves them none to be found."""
        each = np.where(asked, np.nan_to_num(average_precisions(judged, weights, points)[0]), 0)
        with np.errstate(invalid="ignore"):
            return np.asarray(100 * each.sum(axis=0) / asked.sum(axis=0))

    before = ap(plain)
    gains: dict[str, Floats] = {}
    for kind, name in enumerate(KINDS):
        if kind == MISSED:
            found_ones = ~errors.missed[~told.ignored]
            mended = replace(plain, positive_images=plain.positive_images[found_ones],
                             positive_labels=plain.positive_labels[found_ones])  # fmt: skip
        else:
            its, target = errors.kinds == kind, errors.mended
            now = its & (target >= 0)
            moved = np.where(now, np.append(data.labels, 0)[target], labels)
            mended = _judged(data, found, told, moved, right | now, ignored, ~its | now)
        gains[name] = ap(mended) - before
    return gains


def _judged(data: DetectionSet, found: Found, told: Matching, labels: NDArray[np.int64], right: NDArray[np.bool_],
            neither: NDArray[np.bool_], kept: NDArray[np.bool_]) -> Judged:  # fmt: skip
    """The `kept` ones of the detections, by these classes; what is moved to another one is ranked anew there."""
    rows = told.rows
    order = np.lexsort((rows, found.image_ids[rows], -found.scores[rows], labels))
    order = order[kept[order]]
    positives = np.flatnonzero(~told.ignored)
    return Judged(
        bounds=np.searchsorted(labels[order], np.arange(len(data.classes) + 1)),
        images=found.images(data)[rows[order]],
        right=right[None, order],
        neither=neither[None, order],
        positive_images=owners(data)[positives],
        positive_labels=data.labels[positives],
    )


def errors_of(data: DetectionSet, found: Found, told: Matching, masks: Masks | None = None) -> Errors:
    """The kind of every wrong detection. Boxes that are ignored are none of its business."""
    boxes = told.boxes[0]
    wrong = np.flatnonzero(boxes < 0)
    used = np.zeros(len(data.boxes), bool)
    used[boxes[boxes >= 0]] = True
    rows = told.rows[wrong]
    near = pairs_of_any_class(data, found.images(data)[rows])
    near = near.chosen(~told.ignored[near.boxes])
    ious = overlaps(data, found, rows, near, masks)
    same = found.labels[rows][near.detections] == data.labels[near.boxes]
    count = len(wrong)
    own, own_box = _best(near, np.where(same, ious, 0.0), count)
    other, other_box = _best(near, np.where(same, 0.0, ious), count)
    taken, _ = _best(near, np.where(same & used[near.boxes], ious, 0.0), count)
    its = np.select(
        [(own >= LITTLE) & (own <= ENOUGH), other >= ENOUGH, taken >= ENOUGH, np.maximum(own, other) <= LITTLE],
        [LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND],
        BOTH,
    )
    target = np.select([its == LOCALISATION, its == CLASSIFICATION], [own_box, other_box], -1)
    target[np.append(used, False)[target]] = -1  # found already
    reachable = np.zeros(len(data.boxes), bool)
    reachable[target[target >= 0]] = True
    # One detection a box: the best, and of equals the first.
    best = np.lexsort((rows, -found.scores[rows]))
    _, first = np.unique(target[best], return_index=True)
    chosen = np.zeros(count, bool)
    chosen[best[first]] = True
    kinds, mended = (np.full(len(boxes), -1) for _ in range(2))
    kinds[wrong], mended[wrong] = its, np.where(chosen, target, -1)
    return Errors(kinds, mended, ~used & ~reachable & ~told.ignored)


def _best(near: Pairs, ious: Floats, count: int) -> tuple[Floats, NDArray[np.int64]]:
    """The greatest of each detection's IoUs and its box, of equals the first; 0 and -1 where it has none."""
    best, box = np.zeros(count), np.full(count, -1)
    np.maximum.at(best, near.detections, ious)
    top = np.flatnonzero((ious == best[near.detections]) & (ious > 0))
    detections, first = np.unique(near.detections[top], return_index=True)
    box[detections] = near.boxes[top[first]]
    return best, box
