import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_cases import KIT, SHARED, TOY, copy, damaged, shared, toy
from PIL import Image

from benchsuite.data.generated import Generated
from benchsuite.data.locate import open_folder
from benchsuite.data.subset import DetectionSubset
from benchsuite.data.verify import verify
from benchsuite.data.voc import Voc
from benchsuite.errors import InputError, MissingData


def test_counts_of_a_good_set() -> None:
    report = verify(toy())
    assert (report.name, report.images, report.boxes, report.dropped, report.crowd) == ("toy train", 5, 6, 1, 1)
    assert report.classes == {"disc": 2, "bar": 2, "ring": 2}
    assert report.sizes == {"small": 1.0, "medium": 0.0, "large": 0.0}
    assert not report.problems
    (note,) = report.notes
    assert note.startswith("annotation 4:")
    assert json.loads(json.dumps(report.form()))["fingerprint"] == toy().fingerprint()


def test_everything_wrong_is_listed(tmp_path: Path) -> None:
    folder = copy(TOY, tmp_path)
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    boxes = content["annotations"]
    boxes[0]["bbox"] = [100, 100, 5, 5]
    boxes[1]["category_id"] = 77
    boxes[2]["image_id"] = 99
    boxes[4]["id"] = boxes[5]["id"]
    boxes[6]["bbox"] = [0, 0, float("nan"), 3]
    file.write_text(json.dumps(content))
    (folder / "images" / "a.png").unlink()
    (folder / "images" / "b.png").write_bytes(b"no image")
    (folder / "images" / "e.png").write_bytes((TOY / "images" / "a.png").read_bytes())
    report = verify(toy(folder=folder))
    assert set(report.problems) == {
        *("boxes outside", "unknown classes", "unknown images", "duplicates", "boxes not finite"),
        *("missing images", "undecodable images", "sizes"),
    }
    lines = [line for found in report.problems.values() for line in found]
    assert len(lines) == 8
    assert all("\n" not in line and str(tmp_path) not in line for line in lines)
    assert report.problems["undecodable images"][0].startswith("b.png: ")


def test_sizes_as_exif_shows_an_image(tmp_path: Path) -> None:
    folder = copy(TOY, tmp_path)
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    image, exif = content["images"][0], Image.Exif()
    exif[0x0112] = 6
    with Image.open(folder / "images" / image["file_name"]) as stored:
        stored.transpose(Image.Transpose.ROTATE_90).save(folder / "images" / image["file_name"], exif=exif)
    file.write_text(json.dumps(content))
    (line,) = verify(toy(folder=folder)).problems["sizes"]
    assert "is annotated as EXIF has it shown, 32x48, but read as stored, 48x32; store it as it is shown" in line


def test_masks_are_looked_at(tmp_path: Path) -> None:
    def cut(content: dict[str, Any]) -> None:
        square = [1, 1, 9, 1, 9, 9]
        for box in content["annotations"]:
            box["segmentation"] = [square if box["id"] != 2 else square[:4]]

    report = verify(damaged(tmp_path, cut))
    assert report.problems == {
        "masks": ["annotation 2 has a polygon of 2 points, which needs three; correct or remove it"]
    }


def test_boxes_without_a_mask_are_no_mistake_of_tables_of_boxes(tmp_path: Path) -> None:
    def some(content: dict[str, Any]) -> None:
        for box in content["annotations"]:
            box["segmentation"] = [[1, 1, 9, 1, 9, 9]] if box["id"] > 2 else []

    report = verify(damaged(tmp_path, some))
    assert not report.problems
    assert "2 annotations have no `segmentation` (annotation 1, say), which tables of masks need" in report.notes


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda content: content.update(images=[], annotations=[]), "lists no image; choose another file or split"),
        (lambda content: content.update(annotations=[]), "none of its 5 images has a box: it can be neither trained"),
        (lambda content: content["annotations"][0].update(category_id=77), "annotation 1 (category_id 77): its class"),
        (lambda content: content["annotations"][0].update(image_id=99), "annotation 1 (image_id 99): its image"),
    ],
)
def test_what_run_refuses_is_a_problem(tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str) -> None:
    (lines,) = verify(damaged(tmp_path, change)).problems.values()
    assert len(lines) == 1 and lines[0].startswith(told)


def test_devkit(tmp_path: Path) -> None:
    folder = copy(KIT, tmp_path)
    kit = folder / "VOCdevkit" / "VOC2007"
    report = verify(Voc(splits=("2007/trainval",), folder=folder))
    assert (report.images, report.boxes, report.difficult, report.problems) == (3, 5, 1, {})
    (kit / "Annotations" / "000002.xml").write_text("<annotation>")
    (kit / "Annotations" / "000001.xml").unlink()
    (kit / "JPEGImages" / "000003.jpg").write_bytes(b"")
    problems = verify(Voc(splits=("2007/trainval",), folder=folder)).problems
    assert len(problems["annotations"]) == 2
    assert problems["annotations"][0].startswith("VOC2007/Annotations/000001.xml")
    assert "undecodable images" in problems
    assert "sizes" not in problems, "what the lost annotations say of it nobody knows"
    (kit / "ImageSets" / "Main" / "trainval.txt").write_text("")
    with pytest.raises(InputError, match=r"Main/trainval\.txt: lists no image"):
        Voc(splits=("2007/trainval",), folder=folder).open()


def test_generated_and_subsets() -> None:
    report = verify(Generated(split="train", images=3))
    assert (report.images, report.problems) == (3, {})
    assert verify(DetectionSubset(of=toy(), limit=2)).images == 2


def test_missing_is_an_error() -> None:
    with pytest.raises(MissingData):
        verify(toy("test"))


@shared
@pytest.mark.parametrize("name", ["coco_open", "bccd", "voc100"])
def test_real_sets_are_sound(name: str) -> None:
    for split in open_folder(SHARED / name):
        report = verify(split)
        assert report.problems == {}
        assert sum(report.classes.values()) == report.boxes
