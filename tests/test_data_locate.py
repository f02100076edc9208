import json
from collections.abc import Callable
from pathlib import Path

import pytest
from data_cases import KIT, SHARED, TOY, copy, one_line, shared

from benchsuite.data.coco import File
from benchsuite.data.locate import data_root, open_folder
from benchsuite.data.voc import Voc
from benchsuite.errors import InputError


def test_coco_format() -> None:
    train, val = open_folder(TOY)
    assert (train.name, len(train.open()), val.name, len(val.open())) == ("toy train", 5, "toy val", 3)
    assert train.open().read(0).shape == (32, 48, 3)


def test_devkit() -> None:
    for folder in (KIT, KIT / "VOCdevkit"):
        train, val = open_folder(folder)
        assert isinstance(train, Voc) and isinstance(val, Voc)
        assert (train.splits, val.splits) == (("2007/train",), ("2007/val",))
        assert (len(train.open()), len(val.open())) == (2, 1)


def test_trainval_and_test_are_preferred_and_years_joined(tmp_path: Path) -> None:
    folder = copy(KIT, tmp_path)
    kit = folder / "VOCdevkit"
    (kit / "VOC2007" / "ImageSets" / "Main" / "test.txt").write_text("000003\n")
    lists = kit / "VOC2012" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "trainval.txt").write_text("000001\n")
    train, val = open_folder(folder)
    assert isinstance(train, Voc) and isinstance(val, Voc)
    assert (train.splits, val.splits) == (("2007/trainval", "2012/trainval"), ("2007/test",))


def test_json_is_preferred_and_its_images_may_lie_in_the_devkit(tmp_path: Path) -> None:
    folder = copy(TOY, tmp_path)
    (folder / "VOCdevkit").mkdir()
    (folder / "VOCdevkit" / "VOC2007").mkdir()
    (folder / "images").rename(folder / "VOCdevkit" / "VOC2007" / "JPEGImages")
    # What a checkout without symbolic links leaves of one.
    (folder / "images").write_text("VOCdevkit/VOC2007/JPEGImages")
    train, _ = open_folder(folder)
    assert isinstance(train, File)
    assert train.open().read(0).shape == (32, 48, 3)


@pytest.mark.parametrize("layout", ["train/images", "images"])
def test_other_layouts(tmp_path: Path, layout: str) -> None:
    folder = copy(TOY, tmp_path)
    if layout == "images":
        (folder / "annotations" / "instances_train.json").rename(folder / "train.json")
        (folder / "annotations" / "instances_val.json").rename(folder / "val.json")
    else:  # Roboflow's
        for split, other in (("train", "train"), ("val", "valid")):
            copy(TOY / "images", folder / "new").rename(folder / other)
            (folder / "annotations" / f"instances_{split}.json").rename(folder / other / "_annotations.coco.json")
    train, val = open_folder(folder)
    names = ("train", "val") if layout == "images" else ("train", "valid")
    assert (train.name, val.name) == tuple(f"{folder.name} {name}" for name in names)
    assert (len(train.open()), len(val.open())) == (5, 3)
    assert val.open().read(0).shape == (30, 48, 3)


def test_what_is_needed_is_told(tmp_path: Path) -> None:
    for damage, told in (
        (
            lambda folder: (folder / "annotations" / "instances_val.json").unlink(),
            "has only annotations/instances_train.json",
        ),
        (lambda folder: [file.unlink() for file in (folder / "annotations").iterdir()], "holds no detection dataset"),
        (lambda folder: (folder / "images").rename(folder / "pictures"), "such as"),
    ):
        folder = copy(TOY, tmp_path / str(len(told)))
        damage(folder)
        with pytest.raises(InputError) as error:
            open_folder(folder)
        one_line(error, told)
    with pytest.raises(InputError) as error:
        open_folder(tmp_path / "none")
    one_line(error, "not a folder")


def test_splits_of_unlike_classes(tmp_path: Path) -> None:
    folder = copy(TOY, tmp_path)
    file = folder / "annotations" / "instances_val.json"
    file.write_text(file.read_text().replace('"bar"', '"rod"'))
    with pytest.raises(InputError) as error:
        open_folder(folder)
    one_line(error, "toy train", "toy val", "categories")


def test_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA", "/somewhere")
    assert data_root() == Path("/somewhere")
    monkeypatch.delenv("BENCH_DATA")
    assert data_root() == Path("data")


@shared
@pytest.mark.parametrize(("name", "train", "val"), [("coco_open", 92, 66), ("bccd", 205, 87), ("voc100", 50, 50)])
def test_real_sets(name: str, train: int, val: int) -> None:
    opened = [split.open() for split in open_folder(SHARED / name)]
    assert [len(split) for split in opened] == [train, val]
    assert all(split.read(0).shape[:2] == tuple(split.sizes[0]) for split in opened)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda names: [*names[:2], "square"], "train has 3 classes and .* val 3: only .* train has 'bar', only .* val "
         "has 'square'"),
        (lambda names: names[:2], "3 classes and .* val 2: only .* train has 'bar'; give"),
        (lambda names: names[::-1], "3 classes and .* val 3: number 1 is 'disc' here and 'bar' there"),
    ],
)  # fmt: skip
def test_classes_that_differ_are_named(tmp_path: Path, change: Callable[[list[str]], list[str]], told: str) -> None:
    folder = copy(TOY, tmp_path)
    file = folder / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    names = change([each["name"] for each in content["categories"]])
    content["categories"] = [{"id": place + 1, "name": name} for place, name in enumerate(names)]
    content["annotations"] = []
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=told):
        open_folder(folder)
