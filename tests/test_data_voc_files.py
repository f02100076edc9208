"""Lists and annotations of devkits as people have them: names, suffixes, encodings, white space."""

import os
from pathlib import Path

import pytest
from data_cases import one_line
from PIL import Image

from benchsuite.data.verify import Report, verify
from benchsuite.data.voc import Voc
from benchsuite.data.vocfile import Annotation, parse
from benchsuite.errors import InputError

BOX = "<bndbox><xmin>{}</xmin><ymin>3</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"


def xml(name: str = "cat", first: int = 2, file_name: str = "", more: str = "") -> str:
    named = f"<filename>{file_name}</filename>" if file_name else ""
    item = f"<object><name>{name}</name>{more}{BOX.format(first)}</object>"
    return f"<annotation>{named}<size><width>12</width><height>10</height></size>{item}</annotation>"


def devkit(folder: Path, listed: str | bytes, annotations: dict[str, str | bytes], images: dict[str, int]) -> Voc:
    """A devkit with one list, XML by name, and images of one grey value each."""
    year = folder / "VOCdevkit" / "VOC2007"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (year / name).mkdir(parents=True)
    (year / "ImageSets" / "Main" / "train.txt").write_bytes(listed.encode() if isinstance(listed, str) else listed)
    for name, text in annotations.items():
        (year / "Annotations" / f"{name}.xml").write_bytes(text.encode() if isinstance(text, str) else text)
    for name, value in images.items():
        Image.new("L", (12, 10), value).save(year / "JPEGImages" / name)
    return Voc(splits=("2007/train",), folder=folder)


def seen(data: Voc) -> list[tuple[str, float, int]]:
    """File name, left edge of its box and grey value of each image."""
    opened = data.open()
    return [
        (opened.file_names[index], opened.boxes[opened.rows(index)][0, 0], int(opened.read(index)[0, 0, 0]))
        for index in range(len(opened))
    ]


def test_names_with_spaces_are_whole(tmp_path: Path) -> None:
    files = {"photo": xml(first=2), "photo 2": xml(first=4), "photo 1": xml(first=6)}
    images = {"photo.png": 20, "photo 2.png": 40, "photo 1.png": 60}
    data = devkit(tmp_path, "photo 2\nphoto 1\nphoto\n", files, images)
    assert seen(data) == [("photo 2.png", 3, 40), ("photo 1.png", 5, 60), ("photo.png", 1, 20)]


def test_a_missing_annotation_is_not_another_images(tmp_path: Path) -> None:
    data = devkit(tmp_path, "photo 2\nphoto\n", {"photo": xml()}, {"photo.png": 20, "photo 2.png": 40})
    with pytest.raises(InputError) as error:
        data.open()
    one_line(error, "photo 2.xml", "missing")


def test_lists_of_one_class_have_flags(tmp_path: Path) -> None:
    data = devkit(tmp_path, "a  1\nb -1\n  c 0\r\n\n", {name: xml() for name in "abc"}, {f"{n}.png": 9 for n in "abc"})
    assert [name for name, _, _ in seen(data)] == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize("listed", ["\ufeffa\r\nb\r\n", "a.jpg\nb.png\n", "a\nb"])
def test_lists_as_editors_leave_them(tmp_path: Path, listed: str) -> None:
    data = devkit(tmp_path, listed, {"a": xml(), "b": xml()}, {"a.png": 1, "b.png": 2})
    assert [name for name, _, _ in seen(data)] == ["a.png", "b.png"]


@pytest.mark.parametrize("suffix", [".bmp", ".tif", ".webp", ".PNG", ".JPG", ".JPEG"])
@pytest.mark.parametrize("named", [True, False])
def test_other_suffixes(tmp_path: Path, suffix: str, named: bool) -> None:
    data = devkit(tmp_path, "p", {"p": xml(file_name=f"p{suffix}" if named else "")}, {f"p{suffix}": 77})
    ((name, _, value),) = seen(data)
    assert name == f"p{suffix}" and abs(value - 77) < 3


def test_the_file_that_is_named_is_the_image(tmp_path: Path) -> None:
    kit = tmp_path / "1"
    data = devkit(kit, "p\nq\nr", {"p": xml(file_name="p.bmp"), "q": xml(file_name="other.png"), "r": xml()},
                  {"p.png": 10, "p.bmp": 20, "other.png": 30, "r.png": 40})  # fmt: skip
    assert [value for _, _, value in seen(data)] == [20, 30, 40]
    # An old name of a file that is gone says nothing.
    data = devkit(tmp_path / "2", "p", {"p": xml(file_name="IMG_1.jpg")}, {"p.png": 10})
    assert seen(data) == [("p.png", 1, 10)]
    # Two images that may be meant: nobody can tell.
    data = devkit(tmp_path / "3", "p", {"p": xml(file_name="q.png")}, {"p.png": 10, "q.png": 20})
    with pytest.raises(InputError) as error:
        data.open()
    one_line(error, "p.xml: names q.png, and there is p.png as well")


@pytest.mark.parametrize(
    ("flag", "difficult"),
    [("1", True), ("\n\t\t1\n", True), ("0", False), (" 0 ", False), ("1.0", True), ("true", True), ("", False)],
)
def test_difficult(tmp_path: Path, flag: str, difficult: bool) -> None:
    data = devkit(tmp_path, "p", {"p": xml(more=f"<difficult>{flag}</difficult>")}, {"p.png": 0})
    assert data.open().difficult.tolist() == [difficult]


def test_white_space_around_names_and_numbers(tmp_path: Path) -> None:
    text = xml(name="\n\t\tcat\n").replace("<xmin>2<", "<xmin>\n 2 \n<").replace("<width>12<", "<width> 12\n<")
    data = devkit(tmp_path, "p", {"p": text}, {"p.png": 0})
    assert (data.classes[data.open().labels[0]], data.open().boxes.tolist()) == ("cat", [[1, 2, 9, 8]])


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [
        ("gb2312", "GB2312"), ("utf-8", "UTF-8"), ("utf-8", None), ("utf-8-sig", "utf-8"), ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16"), ("big5", "Big5"), ("shift_jis", "Shift_JIS"),
    ],
)  # fmt: skip
def test_declared_encodings(tmp_path: Path, encoding: str, declared: str | None) -> None:
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    (tmp_path / "p.xml").write_bytes((head + xml(name="山")).encode(encoding))
    assert parse(tmp_path / "p.xml").objects[0].name == "山"


def test_latin_letters(tmp_path: Path) -> None:
    text = '<?xml version="1.0" encoding="ISO-8859-1"?>' + xml(name="José")
    (tmp_path / "p.xml").write_bytes(text.encode("latin1"))
    assert parse(tmp_path / "p.xml").objects[0].name == "José"
    for number, bad in enumerate([text.replace("ISO-8859-1", "UTF-8"), text.replace("ISO-8859-1", "zip"),
                                  text.replace("ISO-8859-1", "no-such")]):  # fmt: skip
        (tmp_path / f"{number}.xml").write_bytes(bad.encode("latin1"))
        with pytest.raises(InputError) as error:
            parse(tmp_path / f"{number}.xml")
        one_line(error, f"{number}.xml: cannot be read as")


def bomb(encoding: str) -> bytes:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "lol"}">' for n in range(10))
    head = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a [{entities}]>'
    return (head + xml(name="&e9;")).encode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-7", "gb2312", "latin1"])
def test_no_entity_expands(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "p.xml").write_bytes(bomb(encoding))
    with pytest.raises(InputError) as error:
        parse(tmp_path / "p.xml")
    one_line(error, "p.xml: ")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("<xmin>2<", "<xmin>1_0<", "'1_0' is not a finite number"),
        ("<xmin>2<", "<xmin>nan<", "'nan' is not a finite number"),
        ("<xmin>2<", "<xmin>1e999<", "not a finite number"),
        ("<width>12<", "<width>12.5<", "no whole number"),
        ("<width>12<", "<width>inf<", "not a finite number"),
        ("<width>12<", "<width>1e20<", "no whole number"),
        ("<width>12<", "<width>" + "9" * 5000 + "<", "not a finite number"),
        ("<name>cat<", "<name> <", "no <name>"),
        ("<name>", "<difficult>maybe</difficult><name>", "'maybe' is neither 0 nor 1"),
        ("</object>", BOX.format(5) + "</object>", "several <bndbox>"),
        ("<annotation>", "<annotation>" + "<a>" * 100_000, "not a VOC annotation"),
        ("cat", "c\0t", "not a VOC annotation"),
    ],
)
def test_nothing_is_cut_or_guessed(tmp_path: Path, old: str, new: str, told: str) -> None:
    data = devkit(tmp_path, "p", {"p": xml().replace(old, new)}, {"p.png": 0})
    with pytest.raises(InputError) as error:
        data.open()
    one_line(error, "p.xml", told)
    report = verify(data)
    assert isinstance(report, Report) and len(report.problems["annotations"]) == 1


@pytest.mark.parametrize("listed", [b"a\nb\xff\n", b"../../a\n", b"/etc/a\n", b"a\0\n"])
def test_lists_that_name_no_image(tmp_path: Path, listed: bytes) -> None:
    data = devkit(tmp_path, listed, {"a": xml()}, {"a.png": 0})
    for look in (data.open, data.fingerprint):
        with pytest.raises(InputError) as error:
            look()
        one_line(error, "train.txt")


def test_images_and_annotations_are_regular_files_of_the_devkit(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("L", (12, 10), 5).save(secret)
    annotations: dict[str, str | bytes] = {"a": xml(), "b": xml(file_name="../../../../secret.png"), "c": xml()}
    data = devkit(tmp_path / "kit", "a\nb\nc\n", annotations, {})
    year = tmp_path / "kit" / "VOCdevkit" / "VOC2007"
    (year / "JPEGImages" / "a.jpg").symlink_to(secret)
    os.mkfifo(year / "JPEGImages" / "c.jpg")
    opened = data.open()
    for index, told in enumerate(["lies outside", "lies outside", "not a regular file"]):
        with pytest.raises(InputError) as error:
            opened.read(index)
        one_line(error, told)
    (year / "Annotations" / "a.xml").unlink()
    os.mkfifo(year / "Annotations" / "a.xml")
    with pytest.raises(InputError) as error:
        data.open()
    one_line(error, "a.xml", "not a regular file")


def test_an_annotation_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import xml.etree.ElementTree as ET

    parsed: list[str] = []
    real = ET.fromstring
    monkeypatch.setattr(ET, "fromstring", lambda text: parsed.append(text) or real(text))
    data = devkit(tmp_path, "a\nb\n", {"a": xml(), "b": xml()}, {"a.png": 0, "b.png": 0})
    assert data.classes and data.fingerprint() and data.open()
    assert len(parsed) == 2
    assert isinstance(parse(tmp_path / "VOCdevkit/VOC2007/Annotations/a.xml"), Annotation)
