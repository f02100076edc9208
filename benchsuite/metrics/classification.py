"""Top-k accuracy and error of image classification."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchsuite.errors import BenchError
from benchsuite.metrics.judged import DRAWS, Floats, draw_parts
from benchsuite.settings import Json

PROTOCOL = "top-k"


def top_k(scores: NDArray[np.floating], labels: NDArray[np.int64], ks: Sequence[int] = (1, 5)) -> dict[str, Json]:
    """Share of images, 0–100, whose class is among the k highest scores: `top1`, and `top1_error` = 100 - `top1`.

    scores floating [N, K], labels int64 [N], 0-based. Of equal scores the lower class comes first. BenchError where
    there is no image, a score is NaN or k exceeds the number of classes.
    """
    if max(ks) > scores.shape[1]:
        raise BenchError(
            f"classification: top-{max(ks)} of {scores.shape[1]} classes; ask for a k up to {scores.shape[1]}"
        )
    rank = ranks(scores, labels)
    result: dict[str, Json] = {"protocol": PROTOCOL}
    for k in ks:
        accuracy = 100 * float((rank < k).mean())
        result |= {f"top{k}": accuracy, f"top{k}_error": 100 - accuracy}
    return result


def ranks(scores: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes come before an image's own, int64 [N]; of equal scores the lower class comes first.

    BenchError where there is no image or a score is NaN.
    """
    images, classes = scores.shape
    if images == 0:
        raise BenchError("classification: no images to score; the split is empty")
    if np.isnan(scores).any():
        raise BenchError("classification: a score is NaN; look for a diverged training")
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    lower = np.arange(classes) < labels[:, None]
    before: NDArray[np.int64] = ((scores > own) | ((scores == own) & lower)).sum(axis=1)
    return before


def drawn(ranks: NDArray[np.int64], k: int) -> Floats:
    """The top-k accuracy, 0–100, with every image once and then in each of `DRAWS` draws of images, which are the same
    for whatever is judged on this split: [1 + DRAWS]. `ranks` as above."""
    hits = (ranks < k).astype(np.float64)
    parts = [hits @ part for part in draw_parts(len(hits), DRAWS)]
    accuracies: Floats = 100 * np.concatenate([[hits.sum()], *parts]) / len(hits)
    return accuracies
