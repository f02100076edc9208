import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_cases import detection_set, paired, random_case, replicated

from benchsuite.metrics import metric as metrics
from benchsuite.metrics.coco import Coco
from benchsuite.metrics.judged import draws
from benchsuite.metrics.metric import Found
from benchsuite.metrics.voc import Voc

METRICS = (Voc(year=2007), Voc(year=2012), Voc(year=2012, inclusive=True), Coco())


def value(metric, data, found, column):
    measured = metric.score(data, found)[column]
    return np.nan if measured is None else measured


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(METRICS), st.data())
def test_weights_of_one_are_the_score(seed, metric, drawn):
    data, found = random_case(seed)
    column = drawn.draw(st.sampled_from(metric.columns))
    one = metric.resampled(data, found, column, np.ones((len(data), 1)))
    assert one == pytest.approx([value(metric, data, found, column)], abs=1e-10, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(METRICS), st.data())
def test_weights_are_images_put_in_again(seed, metric, drawn):
    """Against the score of a data set in which each image stands as often as its weight says."""
    data, tied = random_case(seed)
    rng = np.random.default_rng(seed)
    # No two equal scores, whose order would be another in the larger set.
    found = Found(tied.image_ids, tied.boxes, rng.permutation(len(tied)) / 64, tied.labels)
    column = drawn.draw(st.sampled_from(metric.columns))
    weights = rng.integers(0, 4, (len(data), 3)).astype(float)
    measured = metric.resampled(data, found, column, weights)
    naive = [value(metric, *replicated(data, found, times.astype(int)), column) for times in weights.T if times.any()]
    assert measured[weights.any(axis=0)] == pytest.approx(naive, abs=1e-10, nan_ok=True)


def test_draws_are_of_all_images_and_the_same_for_everybody():
    drawn = draws(40, 300)
    assert drawn.shape == (40, 300)
    assert (drawn.sum(axis=0) == 40).all()
    assert drawn.mean(axis=1) == pytest.approx(np.ones(40), abs=0.3)
    assert np.array_equal(drawn, draws(40, 300)) and not np.array_equal(drawn, draws(40, 300, seed=1))


def side_by_side():
    """Forty images of one box each; the first detector misses every fourth, the second every second."""
    boxes = np.tile([10.0, 10, 50, 50], (40, 1))
    data = detection_set(np.arange(40), boxes, np.zeros(40), ["a"])
    rng = np.random.default_rng(0)

    def seen(every):
        moved = boxes + np.where(np.arange(40) % every == 0, 200.0, 0.0)[:, None]
        return Found(data.image_ids, moved, rng.random(40), np.zeros(40, np.int64))

    return data, seen(4), seen(2)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.protocol)
def test_paired_is_first_minus_second(metric):
    data, first, second = side_by_side()
    interval = paired(metric, data, first, second, "AP50")
    assert interval.difference == pytest.approx(
        value(metric, data, first, "AP50") - value(metric, data, second, "AP50")
    )
    assert interval.difference > 0
    assert interval.low < interval.difference < interval.high
    other = paired(metric, data, second, first, "AP50")
    assert (other.low, other.high) == pytest.approx((-interval.high, -interval.low))
    none = paired(metric, data, first, first, "AP50")
    assert (none.low, none.high, none.difference) == (0, 0, 0)


@pytest.mark.parametrize("metric", METRICS[:2], ids=lambda metric: metric.protocol)
def test_the_interval_is_a_bootstrap(metric, monkeypatch):
    """Against images drawn one after the other, put together and scored."""
    data, first, second = side_by_side()
    monkeypatch.setattr(metrics, "draws", lambda images: draws(images, 3000))
    interval = paired(metric, data, first, second, "AP50")
    rng, naive = np.random.default_rng(5), []
    for _ in range(300):
        times = np.bincount(rng.integers(0, 40, 40), minlength=40)
        naive.append(np.subtract(*(value(metric, *replicated(data, side, times), "AP50") for side in (first, second))))
    low, high = np.quantile(naive, (0.025, 0.975))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.25 * (high - low))


def test_a_column_that_no_image_can_be_drawn_for():
    data, found = random_case(3)
    assert all(metric.drawn(data, found, "latency_ms") is None for metric in METRICS)
    empty = detection_set([], [], [], ["a"], image_ids=[3])
    nothing = Found(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    assert all(paired(metric, empty, nothing, nothing, "AP") is None for metric in METRICS)
    assert all(set(metric.paired_columns) == set(metric.columns) for metric in METRICS)
