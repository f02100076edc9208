import json
from pathlib import Path

import numpy as np
import pytest
from data_cases import SHARED, TOY, copy, damaged, one_line, shared, toy
from hypothesis import given
from hypothesis import strategies as st

from benchsuite.data.coco import CLASSES, Coco, File
from benchsuite.data.images import read_image
from benchsuite.errors import InputError, MissingData
from benchsuite.settings import canonical


def test_columns_equal_a_naive_reading() -> None:
    data = toy().open()
    content = json.loads((TOY / "annotations" / "instances_train.json").read_text())
    images = sorted(content["images"], key=lambda image: image["id"])
    kinds = sorted(content["categories"], key=lambda kind: kind["id"])
    assert data.classes == ("disc", "bar", "ring") == toy().classes
    assert data.category_ids.tolist() == [1, 5, 9]
    assert data.image_ids.tolist() == [1, 2, 3, 4, 5]
    assert data.file_names == ("a.png", "b.png", "c.png", "d.png", "e.png")
    assert data.dropped == 1
    for index, image in enumerate(images):
        expected = []
        for box in (box for box in content["annotations"] if box["image_id"] == image["id"]):
            x, y, w, h = box["bbox"]
            if w > 0 and h > 0:
                written = [x, y, x + w, y + h]
                clipped = [max(x, 0), max(y, 0), min(x + w, image["width"]), min(y + h, image["height"])]
                label = [kind["id"] for kind in kinds].index(box["category_id"])
                expected.append((written, label, box["area"], bool(box["iscrowd"]), clipped))
        rows = data.rows(index)
        assert [list(row) for row in data.boxes[rows]] == [row[0] for row in expected]
        assert data.inside(np.arange(rows.start, rows.stop)).tolist() == [row[4] for row in expected]
        assert data.labels[rows].tolist() == [row[1] for row in expected]
        assert data.areas[rows].tolist() == [row[2] for row in expected]
        assert data.crowd[rows].tolist() == [row[3] for row in expected]
        assert data.read(index).shape == (image["height"], image["width"], 3)
        assert data.sizes[index].tolist() == [image["height"], image["width"]]


def test_eighty_classes_are_known_without_data() -> None:
    assert len(CLASSES) == len(set(CLASSES)) == 80
    assert (CLASSES[0], CLASSES[79]) == ("person", "toothbrush")
    assert Coco(split="val2017").classes == CLASSES


def test_2014_names_mean_2017() -> None:
    assert Coco(split="trainval35k").name == "coco train2017"
    assert Coco(split="minival").name == "coco val2017"


@pytest.mark.parametrize("layout", ["val2017", "images/val2017"])
@pytest.mark.parametrize("place", ["", "coco"])
def test_layouts_under_bench_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, place: str) -> None:
    root = tmp_path / place
    (root / "annotations").mkdir(parents=True)
    (root / layout).mkdir(parents=True)
    ids = [
        *range(1, 12),
        *range(13, 26),
        27,
        28,
        *range(31, 45),
        *range(46, 66),
        67,
        70,
        *range(72, 83),
        *range(84, 91),
    ]
    kinds = [{"id": number, "name": name} for number, name in zip(ids, CLASSES, strict=True)]
    images = [{"id": 7, "file_name": "f.png", "width": 48, "height": 30}]
    boxes = [{"id": 3, "image_id": 7, "category_id": 90, "bbox": [1, 2, 3, 4], "area": 5, "iscrowd": 0}]
    content = {"images": images, "annotations": boxes, "categories": kinds}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    (root / layout / "f.png").write_bytes((TOY / "images" / "f.png").read_bytes())
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    data = Coco(split="minival").open()
    assert (data.labels.tolist(), data.areas.tolist(), data.boxes.tolist()) == ([79], [5.0], [[1, 2, 4, 6]])
    assert data.read(0).shape == (30, 48, 3)
    with pytest.raises(MissingData) as error:
        Coco(split="train2017").open()
    one_line(error, "train2017", "found only: val2017", "train2017.zip")


def test_missing_dataset_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "none"))
    with pytest.raises(MissingData) as error:
        Coco(split="train2017").open()
    one_line(error, "http://images.cocodataset.org/zips/train2017.zip", "$BENCH_DATA/coco")
    assert Coco(split="train2017").identity() == "absent"
    with pytest.raises(MissingData) as error:
        Coco(split="trian2017").open()
    one_line(error, "did you mean 'train2017'?")
    with pytest.raises(MissingData) as error:
        File(annotations=tmp_path / "no.json", images=tmp_path).open()
    one_line(error, "no.json")


def test_place_is_not_part_of_the_key_but_content_is(tmp_path: Path) -> None:
    moved = copy(TOY, tmp_path)
    assert canonical(toy()) == canonical(toy(folder=moved))
    (moved / "images" / "e.png").write_bytes(b"x")
    assert canonical(toy()) != canonical(toy("train", copy(moved, tmp_path / "again")))


def test_box_outside_its_image(tmp_path: Path) -> None:
    data = damaged(tmp_path, lambda content: content["annotations"][0].update(bbox=[48, 0, 5, 5]))
    with pytest.raises(InputError) as error:
        data.open()
    one_line(error, "instances_train.json", "annotation 1:", "wholly outside", "a.png of 48x32")


def test_unknown_class_and_image(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        damaged(tmp_path / "1", lambda content: content["annotations"][2].update(category_id=4)).open()
    one_line(error, "annotation 3", "class")
    with pytest.raises(InputError) as error:
        damaged(tmp_path / "2", lambda content: content["annotations"][2].update(image_id=44)).open()
    one_line(error, "annotation 3", "image")


@pytest.mark.parametrize("part", ["images", "categories", "annotations"])
def test_equal_ids(tmp_path: Path, part: str) -> None:
    with pytest.raises(InputError) as error:
        damaged(tmp_path, lambda content: content[part].append(content[part][0])).open()
    one_line(error, "given 2 times")


@pytest.mark.parametrize(
    ("field", "value"), [("bbox", [1, 2, 3]), ("bbox", "x"), ("bbox", None), ("category_id", None), ("image_id", [1])]
)
def test_fields_of_another_type(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(InputError) as error:
        damaged(tmp_path, lambda content: content["annotations"][1].update({field: value})).open()
    one_line(error, "annotations[1]", field)


def test_missing_fields_and_lists(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        damaged(tmp_path / "1", lambda content: content["images"][1].pop("height")).open()
    one_line(error, "images[1]", "height")
    with pytest.raises(InputError) as error:
        damaged(tmp_path / "2", lambda content: content.pop("annotations")).open()
    one_line(error, "`annotations`")
    with pytest.raises(InputError) as error:
        damaged(tmp_path / "3", lambda content: content["annotations"][0].update(bbox=[0, float("nan"), 1, 1])).open()
    one_line(error, "not finite")
    with pytest.raises(InputError) as error:
        damaged(tmp_path / "4", lambda content: content["images"][0].update(width=0)).open()
    one_line(error, "0x48")


def test_not_json(tmp_path: Path) -> None:
    for text in ("{", "[]"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(InputError) as error:
            File(annotations=tmp_path / "x.json", images=tmp_path).open()
        one_line(error, "x.json")


def test_undecodable_and_missing_image(tmp_path: Path) -> None:
    folder = copy(TOY, tmp_path)
    (folder / "images" / "a.png").write_bytes((TOY / "images" / "a.png").read_bytes()[:90])
    (folder / "images" / "b.png").unlink()
    data = toy(folder=folder).open()
    for index, name in enumerate(("a.png", "b.png")):
        with pytest.raises(InputError) as error:
            data.read(index)
        one_line(error, name)


def test_grey_images_become_rgb(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("L", (4, 3), 9).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png"), np.full((3, 4, 3), 9))


@given(st.lists(st.tuples(*[st.floats(-60, 60)] * 2, *[st.floats(-5, 120)] * 2), max_size=6))
def test_boxes_kept_are_inside_and_have_area(boxes: list[tuple[float, float, float, float]]) -> None:
    from dataclasses import replace

    from benchsuite.data.files import checked

    raw, count = toy().raw(), len(boxes)
    xywh = np.array(boxes).reshape(-1, 4)
    some = replace(
        raw,
        boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1),
        owners=np.arange(count) % 5,
        labels=np.zeros(count, np.int64),
        areas=np.ones(count),
        crowd=np.zeros(count, bool),
        difficult=np.zeros(count, bool),
        describe=str,
    )
    if some.outside.any():
        with pytest.raises(InputError):
            checked(some)
        return
    data = checked(some)
    assert len(data.boxes) + data.dropped == count
    assert data.offsets[-1] == len(data.boxes)
    limits = np.repeat(data.sizes, np.diff(data.offsets), axis=0)[:, ::-1]
    inside = data.inside(np.arange(len(data.boxes)))
    assert (inside >= 0).all()
    assert (inside[:, :2] < inside[:, 2:]).all()
    assert (inside[:, 2:] <= limits).all()


@shared
def test_real_coco() -> None:
    train, val = (Coco(split=split, folder=SHARED / "coco_open").open() for split in ("train2017", "minival"))
    assert (len(train), len(train.boxes), len(val), len(val.boxes)) == (92, 829, 66, 560)
    assert train.crowd.sum() + val.crowd.sum() == 17
    assert train.category_ids[-1] == 90
