"""Curves, confusions and calibration of detections, by COCO's matching as hotcoco does it: numbers for figures."""

from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray

from benchsuite.data.dataset import DetectionSet, Masks
from benchsuite.errors import InputError
from benchsuite.metrics.coco import Evaluation, with_hotcoco
from benchsuite.metrics.coco_matching import THRESHOLDS
from benchsuite.metrics.judged import Floats
from benchsuite.metrics.metric import Found

BINS = 10


def evaluated(data: DetectionSet, found: Found, masks: Masks | None = None) -> hotcoco.COCOeval:
    """By COCO's own sizes and limits; InputError where the detections do not fit the data."""
    found.check(data)
    evaluation: hotcoco.COCOeval = with_hotcoco(data, found, masks)
    return evaluation


def precisions(evaluation: Evaluation, data: DetectionSet) -> Floats:
    """Precision at recalls 0, 0.01, …, 1 for each threshold and class in label order, [T, 101, K]; NaN for a class
    without boxes."""
    order = np.argsort(np.argsort(data.category_ids, kind="stable"), kind="stable")
    table: Floats = np.asarray(evaluation.eval["precision"])[:, :, order, 0, -1].astype(np.float64)
    table[table < 0] = np.nan
    return table


def thresholds(table: Floats) -> dict[str, Floats]:
    """The mean over classes that have boxes at each threshold, [101], by its name."""
    known = table[:, :, ~np.isnan(table).any(axis=(0, 1))]
    if not known.shape[2]:
        return {}
    return {f"{threshold:.2f}": known[t].mean(axis=1) for t, threshold in enumerate(THRESHOLDS)}


def require_shares(scores: NDArray[np.floating]) -> None:
    """InputError where scores are no shares of 1, of which confusion has a threshold and calibration speaks."""
    if len(scores) and not (scores.min() >= 0 and scores.max() <= 1):
        raise InputError(
            f"scores lie between {scores.min():g} and {scores.max():g}, and this figure is of scores from 0 to 1; "
            "give the detections those"
        )


def confusion(evaluation: hotcoco.COCOeval, data: DetectionSet, least: float) -> NDArray[np.int64]:
    """How often a true class (row) was found as which (column) at IoU 0.5, in label order, [K + 1, K + 1]: the last
    row is of what was found where nothing is, the last column of what was missed."""
    told: dict[str, Any] = evaluation.confusion_matrix(iou_thr=0.5, min_score=least)
    order = np.argsort(np.argsort(data.category_ids, kind="stable"), kind="stable").tolist()
    places = [*order, len(order)]
    return np.asarray(told["matrix"], np.int64)[np.ix_(places, places)]


def calibration(evaluation: hotcoco.COCOeval) -> dict[str, Any]:
    """As hotcoco tells it for ten bins at IoU 0.5: `ece`, `mce`, `bins`."""
    told: dict[str, Any] = evaluation.calibration(n_bins=BINS, iou_threshold=0.5)
    return told
