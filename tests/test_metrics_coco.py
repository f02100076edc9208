import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_cases import FIXTURES, by_name, detection_set, from_coco, random_case
from pydantic import ValidationError

from benchsuite.errors import BenchError, InputError
from benchsuite.metrics.coco import COLUMNS, Coco, cuts, with_hotcoco, with_pycocotools
from benchsuite.metrics.metric import Found

FAKE100 = Path(__file__).parents[2] / "shared" / "data" / "evalvec" / "coco_fake100"
EVALUATORS = ("hotcoco", "pycocotools")


def one_box(box=(10, 10, 50, 50), score=0.5):
    data = detection_set([0], [[10, 10, 50, 50]], [0], ["a", "b"])
    return data, Found(np.array([7]), np.array([box], float), np.array([score]), np.array([0]))


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_fixture_gives_the_stored_numbers(evaluator):
    data, found = from_coco(FIXTURES / "truth.json", FIXTURES / "detections.json")
    expected = json.loads((FIXTURES / "expected.json").read_text())
    result = Coco(evaluator=evaluator).score(data, found)
    assert result["protocol"] == "coco"
    assert {name: result[name] for name in COLUMNS} == {name: expected[name] for name in COLUMNS}
    assert by_name(result) == expected["per_class"]


@pytest.mark.skipif(not FAKE100.exists(), reason="shared/data/evalvec is not here")
@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_fake100_exact(evaluator):
    data, found = from_coco(FAKE100 / "gt.json", FAKE100 / "dt_bbox.json")
    expected = json.loads((FAKE100 / "expected.json").read_text())["bbox"]
    result = Coco(evaluator=evaluator).score(data, found)
    assert {name: result[name] for name in COLUMNS} == {name: 100 * value for name, value in expected.items()}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_evaluators_agree_bit_for_bit(seed):
    data, found = random_case(seed)
    fast, reference = with_hotcoco(data, found), with_pycocotools(data, found)
    assert np.array_equal(fast.eval["recall"], reference.eval["recall"])
    assert np.array_equal(fast.eval["precision"], reference.eval["precision"])
    assert Coco().score(data, found) == Coco(evaluator="pycocotools").score(data, found)


def test_by_hand():
    # IoU of a 40 × 40 box moved by 10: 30 × 40 / (2 × 1600 - 1200) = 0.6, so right at .50, .55 and .60 of ten.
    data, found = one_box((20, 10, 60, 50))
    result = Coco().score(data, found)
    assert result["AP50"] == pytest.approx(100)
    assert result["AP"] == pytest.approx(30)
    assert (result["AP60"], result["AP70"]) == (pytest.approx(100), 0)
    assert (result["AP60m"], result["AP65m"]) == (pytest.approx(100), 0)
    assert result["APs"] is None and result["AP60s"] is None
    assert result["APm"] == pytest.approx(30)  # 1600 pixels
    assert by_name(result) == {"a": pytest.approx(30), "b": None}
    assert set(result) == {"protocol", "per_class", *Coco().columns}


def test_thresholds_average_to_ap():
    data, found = from_coco(FIXTURES / "truth.json", FIXTURES / "detections.json")
    result = Coco().score(data, found)
    for area in ("", "s", "m", "l"):
        each = [result[f"AP{50 + 5 * step}{area}"] for step in range(10)]
        assert np.mean(each) == pytest.approx(result[f"AP{area}"]), area
    assert len({result[f"AP{iou}"] for iou in range(50, 100, 5)}) > 3, "thresholds differ"


def test_thresholds_are_where_the_evaluators_have_them():
    """0.9 is stored as 0.8999…, so that places are counted, never compared."""
    evaluation = with_pycocotools(*one_box())
    assert evaluation.params.iouThrs == pytest.approx([0.5 + 0.05 * t for t in range(10)])
    assert [label[0] for label in evaluation.params.areaRngLbl] == ["a", "s", "m", "l"]
    found = [cuts((1, 10, 100))[name] for name in ("AP50", "AP60s", "AP70m", "AP80l", "AP85", "AP95l")]
    assert [(cut.threshold, cut.size) for cut in found] == [(0, 0), (2, 1), (4, 2), (6, 3), (7, 0), (9, 3)]


def test_crowd_boxes_are_ignored_and_difficult_ones_count():
    two = [[10, 10, 50, 50], [100, 100, 150, 150]]
    crowd = detection_set([0, 0], two, [0, 0], ["a"], crowd=[False, True])
    difficult = detection_set([0, 0], two, [0, 0], ["a"], difficult=[False, True])
    found = Found(np.array([7]), crowd.boxes[:1], np.array([0.5]), np.array([0]))
    assert Coco().score(crowd, found)["AR100"] == 100
    assert Coco().score(difficult, found)["AR100"] == 50


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_no_detections_score_zero(evaluator):
    data, _ = one_box()
    none = Found(np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0), np.zeros(0, np.int64))
    result = Coco(evaluator=evaluator).score(data, none)
    assert result["AP"] == 0
    assert by_name(result) == {"a": 0, "b": None}


def test_nothing_is_printed(capfd):
    data, found = one_box()
    for evaluator in EVALUATORS:
        Coco(evaluator=evaluator).score(data, found)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_ids": np.array([99])}, "image id 99 is not in case"),
        ({"labels": np.array([2])}, "class 2 is none of the 2"),
        ({"labels": np.array([-1])}, "class -1"),
        ({"scores": np.array([np.nan])}, r"scores of detection 0 \(image 7\)"),
        ({"boxes": np.array([[0, 0, np.inf, 1]])}, "boxes of detection 0"),
    ],
)
def test_detections_that_do_not_fit(change, message):
    data, found = one_box()
    with pytest.raises(InputError, match=message):
        Coco().score(data, Found(**{**vars(found), **change}))


def test_settings_refuse_other_evaluators():
    with pytest.raises(ValidationError):
        Coco(evaluator="fast")


def test_found_is_saved_and_loaded(tmp_path):
    _, found = random_case(5)
    found.save(tmp_path / "detections.safetensors")
    again = Found.load(tmp_path / "detections.safetensors")
    assert all(np.array_equal(value, vars(again)[name]) for name, value in vars(found).items())


def test_broken_files_of_detections(tmp_path):
    file = tmp_path / "detections.safetensors"
    with pytest.raises(BenchError, match="no such file"):
        Found.load(file)
    random_case(5)[1].save(file)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(BenchError, match="predict again"):
        Found.load(file)
    with pytest.raises(BenchError, match="unlike length"):
        Found(np.zeros(2, np.int64), np.zeros((2, 4)), np.zeros(3), np.zeros(3, np.int64))


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_sizes_and_limits_are_settings(evaluator):
    data = detection_set([0] * 3, [[0, 0, 20, 20], [30, 30, 90, 90], [100, 100, 250, 250]], [0] * 3, ["a"])
    found = Found(np.full(3, 7), data.boxes, np.array([0.9, 0.8, 0.7]), np.zeros(3, np.int64))
    usual = Coco(evaluator=evaluator).score(data, found)
    other = Coco(evaluator=evaluator, small=70, large=100, limits=(1, 2, 3))
    result = other.score(data, found)
    assert (usual["APm"], result["APm"], result["APs"]) == (pytest.approx(100), None, pytest.approx(100))
    assert (result["AR1"], result["AR2"]) == (pytest.approx(100 / 3), pytest.approx(200 / 3))
    assert "AR10" not in result and set(result) == {"protocol", "per_class", *other.columns}
    assert Coco(evaluator=evaluator, limits=(1, 2, 300)).score(data, found)["AP"] == pytest.approx(100)
    for metric in (other, Coco(limits=(1, 2, 3)), Coco(small=70)):
        for column in metric.columns:
            expected = metric.score(data, found)[column]
            one = metric.resampled(data, found, column, np.ones((1, 1)))
            assert one == pytest.approx([np.nan if expected is None else expected], nan_ok=True), column


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_the_last_limit_cuts_average_precision(evaluator):
    corners = np.arange(5)[:, None] * 50.0 + [0, 0]
    data = detection_set([0] * 5, np.concatenate([corners, corners + 40], axis=1), [0] * 5, ["a"])
    found = Found(np.full(5, 7), data.boxes, np.arange(5) / 5, np.zeros(5, np.int64))
    assert Coco(evaluator=evaluator).score(data, found)["AP"] == pytest.approx(100)
    three = Coco(evaluator=evaluator, limits=(1, 2, 3)).score(data, found)["AP"]
    assert three == pytest.approx(100 * 61 / 101)  # recall ends at 3 of 5


def test_unlike_settings_are_unlike_protocols():
    metrics = [Coco(), Coco(small=16), Coco(large=64), Coco(limits=(1, 10, 300)), Coco(small=16, limits=(1, 10, 300))]
    assert len({metric.protocol for metric in metrics}) == len(metrics)
    assert Coco(evaluator="pycocotools").protocol == "coco"
    assert metrics[-1].protocol == "coco-sizes16,96-limits1,10,300"
    for wrong in ({"small": 100}, {"limits": (10, 1, 100)}, {"limits": (1, 10)}, {"limits": (0, 10, 100)}):
        with pytest.raises(ValidationError):
            Coco(**wrong)
