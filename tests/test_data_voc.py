from pathlib import Path

import pytest
from data_cases import KIT, SHARED, copy, one_line, shared

from benchsuite.data.coco import File
from benchsuite.data.voc import CLASSES, Voc
from benchsuite.errors import InputError, MissingData

XML = Path("VOCdevkit/VOC2007/Annotations/000001.xml")


def edited(tmp_path: Path, old: str, new: str) -> Voc:
    folder = copy(KIT, tmp_path)
    (folder / XML).write_text((folder / XML).read_text().replace(old, new))
    return Voc(splits=("2007/train",), folder=folder)


def test_inclusive_pixels_from_one() -> None:
    data = Voc(splits=("2007/train",), folder=KIT).open()
    assert data.classes == CLASSES
    assert [data.classes[label] for label in data.labels] == ["dog", "person", "person", "car"]
    # xmin - 1, ymin - 1, xmax, ymax; the last one is a single pixel.
    assert data.boxes.tolist() == [[4, 6, 14, 18], [30, 20, 48, 32], [0, 0, 32, 48], [8, 8, 9, 9]]
    assert data.difficult.tolist() == [False, True, False, False]
    assert data.areas.tolist() == [120, 216, 1536, 1]
    assert data.sizes.tolist() == [[32, 48], [48, 32]]
    assert data.read(1).shape == (48, 32, 3)


@pytest.mark.parametrize("folder", [KIT, KIT / "VOCdevkit"])
def test_layouts(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(Voc(splits=("2007/val",), folder=folder).open()) == 1
    monkeypatch.setenv("BENCH_DATA", str(folder))
    both = Voc(splits=("2007/train", "2007/val"))
    assert both.open().file_names == ("000001.jpg", "000002.jpg", "000003.jpg")
    assert both.name == "voc 2007-train+2007-val"
    (tmp_path / "voc").symlink_to(KIT)
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    assert both.fingerprint() == Voc(splits=("2007/train", "2007/val"), folder=KIT).fingerprint()


def test_other_names_are_read_from_all_sets(tmp_path: Path) -> None:
    data = edited(tmp_path, "<name>dog</name>", "<name>RBC</name>")
    val = Voc(splits=("2007/val",), folder=data.folder)
    assert data.classes == val.classes == val.open().classes == ("RBC", "car", "cat", "person")


def test_unknown_class_in_voc(tmp_path: Path) -> None:
    extra = "".join(
        f"<object><name>{name}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
        for name in (*CLASSES, "persn")
    )
    data = edited(tmp_path, "</annotation>", f"{extra}</annotation>")
    assert data.classes == CLASSES
    with pytest.raises(InputError) as error:
        data.open()
    one_line(error, "000001.xml", "object 23 (persn)", "class")


def test_box_outside(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        edited(
            tmp_path, "<xmin>31</xmin><ymin>21</ymin><xmax>48</xmax>", "<xmin>50</xmin><ymin>21</ymin><xmax>58</xmax>"
        ).open()
    one_line(error, "000001.xml: object 2", "wholly outside", "48x32")


def test_box_without_area_is_dropped(tmp_path: Path) -> None:
    data = edited(tmp_path, "<xmax>14</xmax>", "<xmax>4</xmax>").open()
    assert (data.dropped, len(data.boxes)) == (1, 3)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("<annotation>", '<!DOCTYPE a [<!ENTITY b "c">]><annotation>', "document type"),
        ("</annotation>", "", "not a VOC annotation"),
        ("<width>48</width>", "", "<size><width>"),
        ("<ymin>7</ymin>", "", "<bndbox><ymin>"),
        ("<ymin>7</ymin>", "<ymin>seven</ymin>", "seven"),
    ],
)
def test_bad_annotations(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(InputError) as error:
        edited(tmp_path, old, new).open()
    one_line(error, "000001.xml", told)


def test_utf16_does_not_hide_a_declaration(tmp_path: Path) -> None:
    folder = copy(KIT, tmp_path)
    (folder / XML).write_text('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', encoding="utf-16")
    with pytest.raises(InputError) as error:
        Voc(splits=("2007/train",), folder=folder).open()
    one_line(error, "000001.xml")


def test_missing_annotation_and_listed_twice(tmp_path: Path) -> None:
    folder = copy(KIT, tmp_path)
    lists = folder / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
    (lists / "train.txt").write_text("000001\n000009\n")
    (lists / "val.txt").write_text("000001\n000001\n")
    for split, told in (("2007/train", "000009.xml"), ("2007/val", "listed twice")):
        with pytest.raises(InputError) as error:
            Voc(splits=(split,), folder=folder).open()
        one_line(error, told)


def test_missing_split(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(MissingData) as error:
        Voc(splits=("2007/test",), folder=KIT).open()
    one_line(error, "2007/test", "found only: 2007/train, 2007/trainval, 2007/val;", "VOCtest_06-Nov-2007.tar")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCH_DATA", raising=False)
    absent = Voc(splits=("2012/trainval",))
    assert (absent.classes, absent.identity()) == (CLASSES, "absent")
    with pytest.raises(MissingData) as error:
        Voc(splits=("trainval",)).open()
    one_line(error, "YEAR/SET")


@shared
def test_real_devkits() -> None:
    kit = SHARED / "bccd"
    counts = {split: len(Voc(splits=(f"2007/{split}",), folder=kit).open().boxes) for split in ("train", "val", "test")}
    assert counts == {"train": 2805, "val": 1138, "test": 945}
    json = File(annotations=kit / "annotations/instances_val.json", images=kit / "VOCdevkit/VOC2007/JPEGImages").open()
    xml = Voc(splits=("2007/val",), folder=kit).open()
    assert xml.classes == ("Platelets", "RBC", "WBC")
    assert xml.file_names == json.file_names
    assert sorted(xml.boxes.tolist()) == sorted(json.boxes.tolist())
    voc = Voc(splits=("2012/trainval",), folder=SHARED / "voc100").open()
    assert (len(voc), len(voc.boxes), voc.difficult.sum(), voc.classes) == (100, 273, 38, CLASSES)
