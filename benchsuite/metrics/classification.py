"""Top-k accuracy and error of image classification."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchsuite.errors import BenchError
from benchsuite.settings import Json


def top_k(scores: NDArray[np.floating], labels: NDArray[np.int64], ks: Sequence[int] = (1, 5)) -> dict[str, Json]:
    """Share of images, 0–100, whose class is among the k highest scores: `top1`, and `top1_error` = 100 - `top1`.

    scores floating [N, K], labels int64 [N], 0-based. Of equal scores the lower class comes first. BenchError where
    there is no image, a score is NaN or k exceeds the number of classes.
    """
    images, classes = scores.shape
    if images == 0:
        raise BenchError("classification: no images to score; the split is empty")
    if np.isnan(scores).any():
        raise BenchError("classification: a score is NaN; look for a diverged training")
    if max(ks) > classes:
        raise BenchError(f"classification: top-{max(ks)} of {classes} classes; ask for a k up to {classes}")
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    lower = np.arange(classes) < labels[:, None]
    rank = ((scores > own) | ((scores == own) & lower)).sum(axis=1)
    result: dict[str, Json] = {"protocol": "top-k"}
    for k in ks:
        accuracy = 100 * float((rank < k).mean())
        result |= {f"top{k}": accuracy, f"top{k}_error": 100 - accuracy}
    return result
