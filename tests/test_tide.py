"""What errors cost: against hotcoco, by hand, and with images counted twice."""

import numpy as np
import pytest
from metric_cases import detection_set, random_case, replicated

from benchsuite.metrics.coco import Coco, with_hotcoco
from benchsuite.metrics.coco_matching import matching
from benchsuite.metrics.metric import Found, Metric, drawn_weights
from benchsuite.metrics.tide import KINDS, costs, errors_of
from benchsuite.metrics.voc import Voc

SHORT = dict(zip(("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), KINDS, strict=True))


def scene(seed):
    """Boxes and detections beside them, no two scores or overlaps equal: evaluators rank ties unlike each other."""
    rng = np.random.default_rng(seed)
    images, low = np.sort(rng.integers(0, 12, 40)), rng.random((40, 2)) * 150
    boxes = np.concatenate([low, low + 10 + rng.random((40, 2)) * 100], axis=1)
    data = detection_set(images, boxes, rng.integers(0, 3, 40), ["a", "b", "c"], image_ids=np.arange(12))
    source = rng.integers(0, 40, 120)
    found = boxes[source] + rng.normal(0, 12, (120, 4)) * rng.choice([0.2, 1, 3], (120, 1))
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    labels = np.where(rng.random(120) < 0.3, rng.integers(0, 3, 120), data.labels[source])
    return data, Found(data.image_ids[images[source]], found, rng.random(120), labels)


def once(data):
    return np.ones((len(data), 1))


@pytest.mark.parametrize("seed", range(8))
def test_costs_are_hotcocos(seed):
    data, found = scene(seed)
    expected = with_hotcoco(data, found).tide_errors(pos_thr=0.5, bg_thr=0.1)["delta_ap"]
    mine = costs(data, found, 100, 101, once(data))
    assert {kind: float(cost[0]) for kind, cost in mine.items()} == {
        kind: pytest.approx(100 * expected[short], abs=1e-9) for short, kind in SHORT.items()
    }  # fmt: skip


def kinds(data, found):
    told = matching(data, found, (0, np.inf), 100, None)
    errors = errors_of(data, found, told)
    names = [KINDS[kind] if kind >= 0 else "" for kind in errors.kinds[np.argsort(told.rows)]]
    return names, errors.missed.tolist()


@pytest.mark.parametrize(("place", "label", "kind", "missed"), [
    ([200.0, 200, 300, 300], 1, "classification", False), ([200.0, 200, 300, 240], 0, "localisation", False),
    ([200.0, 200, 300, 240], 1, "both", True), ([0.0, 0, 100, 98], 0, "duplicate", True),
    ([120.0, 0, 180, 50], 0, "background", True), ([200.0, 200, 300, 300], 0, "", False),
])  # fmt: skip
def test_each_kind_by_hand(place, label, kind, missed):
    """Two boxes of class a; the first is found, and something else is said of the second or of neither."""
    boxes = [[0.0, 0, 100, 100], [200.0, 200, 300, 300]]
    data = detection_set([0, 0], boxes, [0, 0], ["a", "b"], image_ids=[1])
    found = Found(np.array([1, 1]), np.array([boxes[0], place]), np.array([0.9, 0.8]), np.array([0, label]))
    assert kinds(data, found) == (["", kind], [False, missed])


def test_crowds_are_no_errors_business():
    """As the authors' code has it; hotcoco takes a detection beside a crowd for badly localised."""
    box, crowd = [0.0, 0, 100, 100], [200.0, 200, 300, 300]
    data = detection_set([0, 0], [box, crowd], [0, 0], ["a"], crowd=[0, 1], image_ids=[1])
    found = Found(np.ones(3, int), np.array([box, crowd, [280.0, 200, 330, 240]]), np.array([0.9, 0.8, 0.7]),
                  np.zeros(3, int))  # fmt: skip
    assert kinds(data, found) == (["", "", "background"], [False, False])


def test_what_each_kind_costs_by_hand():
    data = detection_set([0, 0], [[0.0, 0, 100, 100], [200.0, 200, 300, 300]], [0, 0], ["a", "b"], image_ids=[1])
    alone = Found(np.array([1]), np.array([[0.0, 0, 100, 100]]), np.array([0.8]), np.array([0]))
    gains = costs(data, alone, 100, None, once(data))
    assert {name: cost[0] for name, cost in gains.items()} == dict.fromkeys(KINDS, 0) | {"missed": pytest.approx(50)}
    # Two detections would be right of the second box: the better one is mended, the other left out.
    near = [[0.0, 0, 100, 100], [200.0, 200, 300, 240], [200.0, 200, 300, 230]]
    found = Found(np.ones(3, int), np.array(near), np.array([0.7, 0.9, 0.8]), np.zeros(3, int))
    gains = costs(data, found, 100, None, once(data))
    assert gains["localisation"][0] == pytest.approx(100 - 100 / 6), "from the third of three to both of two"
    assert gains["missed"][0] == 0


@pytest.mark.parametrize("seed", range(3))
def test_an_image_that_counts_twice_stands_there_twice(seed):
    data, found = scene(seed)
    times = np.random.default_rng(seed).integers(0, 3, len(data))
    weighed = costs(data, found, 100, 101, times[:, None].astype(float))
    copies = costs(*replicated(data, found, times), 100, 101, np.ones((times.sum(), 1)))
    assert {name: cost[0] for name, cost in weighed.items()} == pytest.approx(
        {name: cost[0] for name, cost in copies.items()}
    )


@pytest.mark.parametrize("metric", [Coco(), Coco(small=40, large=80), Voc(year=2007), Voc(year=2012)])
@pytest.mark.parametrize("seed", [1, 4, 8])
def test_parts_with_every_image_once_are_the_scores(metric: Metric, seed: int) -> None:
    data, found = random_case(seed)
    scores, parts = metric.score(data, found), metric.parts(data, found, drawn_weights(len(data))[:, :3])
    told = {name: None if np.isnan(part[0]) else part[0] for name, part in parts.items()}
    assert told[metric.of_classes] == pytest.approx(scores[metric.of_classes])
    for name, column in (("small", "APs"), ("medium", "APm"), ("large", "APl")):
        if f"size/{name}" in told:
            assert told[f"size/{name}"] == pytest.approx(scores[column])
    for name, column in (("IoU 0.5", "AP50"), ("IoU 0.9", "AP90")):
        if f"overlap/{name}" in told:
            assert told[f"overlap/{name}"] == pytest.approx(scores[column])
    for each in scores["per_class"].values():  # type: ignore[union-attr]
        assert told[f"class/{each['name']}"] == pytest.approx(each[metric.of_classes])
    assert {name.partition("/")[2] for name in parts if name.startswith("error/")} == set(KINDS)


def test_nothing_to_find_and_nothing_found():
    empty = detection_set([], [], [], ["a"], image_ids=[3])
    none = Found(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    some = Found(np.array([3]), np.array([[0.0, 0, 9, 9]]), np.ones(1), np.zeros(1, np.int64))
    for found in (none, some):
        assert all(np.isnan(cost).all() for cost in costs(empty, found, 100, 101, once(empty)).values())
    data = detection_set([0], [[0, 0, 10, 10]], [0], ["a"], image_ids=[3])
    assert {name: cost[0] for name, cost in costs(data, none, 100, 101, once(data)).items()} == dict.fromkeys(KINDS, 0)
