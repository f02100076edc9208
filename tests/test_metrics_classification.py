import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchsuite.errors import BenchError
from benchsuite.metrics.classification import drawn, ranks, top_k
from benchsuite.metrics.judged import draws
from benchsuite.metrics.metric import Interval


def test_by_hand():
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.4, 0.1], [0.3, 0.3, 0.4], [0.6, 0.3, 0.1]])
    result = top_k(scores, np.array([1, 1, 2, 2]), ks=(1, 2))
    assert result == {"protocol": "top-k", "top1": 50, "top1_error": 50, "top2": 75, "top2_error": 25}


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_equals_a_stable_sort(seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 4, (9, 6)) / 4, rng.integers(0, 6, 9)
    result = top_k(scores, labels, ks=(1, 3, 6))
    for k in (1, 3, 6):
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        right = [label in row for row, label in zip(best, labels, strict=True)]
        assert result[f"top{k}"] == 100 * np.mean(right)
    assert result["top6"] == 100


@pytest.mark.parametrize(
    ("scores", "ks", "message"),
    [
        (np.zeros((0, 3)), (1,), "no images"),
        (np.full((1, 3), np.nan), (1,), "NaN"),
        (np.zeros((1, 3)), (1, 5), "top-5 of 3 classes"),
    ],
)
def test_bad_input(scores, ks, message):
    with pytest.raises(BenchError, match=message):
        top_k(scores, np.zeros(len(scores), np.int64), ks)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32))
def test_draws_are_a_bootstrap_over_images(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, 40)
    sides = [rng.random((40, 6)) + good * np.eye(6)[labels] for good in (0.3, 0.6)]
    values = [drawn(ranks(scores, labels), 2) for scores in sides]
    assert [value[0] for value in values] == pytest.approx([top_k(scores, labels, (2,))["top2"] for scores in sides])
    for draw, times in enumerate(draws(40).T[:5], 1):
        rows = np.repeat(np.arange(40), times.astype(int))
        expected = [top_k(scores[rows], labels[rows], (2,))["top2"] for scores in sides]
        assert [value[draw] for value in values] == pytest.approx(expected)
    interval = Interval.of(values[1] - values[0])
    assert interval.difference == pytest.approx(values[1][0] - values[0][0])
    naive = []
    for _ in range(1000):
        chosen = rng.integers(0, 40, 40)
        naive.append(np.subtract(*(100 * np.mean(ranks(scores, labels)[chosen] < 2) for scores in reversed(sides))))
    assert (interval.low, interval.high) == pytest.approx(np.quantile(naive, (0.025, 0.975)), abs=5.1)
