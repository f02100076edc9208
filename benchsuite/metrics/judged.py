"""Average precision and recall of judged detections, each image counted as often as it is drawn: once for a score, by
chance for a bootstrap. All draws, thresholds and classes without a loop over images or boxes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Floats = NDArray[np.float64]
DRAWS = 1000
"""Draws of the images from which an interval is made."""
BLOCK = 64
"""Draws that are worked on together, so that what is made of a class stays in the cache."""


@dataclass(frozen=True)
class Judged:
    """What a protocol says of the D detections of a split of N images in K classes, at T IoU thresholds.

    Detections stand by class, then by falling score: those of class k are rows `bounds[k]:bounds[k + 1]`.

    bounds   int64 [K + 1]
    images   int64 [D]         index of the image
    right    bool [T, D]       right
    neither  bool [T, D]       neither right nor wrong: as if it were not there
    positive_images, positive_labels  int64 [P]  of each box that is to be found
    """

    bounds: NDArray[np.int64]
    images: NDArray[np.int64]
    right: NDArray[np.bool_]
    neither: NDArray[np.bool_]
    positive_images: NDArray[np.int64]
    positive_labels: NDArray[np.int64]

    def at(self, thresholds: slice) -> "Judged":
        """At some of the thresholds."""
        return replace(self, right=self.right[thresholds], neither=self.neither[thresholds])

    def positives(self, weights: Floats) -> Floats:
        """How many boxes of each class are to be found in each draw, [K, R]."""
        return _summed(self.positive_labels, self.positive_images, weights, len(self.bounds) - 1)


def draws(images: int, number: int = DRAWS, seed: int = 0) -> Floats:
    """How often each of N images comes in each of R draws of N images with replacement, [N, R].

    It hangs on N and the seed alone: whatever is compared on one split, by whichever protocol, draws the same images.
    """
    return np.concatenate(list(draw_parts(images, number, seed)), axis=1)


def draw_parts(images: int, number: int = DRAWS, seed: int = 0) -> Iterator[Floats]:
    """The same, some draws at a time."""
    rng, even = np.random.default_rng(seed), np.full(images, 1 / images)
    for start in range(0, number, BLOCK):
        drawn = rng.multinomial(images, even, size=min(BLOCK, number - start))
        yield np.ascontiguousarray(drawn.T, dtype=np.float64)


def average_precisions(judged: Judged, weights: Floats, points: int | None) -> Floats:
    """AP, 0–1, [T, K, R]; NaN for a class without boxes in a draw.

    weights float64 [N, R]: how often each image counts. A detection that counts twice stands twice in the ranking, one
    beside the other. `points` recalls 0 … 1 at even distance each have the best precision at that recall or beyond, of
    which AP is the mean (COCO 101, VOC 2007 11); None: the area under precision made falling (VOC 2010 and later).
    """
    parts = [slice(start, start + BLOCK) for start in range(0, weights.shape[1], BLOCK)]
    return np.concatenate([_averages(judged, np.ascontiguousarray(weights[:, part]), points) for part in parts], axis=2)


def _averages(judged: Judged, weights: Floats, points: int | None) -> Floats:
    positives = judged.positives(weights)
    result = np.zeros((len(judged.right), *positives.shape))
    for k in np.flatnonzero(positives.any(axis=1)):
        rows = slice(judged.bounds[k], judged.bounds[k + 1])
        for t, hits, precision in _curves(judged.images[rows], judged.right[:, rows], judged.neither[:, rows], weights):
            np.maximum.accumulate(precision[::-1], axis=0, out=precision[::-1])
            reached = hits if points is None else _reached(hits, np.maximum(positives[k], 1), points)
            # the mean of the best precision, weighed by how far recall comes with each right detection
            result[t, k] = np.einsum("nr,nr->r", precision[1:], np.diff(reached, axis=0)) + precision[0] * reached[0]
            result[t, k] /= np.maximum(positives[k], 1) if points is None else points
    return np.where(positives > 0, result, np.nan)


def recalls(judged: Judged, weights: Floats) -> Floats:
    """Share of the boxes that are found at last, 0–1, [T, K, R]; NaN for a class without boxes in a draw."""
    positives = judged.positives(weights)
    classes = len(judged.bounds) - 1
    label = np.repeat(np.arange(classes), np.diff(judged.bounds))
    hits = [_summed(label[row], judged.images[row], weights, classes) for row in judged.right]
    with np.errstate(invalid="ignore"):
        return np.stack(hits) / positives


def mean(values: Floats) -> Floats:
    """The mean over all but the last axis, of what is defined; NaN where nothing is."""
    flat = values.reshape(-1, values.shape[-1])
    defined = ~np.isnan(flat)
    with np.errstate(invalid="ignore"):
        means: Floats = np.where(defined, flat, 0).sum(axis=0) / defined.sum(axis=0)
    return means


def _curves(
    images: NDArray[np.int64], right: NDArray[np.bool_], neither: NDArray[np.bool_], weights: Floats
) -> Iterator[tuple[int, Floats, Floats]]:
    """For each threshold: how many are right up to and with each right detection, and the precision there, [n, R].

    Precision only falls between two right detections, so that its greatest values are all there.
    """
    marked = np.flatnonzero(right.any(axis=0))  # at some threshold
    if not len(marked):
        return
    upto = marked[-1] + 1
    seen = _summed(np.searchsorted(marked, np.arange(upto)), images[:upto], weights, len(marked)).cumsum(axis=0)
    for t in range(len(right)):
        rows = np.flatnonzero(right[t])
        if len(rows):
            hits = weights[images[rows]]
            np.cumsum(hits, axis=0, out=hits)
            total = seen[np.searchsorted(marked, rows)]
            left_out = np.flatnonzero(neither[t, : rows[-1]])
            if len(left_out):
                places = np.searchsorted(rows, left_out)
                total -= _summed(places, images[left_out], weights, len(rows)).cumsum(axis=0)
            np.maximum(total, 1, out=total)  # before the first image that is drawn: 0 of 0
            yield t, hits, np.divide(hits, total, out=total)


def _summed(rows: NDArray[np.int64], images: NDArray[np.int64], weights: Floats, number: int) -> Floats:
    """The weights of the images of each of `number` rows added up, [number, R]."""
    counts = csr_array((np.ones(len(rows)), (rows, images)), shape=(number, len(weights)))
    return np.asarray(counts @ weights)


def _reached(hits: Floats, positives: Floats, points: int) -> Floats:
    """How many of the recalls 0, …, 1 are at most hits / positives.

    The recalls are the evaluators' floats, k times the step: 0.3 is 3 × 0.1 and so a little more than 3 / 10, which
    decides ties. Whole numbers k = recall / step are exact here, so that they tell the ties.
    """
    steps = points - 1
    late = np.arange(points) * (1 / steps) > np.arange(points) / steps
    hits *= steps
    hits /= positives
    whole = np.floor(hits)
    tied = np.flatnonzero(hits == whole)
    whole += 1
    whole.ravel()[tied] -= late[hits.ravel()[tied].astype(np.intp)]
    return whole
