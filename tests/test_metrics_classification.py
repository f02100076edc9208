import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchsuite.errors import BenchError
from benchsuite.metrics.classification import paired_images, ranks, top_k


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
def test_paired_difference_is_a_bootstrap_over_images(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, 40)
    sides = [rng.random((40, 6)) + good * np.eye(6)[labels] for good in (0.3, 0.6)]
    first, second = (ranks(scores, labels) for scores in sides)
    found = paired_images(first, second, 2, draws=4000)
    accuracies = [top_k(scores, labels, (2,))["top2"] for scores in sides]
    assert found.difference == pytest.approx(accuracies[0] - accuracies[1])
    naive = []
    for _ in range(1000):
        drawn = rng.integers(0, 40, 40)
        naive.append(100 * (np.mean(first[drawn] < 2) - np.mean(second[drawn] < 2)))
    low, high = np.quantile(naive, (0.025, 0.975))
    assert found.low == pytest.approx(low, abs=5.1) and found.high == pytest.approx(high, abs=5.1)
    none = paired_images(first, first, 2)
    assert (none.low, none.high, none.difference) == (0, 0, 0)
