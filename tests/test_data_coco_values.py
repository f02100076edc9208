"""What COCO's reader makes of odd values: of ids, flags, areas, sides, names and boxes."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from data_cases import TOY, damaged, one_line, toy

from benchsuite.data.batches import EvalBatches, Samples
from benchsuite.data.coco import File
from benchsuite.data.dataset import index_of
from benchsuite.data.subset import take
from benchsuite.data.transforms import Fixed
from benchsuite.data.verify import Report, verify
from benchsuite.errors import InputError
from benchsuite.metrics.coco import Coco as CocoMetric
from benchsuite.metrics.metric import Found, Metric
from benchsuite.metrics.voc import Voc as VocMetric


def with_ids(tmp_path: Path, *ids: int) -> File:
    """A set of one box an image, the same in all."""
    from PIL import Image

    for number in range(len(ids)):
        Image.new("RGB", (48, 32)).save(tmp_path / f"{number}.png")
    images = [{"id": id_, "file_name": f"{place}.png", "width": 48, "height": 32} for place, id_ in enumerate(ids)]
    boxes = [
        {"id": place + 1, "image_id": id_, "category_id": 2, "bbox": [1, 2, 20, 20], "area": 400, "iscrowd": 0}
        for place, id_ in enumerate(ids)
    ]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 2, "name": "a"}]}
    (tmp_path / "instances_train.json").write_text(json.dumps(content))
    return File(annotations=tmp_path / "instances_train.json", images=tmp_path)


@pytest.mark.parametrize("first", [1, 0, -7, 2**53 + 1, 2**63 - 2, 2**63, 2**64 - 2])
@pytest.mark.parametrize("metric", [CocoMetric(), CocoMetric(evaluator="pycocotools"), VocMetric(year=2012)])
def test_ids_of_64_bits_are_told_apart(tmp_path: Path, first: int, metric: Metric) -> None:
    data = with_ids(tmp_path, first, first + 1).open()
    assert data.image_ids.tolist() == [first, first + 1]
    perfect = Found(data.image_ids, data.boxes, np.array([0.9, 0.8]), data.labels)
    perfect.save(tmp_path / "d.safetensors")
    assert metric.score(data, Found.load(tmp_path / "d.safetensors"))["AP"] == pytest.approx(100)
    moved = data.boxes + np.array([[0, 0, 0, 0], [30, 0, 30, 0]])
    swapped = Found(data.image_ids, moved, perfect.scores, data.labels)
    assert metric.score(data, swapped)["AP50"] == pytest.approx(50, abs=5)


def test_signed_ids_are_found_among_unsigned_ones() -> None:
    """Which numpy compares as float64, where 2^53 and 2^53 + 1 are one."""
    near = [2**53, 2**53 + 1]
    unsigned, signed = np.array([*near, 2**63 + 1], np.uint64), np.array([-1, *near], np.int64)
    assert index_of(signed, unsigned).tolist() == [-1, 0, 1]
    assert index_of(unsigned, signed).tolist() == [1, 2, -1]


def test_ids_in_batches_and_subsets(tmp_path: Path) -> None:
    data = with_ids(tmp_path, *range(2**64 - 4, 2**64)).open()
    batches = EvalBatches(take(data, 2), Fixed(height=32, width=48), 2, None)
    assert batches[0].image_ids.tolist() == [2**64 - 4, 2**64 - 2]


@pytest.mark.parametrize("value", ["1", 1.5, None, True, 2**64, -(2**63) - 1, 1e300, [1], 10**400])
@pytest.mark.parametrize(
    ("part", "field"),
    [("images", "id"), ("categories", "id"), ("annotations", "id"), ("annotations", "image_id"),
     ("annotations", "category_id")],
)  # fmt: skip
def test_ids_of_another_kind_name_their_place(tmp_path: Path, part: str, field: str, value: object) -> None:
    data = damaged(tmp_path, lambda content: content[part][1].update({field: value}))
    with pytest.raises(InputError) as error:
        data.open()
    one_line(error, "instances_train.json: ", f"{part}[1].{field}")


def test_whole_floats_are_ids(tmp_path: Path) -> None:
    data = damaged(tmp_path, lambda content: content["annotations"][0].update(image_id=1.0, category_id=1.0))
    assert data.open().boxes.tolist() == toy().open().boxes.tolist()


@pytest.mark.parametrize("field", ["iscrowd", "ignore", "difficult"])
def test_flags(tmp_path: Path, field: str) -> None:
    for number, (value, flag) in enumerate([(0, False), (1, True), (False, False), (True, True), (None, False)]):
        data = damaged(tmp_path / str(number), lambda content, v=value: content["annotations"][0].update({field: v}))
        opened = data.open()
        assert bool((opened.crowd if field == "iscrowd" else opened.difficult)[0]) is flag
    for number, value in enumerate(["0", "1", "False", "", 2, -1, 0.5, [], {}, float("nan")]):
        data = damaged(tmp_path / f"bad{number}", lambda content, v=value: content["annotations"][0].update({field: v}))
        with pytest.raises(InputError) as error:
            data.open()
        one_line(error, "annotations[0]", field)


def test_one_box_without_area_takes_its_own_and_says_so(tmp_path: Path) -> None:
    for number, change in enumerate([lambda box: box.pop("area"), lambda box: box.update(area=None)]):
        data = damaged(tmp_path / str(number), lambda content, c=change: c(content["annotations"][0]))
        opened, plain = data.open(), toy().open()
        assert opened.areas.tolist() == [120, *plain.areas.tolist()[1:]]
        assert verify(data).notes[0] == "1 annotations have no area; that of their box is taken"


@pytest.mark.parametrize("area", [-1, float("nan"), float("inf")])
def test_an_area_that_is_none(tmp_path: Path, area: float) -> None:
    with pytest.raises(InputError) as error:
        damaged(tmp_path, lambda content: content["annotations"][2].update(area=area)).open()
    one_line(error, "annotation 3", "area")


@pytest.mark.parametrize("side", [float("inf"), float("nan"), 1e20, 48.5, -3, "48", None, True])
def test_a_side_that_is_no_number_of_pixels(tmp_path: Path, side: object) -> None:
    with pytest.raises(InputError) as error:
        damaged(tmp_path, lambda content: content["images"][2].update(width=side)).open()
    one_line(error, "instances_train.json", "c.png" if side == -3 else "images[2].width")


def test_numbers_beyond_float64(tmp_path: Path) -> None:
    for number, old in enumerate(['"width": 48', '"area": 60.0', '"bbox": [4']):
        data = damaged(tmp_path / str(number), lambda content: None)
        text = data.annotations.read_text()
        assert old in text
        data.annotations.write_text(text.replace(old, old.rsplit(" ", 1)[0] + (" [" if "[" in old else " ") + "1e400"))
        with pytest.raises(InputError) as error:
            data.open()
        one_line(error, "instances_train.json", "out of range")


def test_boxes_far_out_warn_of_nothing(tmp_path: Path) -> None:
    for number, box in enumerate([[1e308] * 4, [0, 0, 1e200, 1e200], [-1e308, 0, 1e308, 5], [float("nan")] * 4]):
        data = damaged(tmp_path / str(number), lambda content, b=box: content["annotations"][1].update(bbox=b))
        with warnings.catch_warnings(), pytest.raises(InputError) as error:
            warnings.simplefilter("error")
            data.open()
        one_line(error, "annotation 2", "not finite")


@pytest.mark.parametrize("name", ["", "a\0.png", None, 7])
def test_a_name_that_no_file_has(tmp_path: Path, name: object) -> None:
    data = damaged(tmp_path, lambda content: content["images"][3].update(file_name=name))
    with pytest.raises(InputError) as error:
        data.open()
    one_line(error, "images[3].file_name")


def test_names_that_lead_out_of_the_folder(tmp_path: Path) -> None:
    data = damaged(tmp_path, lambda content: content["images"][4].update(file_name="../annotations/../images/a.png"))
    assert data.open().read(0).shape == (32, 48, 3)
    (tmp_path / "out.png").write_bytes((TOY / "images" / "a.png").read_bytes())
    (tmp_path / "toy" / "images" / "link.png").symlink_to(tmp_path / "out.png")
    inside = str(tmp_path / "toy" / "images" / "a.png")
    for number, name in enumerate(["../../out.png", str(tmp_path / "out.png"), "link.png", inside]):
        file = tmp_path / f"{number}.json"
        content = json.loads(data.annotations.read_text())
        content["images"][4]["file_name"] = name
        file.write_text(json.dumps(content))
        opened = File(annotations=file, images=data.images).open()
        if name == inside:
            assert opened.read(0).shape == (32, 48, 3)
            continue
        with pytest.raises(InputError) as error:
            opened.read(0)
        one_line(error, "lies outside")


def test_files_that_are_not_utf8(tmp_path: Path) -> None:
    content = (TOY / "annotations" / "instances_train.json").read_bytes()
    for number, text in enumerate([content.replace(b"disc", b"d\xefsc"), content[:200] + b"\xff" + content[200:]]):
        file = tmp_path / f"{number}.json"
        file.write_bytes(text)
        data = File(annotations=file, images=TOY / "images")
        with pytest.raises(InputError) as error:
            data.open()
        one_line(error, f"{number}.json: " if number else "0.json: is not utf-8 text (line 41, byte ")


def test_equal_names_of_categories_stay_two(tmp_path: Path) -> None:
    data = damaged(tmp_path, lambda content: content["categories"][0].update(name="disc"))
    report = verify(data)
    assert isinstance(report, Report)
    assert report.classes == {"disc (id 1)": 2, "bar": 2, "disc (id 9)": 2}
    opened = data.open()
    none = Found(opened.image_ids[:0], np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    for metric in (CocoMetric(), VocMetric(year=2007)):
        scored = metric.score(opened, none)["per_class"]
        assert [(key, each["name"]) for key, each in scored.items()] == [("1", "disc"), ("5", "bar"), ("9", "disc")]


@pytest.mark.parametrize("box", [[3.3, 1, 1e-6, 9], [3.3, 1, 9, 1e-9], [5, 5, -3, 4], [5, 5, 0, 0]])
def test_boxes_without_area_in_float32_are_dropped_and_told(tmp_path: Path, box: list[float]) -> None:
    data = damaged(tmp_path, lambda content: content["annotations"][0].update(bbox=box))
    opened = data.open()
    assert opened.dropped == 2
    assert "annotation 1: " in " ".join(verify(data).notes)


def test_boxes_without_area_within_their_image_are_not_trained_on(tmp_path: Path) -> None:
    data = damaged(tmp_path, lambda content: content["annotations"][0].update(bbox=[47.9999, 5, 20, 20]))
    opened = data.open()
    assert opened.dropped == 1 and not opened.trainable[0]
    samples = Samples(opened, Fixed(height=64, width=96), (), None)
    kept = torch.cat([samples.get(index).boxes for index in range(len(opened))])
    assert len(kept) == opened.trainable.sum() and bool((kept[:, 2:] > kept[:, :2]).all())
    assert "training leaves it out" in " ".join(verify(data).notes)
