from pathlib import Path

import pytest
from data_cases import one_line
from PIL import Image

from benchsuite.data.locate import open_any_folder, open_folder
from benchsuite.data.verify import Report, verify
from benchsuite.data.yolo import Yolo, names_of
from benchsuite.errors import InputError

YAML = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"


def layout(folder: Path, text: str = YAML, labels: str = "0 0.5 0.5 0.25 0.5\n1 .25 .25 .1 .1\n") -> Path:
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for name, size in (("a b.png", (40, 20)), ("c.JPG", (20, 40))):
            Image.new("RGB", size).save(folder / "images" / split / name)
        (folder / "labels" / split / "a b.txt").write_text(labels)
    (folder / "data.yaml").write_text(text)
    return folder


@pytest.mark.parametrize(
    "text",
    [
        YAML,
        "train: ../images/train\nval: ../images/val\nnc: 2\nnames: ['cat', 'dog']\n",  # Roboflow's
        "path: /datasets/elsewhere\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n",
    ],
)
def test_boxes_in_pixels(tmp_path: Path, text: str) -> None:
    train, val = open_folder(layout(tmp_path / "set", text))
    assert isinstance(train, Yolo) and (train.name, val.name) == ("set train", "set val")
    opened = train.open()
    assert (opened.classes, opened.file_names) == (("cat", "dog"), ("a b.png", "c.JPG"))
    assert opened.boxes.tolist() == [pytest.approx([15, 5, 25, 15]), pytest.approx([8, 4, 12, 6])]
    assert (opened.labels.tolist(), opened.offsets.tolist()) == ([0, 1], [0, 2, 2])
    assert (opened.sizes.tolist(), opened.read(1).shape) == ([[20, 40], [40, 20]], (40, 20, 3))
    report = verify(train)
    assert isinstance(report, Report) and not report.problems and report.classes == {"cat": 1, "dog": 1}


def test_the_fingerprint_follows_labels_and_classes(tmp_path: Path) -> None:
    kinds = [(YAML, "0"), (YAML, "0"), (YAML, "1"), (YAML.replace("cat", "ox"), "0")]
    prints = [
        Yolo(split="train", folder=layout(tmp_path / str(number), text, f"{label} .5 .5 .2 .2")).fingerprint()
        for number, (text, label) in enumerate(kinds)
    ]
    assert prints[0] == prints[1] and len(set(prints)) == 3


@pytest.mark.parametrize(
    "labels",
    ["0 .5 .5 .2", "x .5 .5 .2 .2", "7 .5 .5 .2 .2", "0 nan .5 .2 .2", "0 1.9 .5 .2 .2", "-1 .5 .5 .2 .2", "\0"],
)
def test_labels_that_are_none(tmp_path: Path, labels: str) -> None:
    with pytest.raises(InputError) as error:
        Yolo(split="train", folder=layout(tmp_path, labels=labels)).open()
    one_line(error, "a b.txt")


@pytest.mark.parametrize(
    "names", ["names: 3", "names: {0: a, 2: b}", "names: [1, 2]", "names: []", "nc: 2", "names: [[[", "- a", "\x00"]
)
def test_names_that_are_none(tmp_path: Path, names: str) -> None:
    with pytest.raises(InputError) as error:
        names_of(layout(tmp_path, f"train: images/train\nval: images/val\n{names}\n" if names[0] == "n" else names))
    one_line(error, "data.yaml")


def test_names_in_any_order_and_those_that_yaml_takes_for_others(tmp_path: Path) -> None:
    assert names_of(layout(tmp_path / "a", YAML.replace("  0: cat\n  1: dog", "  1: dog\n  0: cat"))) == ("cat", "dog")
    with pytest.raises(InputError) as error:
        names_of(layout(tmp_path / "b", "train: images/train\nval: images/val\nnames: [yes, no]\n"))
    one_line(error, "data.yaml: `names` has one that YAML reads as True, no text; put it in quotes")


def test_images_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "out" / "images").mkdir(parents=True)
    folder = layout(tmp_path / "set", YAML.replace("images/train", str(tmp_path / "out" / "images")))
    with pytest.raises(InputError) as error:
        open_folder(folder)
    one_line(error, "leads out of")


@pytest.mark.parametrize(
    "labels",
    [
        "0 0.375 0.25 0.625 0.25 0.625 0.75 0.375 0.75\n1 .2 .2 .3 .2 .25 .3\n",  # polygons: around the same boxes
        "\ufeff0 0.5 0.5 0.25 0.5\r\n1 .25 .25 .1 .1\r\n",
        "0.000e+00 5.0e-01 5.0e-01 2.5e-01 5.0e-01\n1.000e+00 .25 .25 .1 .1\n",  # as numpy.savetxt writes
    ],
)
def test_labels_as_other_tools_write_them(tmp_path: Path, labels: str) -> None:
    opened = open_folder(layout(tmp_path, labels=labels))[0].open()
    assert opened.boxes.ravel().tolist() == pytest.approx([15, 5, 25, 15, 8, 4, 12, 6], abs=1e-5)
    assert opened.labels.tolist() == [0, 1]


@pytest.mark.parametrize("shape", ["[2, 3]", "[3, 2]"])
def test_boxes_stand_before_keypoints(tmp_path: Path, shape: str) -> None:
    """Else a pose would be a polygon, and its box around the keypoints."""
    labels = "0 0.5 0.5 0.25 0.5 .9 .9 2 .95 .1 2\n1 .25 .25 .1 .1 0 0 0 0 0 0\n"
    opened = open_folder(layout(tmp_path, f"{YAML}kpt_shape: {shape}\n", labels))[0].open()
    assert opened.boxes.ravel().tolist() == pytest.approx([15, 5, 25, 15, 8, 4, 12, 6], abs=1e-5)


def test_a_folder_with_labels_is_none_of_classes(tmp_path: Path) -> None:
    """images/ and labels/ below train/ look like two classes."""
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / split / kind).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / split / "images" / "a.png")
    (tmp_path / "data.yaml").write_text("train: /content/x/train/images\nval: /content/x/val/images\nnames: [cat]\n")
    for opening in (open_folder, open_any_folder):
        with pytest.raises(InputError) as error:
            opening(tmp_path)
        one_line(error, "data.yaml names no folders of images that are here", "/content/x/val/images")


@pytest.mark.parametrize("labels", [
    "0 0.5 0.5 0.25 0.5 0.9\n", "0.5 0.5 0.5 0.25 0.5\n", "0 0.1 0.1 0.5 0.1 0.5\n", "0 0.1 0.1 nan 0.1 0.5 0.5\n",
    "1e999 0.5 0.5 0.25 0.5\n", "7 0.1 0.1 0.5 0.1 0.5 0.5\n",
])  # fmt: skip
def test_labels_that_look_like_another_tools(tmp_path: Path, labels: str) -> None:
    with pytest.raises(InputError) as error:
        open_folder(layout(tmp_path, labels=labels))[0].open()
    one_line(error, "a b.txt")


@pytest.mark.parametrize("text", [
    "path: C:\\data\ntrain: images\\train\nval: images\\val\nnames: [cat, dog]\n",
    "train: train.txt\nval: val.txt\nnames: [cat, dog]\n",
])  # fmt: skip
def test_places_that_are_not_here_are_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError) as error:
        open_folder(layout(tmp_path / "set", text))
    one_line(error, "data.yaml names no folders of images that are here", "val: ")


def test_a_labelled_image_of_another_kind_is_told_of(tmp_path: Path) -> None:
    folder = layout(tmp_path / "set")
    for name in ("d.gif", "e.bin"):
        Image.new("RGB", (8, 8)).save(folder / "images" / "train" / name, format="GIF" if name == "d.gif" else "PNG")
    (folder / "images" / "train" / "a b.json").write_text("{}")  # what tools leave beside an image
    train, val = open_folder(folder)
    assert len(train.open()) == len(val.open()) == 2, "they have no labels"
    (folder / "labels" / "train" / "e.txt").write_text("0 .5 .5 .2 .2")
    assert train.open().file_names == ("a b.png", "c.JPG", "e.bin"), "the content tells"
    (folder / "labels" / "train" / "d.txt").write_text("0 .5 .5 .2 .2")
    with pytest.raises(InputError) as error:
        train.open()
    one_line(error, "d.gif", "is not JPEG", "convert or remove it")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("0 .5 .5 .2", "labels/train/a b.txt line 3 has 4 numbers, and `class x y width height` are five; correct"),
        ("0,.5,.5,.2,.2", "line 3 is no `class x y width height`, five numbers"),
        ("7 .5 .5 .2 .2", "line 3 has class 7, and data.yaml names 0 to 1"),
        ("0.5 .5 .5 .2 .2", "line 3 has class 0.5, and data.yaml names 0 to 1"),
        ("0 .5 .5 -.2 .2", "line 3 has a width or height below 0"),
        ("0 nan .5 .2 .2", "line 3 has numbers that are no shares of the image's sides, 0 to 1"),
        ("0 20 10 8 8", "line 3 has numbers that are no shares of the image's sides, 0 to 1"),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_counted(tmp_path: Path, line: str, told: str) -> None:
    folder = layout(tmp_path / "set", labels=f"0 .5 .5 .25 .5\n\n{line}\n1 .25 .25 .1 .1\n")
    (folder / "images" / "train" / "c.JPG").write_bytes(b"")
    report = verify(Yolo(split="train", folder=folder))
    assert isinstance(report, Report) and (report.images, report.boxes) == (2, 2)
    assert set(report.problems) == {"labels", "undecodable images"}
    assert [len(lines) for lines in report.problems.values()] == [1, 1], "each once"
    assert told in report.problems["labels"][0]
    assert report.problems["undecodable images"][0].startswith("c.JPG: the image cannot be decoded")


def test_boxes_in_images_without_a_size_are_left_out(tmp_path: Path) -> None:
    folder = layout(tmp_path / "set")
    (folder / "images" / "train" / "a b.png").write_bytes(b"")
    report = verify(Yolo(split="train", folder=folder))
    assert isinstance(report, Report) and report.boxes == 0 and set(report.problems) == {"undecodable images"}


def test_labels_without_an_image_are_told(tmp_path: Path) -> None:
    folder = layout(tmp_path / "set")
    train, labels = Yolo(split="train", folder=folder), folder / "labels" / "train"
    (labels / "classes.txt").write_text("cat\ndog\n")
    report = verify(train)
    assert isinstance(report, Report) and not report.notes
    (labels / "999.txt").write_text("0 .5 .5 .2 .2")
    report = verify(train)
    assert isinstance(report, Report) and not report.problems
    assert report.notes == ["1 texts of labels have no image, and are left out: labels/train/999.txt"]
    (labels / "a b.txt").rename(labels / "a b.TXT")
    with pytest.raises(InputError) as error:
        train.open()
    one_line(
        error, "no image has a text of labels, and these have no image: labels/train/999.txt, labels/train/a b.TXT"
    )


def test_labels_of_powershell(tmp_path: Path) -> None:
    folder = layout(tmp_path / "set")
    plain = Yolo(split="train", folder=folder).open().boxes.tolist()
    text = (folder / "labels" / "train" / "a b.txt").read_text()
    for encoding in ("utf-16", "utf-16-be"):
        mark = "\ufeff" if encoding == "utf-16-be" else ""
        (folder / "labels" / "train" / "a b.txt").write_bytes(f"{mark}{text}".encode(encoding))
        assert Yolo(split="train", folder=folder).open().boxes.tolist() == plain
