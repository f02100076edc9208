"""Small inputs that came out wrong once, where they lie beside this checkout. Their kinds are tested with fixtures of
our own in the tests of each reader."""

from pathlib import Path

import numpy as np
import pytest
from data_cases import SHARED, shared

from benchsuite.data.locate import open_folder
from benchsuite.data.verify import Report, verify
from benchsuite.errors import InputError
from benchsuite.verbs.score import score

CASES = SHARED / "cases"
pytestmark = shared


@pytest.mark.parametrize("name", ["gt", "gt_u64"])
@pytest.mark.parametrize("protocol", ["coco", "voc12"])
def test_large_ids(name: str, protocol: str) -> None:
    folder = CASES / "04-hash-image-ids"
    assert score(folder / f"{name}.json", folder / f"{name.replace('gt', 'dt')}.json", protocol)["AP"] == pytest.approx(
        100
    )


def test_large_ids_open_as_small_ones() -> None:
    plain, hashed = (open_folder(CASES / "04-hash-image-ids" / name)[0].open() for name in ("easyplain", "easyhash"))
    assert np.array_equal(plain.boxes, hashed.boxes) and plain.image_ids.max() < 2**53 < hashed.image_ids.min()


@pytest.mark.parametrize("kind", ["false", "null", "str0", "strfalse", "strcat"])
def test_flags_are_taken_or_named(kind: str) -> None:
    folder = CASES / "08-iscrowd-kinds"
    for protocol in ("coco", "voc12"):
        if kind.startswith("str"):
            with pytest.raises(InputError, match=r"annotations\[0\]\.(iscrowd|category_id)"):
                score(folder / f"gt_{kind}.json", folder / "dt.json", protocol)
        else:
            assert score(folder / f"gt_{kind}.json", folder / "dt.json", protocol)["AP50"] == pytest.approx(100)


def test_degenerate_boxes() -> None:
    folder = CASES / "09-degenerate-boxes"
    result = score(folder / "gt.json", folder / "dt.json", "coco")
    assert (result["AP"], result["dropped"]) == (pytest.approx(100), 3)
    with pytest.raises(InputError, match=r"annotation 2: box .* is not finite"):
        score(folder / "gt_nan.json", folder / "dt.json", "coco")
    for name in ("sliver_thin", "sliver_small", "sliver_border"):
        train = open_folder(folder / name)[0]
        boxes = train.open()
        kept = boxes.inside(np.flatnonzero(boxes.trainable)).astype(np.float32)
        assert (kept[:, 2:] > kept[:, :2]).all()
        report = verify(train)
        assert isinstance(report, Report) and not report.problems
        assert any("no area" in note for note in report.notes)


def test_image_modes() -> None:
    train, _ = open_folder(CASES / "12-image-modes" / "data")
    problems = verify(train).problems["undecodable images"]
    bad = ("gray16.png", "gray12in16.png", "gray16.tif", "float.tif", "two.gif")
    assert [line.partition(":")[0] for line in problems] == list(bad)
    opened = train.open()
    for index, name in enumerate(opened.file_names):
        if name not in bad:
            assert opened.read(index).mean() == pytest.approx(61.7, abs=2.1)


@pytest.mark.parametrize(("name", "told"), [("VOCdevkit", None), ("plain", None), ("pretty", None), ("gbk", None)])
def test_voc_xml(name: str, told: str | None) -> None:
    for split in open_folder(CASES / "14-voc-xml" / name):
        report = verify(split)
        assert isinstance(report, Report) and report.problems == {}
        if name == "gbk":
            assert report.classes == {"猫": 2}


@pytest.mark.parametrize("folder", sorted(CASES.glob("15-voc-names/*")), ids=lambda folder: folder.name)
def test_voc_names(folder: Path) -> None:
    train = open_folder(folder)[0]
    assert verify(train).problems == {}
    names = train.open().file_names
    expected = {"bomlist": {"p1", "p2"}, "space": {"photo 1", "photo 2"}, "spaceclash": {"photo 2"}}
    assert {Path(name).stem for name in names} == expected.get(folder.name, {"p1"})


@pytest.mark.parametrize("protocol", ["coco", "voc12", "voc07"])
def test_beyond_the_image(protocol: str) -> None:
    folder = CASES / "28-beyond-image"
    assert score(folder / "gt.json", folder / "dt.json", protocol)["AP"] == pytest.approx(100)
