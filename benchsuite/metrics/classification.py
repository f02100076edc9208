"""Top-k accuracy and error of image classification."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchsuite.errors import BenchError
from benchsuite.metrics.metric import Interval
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


def paired_images(first: NDArray[np.int64], second: NDArray[np.int64], k: int, draws: int = 10_000) -> Interval:
    """How sure the top-k accuracy of `first` minus that of `second` is on this split: images are drawn with
    replacement, the same ones for both. The arguments are their `ranks` of the same images.

    Each image counts -1, 0 or 1, so a draw of N images is a draw of how often each of the three comes.
    """
    gained = (first < k).astype(np.int64) - (second < k)
    counts = np.array([(gained == value).sum() for value in (-1, 0, 1)])
    drawn = np.random.default_rng(0).multinomial(len(gained), counts / len(gained), size=draws)
    differences = 100 * (drawn[:, 2] - drawn[:, 0]) / len(gained)
    low, high = np.quantile(differences, (0.025, 0.975))
    return Interval(float(low), float(high), 100 * float(gained.mean()))
