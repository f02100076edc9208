import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_cases import FIXTURES, by_name, detection_set, random_case

from benchsuite.errors import InputError
from benchsuite.metrics.judged import average_precisions
from benchsuite.metrics.metric import Found
from benchsuite.metrics.voc import THRESHOLDS, Voc, judged

CASE1 = Path(__file__).parents[2] / "shared" / "data" / "evalvec" / "voc_case1"


def averages(data, found, thresholds, year, inclusive=False):
    """[T, K]"""
    points = 11 if year == 2007 else None
    return average_precisions(judged(data, found, thresholds, inclusive), np.ones((len(data), 1)), points)[:, :, 0]


def iou(a, b, extra):
    width = min(a[2], b[2]) - max(a[0], b[0]) + extra
    height = min(a[3], b[3]) - max(a[1], b[1]) + extra
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    size = [(box[2] - box[0] + extra) * (box[3] - box[1] + extra) for box in (a, b)]
    return shared / (size[0] + size[1] - shared)


def naive_average_precision(data, found, k, threshold, year, extra=0.0):
    """The devkit's VOCevaldet, one detection after the other."""
    boxes = {}
    for index, image_id in enumerate(data.image_ids):
        rows = data.rows(index)
        boxes[image_id] = [t for t in range(rows.start, rows.stop) if data.labels[t] == k]
    ignored = data.difficult | data.crowd
    positives = sum(not ignored[t] for rows in boxes.values() for t in rows)
    if positives == 0:
        return None
    mine = [d for d in range(len(found)) if found.labels[d] == k]
    taken, right, wrong, recall, precision = set(), 0, 0, [], []
    for d in sorted(mine, key=lambda d: -found.scores[d]):
        best, best_iou = None, -1.0
        for t in boxes[found.image_ids[d]]:
            overlap = iou(found.boxes[d], data.boxes[t], extra)
            if overlap > best_iou:
                best, best_iou = t, overlap
        if best is None or best_iou < threshold:
            wrong += 1
        elif not ignored[best]:
            right, wrong = (right, wrong + 1) if best in taken else (right + 1, wrong)
            taken.add(best)
        recall.append(right / positives)
        precision.append(right / max(right + wrong, 1))
    if year == 2007:
        reached = [[p for r, p in zip(recall, precision, strict=True) if r >= t] for t in np.arange(11) * 0.1]
        return sum(max(values, default=0.0) for values in reached) / 11
    total, before = 0.0, 0.0
    for d, r in enumerate(recall):
        total += (r - before) * max(precision[d:])
        before = r
    return total


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([2007, 2012]), st.booleans())
def test_fast_equals_naive(seed, year, inclusive):
    data, found = random_case(seed)
    fast = averages(data, found, (0.3, 0.5, 0.75), year, inclusive)
    for t, threshold in enumerate((0.3, 0.5, 0.75)):
        for k in range(3):
            naive = naive_average_precision(data, found, k, threshold, year, float(inclusive))
            assert fast[t, k] == pytest.approx(np.nan if naive is None else naive, abs=1e-12, nan_ok=True)


@pytest.mark.skipif(not CASE1.exists(), reason="shared/data/evalvec is not here")
@pytest.mark.parametrize(("year", "name"), [(2007, "eleven_point"), (2012, "every_point")])
def test_case1(year, name):
    names = sorted(path.name for path in (CASE1 / "gts").iterdir())

    def read(folder):
        texts = [(CASE1 / folder / file).read_text() for file in names]
        lines = [(i, line.split()) for i, text in enumerate(texts) for line in text.splitlines()]
        numbers = np.array([[float(value) for value in words[1:]] for _, words in lines])
        numbers[:, -2:] += numbers[:, -4:-2]
        return np.array([i for i, _ in lines]), numbers

    images, boxes = read("gts")
    data = detection_set(images, boxes, np.zeros(len(boxes)), ["object"], image_ids=range(len(names)))
    images, detections = read("dets")
    found = Found(images, detections[:, 1:], detections[:, 0], np.zeros(len(images), np.int64))
    expected = json.loads((CASE1 / "expected.json").read_text())[name]
    measured = averages(data, found, tuple(float(t) for t in expected), year, inclusive=True)
    assert measured[:, 0] == pytest.approx(list(expected.values()), abs=1e-10)


def fixture():
    case = json.loads((FIXTURES / "voc.json").read_text())
    truth, found = case["truth"], case["detections"]
    data = detection_set(
        [row["image"] for row in truth],
        [row["box"] for row in truth],
        [row["class"] for row in truth],
        ["cat", "dog"],
        difficult=[row["difficult"] for row in truth],
        image_ids=[1, 2],
    )
    columns = [[row[name] for row in found] for name in ("image", "box", "score", "class")]
    return data, Found(np.array(columns[0]) + 1, *(np.array(column) for column in columns[1:])), case["expected"]


@pytest.mark.parametrize("year", [2007, 2012])
def test_fixture_by_hand(year):
    data, found, expected = fixture()
    result = Voc(year=year).score(data, found)
    for name, value in expected[str(year)].items():
        assert result[name] == pytest.approx(value), name
    assert set(result) == {"protocol", "per_class", *Voc().columns}


def test_protocols_have_unlike_names():
    names = {Voc(year=year, inclusive=inclusive).protocol for year in (2007, 2012) for inclusive in (False, True)}
    assert names == {"voc07", "voc12", "voc07-inclusive", "voc12-inclusive"}


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_the_truth_itself_scores_100(seed):
    data, _ = random_case(seed)
    images = np.repeat(data.image_ids, np.diff(data.offsets))
    perfect = Found(images, data.boxes, np.ones(len(images)), data.labels)
    # Two equal boxes of one class in an image both draw the first: the devkit's own rule.
    rows = np.concatenate([images[:, None], data.boxes, data.labels[:, None]], axis=1)
    if len(np.unique(rows, axis=0)) == len(rows):
        result = Voc(year=2012).score(data, perfect)
        assert result["AP"] in (None, pytest.approx(100))


def test_no_detections_score_zero():
    data, _, _ = fixture()
    none = Found(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    result = Voc().score(data, none)
    assert (result["AP"], result["AP50"], by_name(result)) == (0, 0, {"cat": 0, "dog": 0})


def test_no_boxes_are_undefined():
    data = detection_set([], [], [], ["a"], image_ids=[3])
    found = Found(np.array([3]), np.array([[0.0, 0, 9, 9]]), np.array([0.5]), np.array([0]))
    assert Voc().score(data, found) == {
        "protocol": "voc07", **dict.fromkeys(Voc().columns), "per_class": {"1": {"name": "a", "AP50": None}}
    }  # fmt: skip


def test_detections_that_do_not_fit():
    data, found, _ = fixture()
    with pytest.raises(InputError, match="image id 9"):
        Voc().score(data, Found(np.full(len(found), 9), found.boxes, found.scores, found.labels))


def test_thresholds():
    assert THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def test_either_interpolation_beside_the_years_own() -> None:
    data, found = random_case(7)
    old, new = (Voc(year=year).score(data, found) for year in (2007, 2012))
    assert old["AP50_11point"] == new["AP50_11point"] == old["AP50"]
    assert old["AP50_area"] == new["AP50_area"] == new["AP50"] != old["AP50"]
    weights = np.ones((len(data), 1))
    for column in ("AP50_11point", "AP50_area"):
        assert Voc().resampled(data, found, column, weights)[0] == pytest.approx(old[column])
