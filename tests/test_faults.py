"""Whatever the bytes of a file, the outcome is a right result or one line and exit code 2.

One part for each kind of input. A part says how an input is damaged, what is done with it, and what a right result is;
`told` holds all that is no right result to one line without control characters, and no warning beside it.
"""

import copy
import json
import os
import random
import shutil
import sys
import tempfile
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_cases import KIT, TOY, one_line
from hypothesis import given, settings
from hypothesis import strategies as st

from benchsuite.cli import app as cli
from benchsuite.data.coco import File
from benchsuite.data.dataset import DetectionSet
from benchsuite.data.voc import Voc
from benchsuite.errors import LONGEST, BenchError, InputError
from benchsuite.verbs.score import score

fuzz = settings(max_examples=100, deadline=None)
DETECTIONS = Path(__file__).parent / "fixtures" / "metrics" / "detections.json"
TRUTH = DETECTIONS.with_name("truth.json")


@contextmanager
def told() -> Iterator[None]:
    """What happens within is a result, or one line for the user and exit code 2."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            yield
        except BenchError as error:
            line = str(error)
            assert isinstance(error, InputError) and error.exit_code == 2, line
            assert ";" in line and not any(unicodedata.category(letter) == "Cc" for letter in line), repr(line)
            assert len(line) <= LONGEST


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


# --- damage


ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0, 1e20, 1e308),
    *(float("nan"), float("inf"), "", "0", "1", "False", "nan", "a\0b", "../../x", "/etc/passwd", "\ud800", "x" * 5000),
    *("\x1b[2J", "line\nbreak", [], {}, [[]], [1], [1, 2, 3], [1, 2, 3, 4], {"id": 1}),
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a JSON value something can be changed."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield (*path, key)
        yield from places(child, (*path, key))


def changed(value: Any, draw: random.Random) -> Any:
    """A JSON value of which one to three places are replaced, removed or repeated."""
    value = copy.deepcopy(value)
    for _ in range(draw.randint(1, 3)):
        *path, key = draw.choice(list(places(value)) or [("none",)])
        holder = value
        for step in path:
            holder = holder[step]
        deed = draw.random()
        if key == "none":
            continue
        if deed < 0.7:
            holder[key] = copy.deepcopy(draw.choice(ODD))
        elif deed < 0.85:
            del holder[key]
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
    return value


def damaged(text: bytes, draw: random.Random) -> bytes:
    """A text cut, or with bytes flipped, removed, inserted or moved."""
    held = bytearray(text)
    for _ in range(draw.randint(1, 4)):
        at, many = draw.randrange(len(held) + 1), draw.randint(1, 12)
        deed = draw.randrange(5)
        if deed == 0:
            held[at : at + many] = bytes(draw.randrange(256) for _ in range(many))
        elif deed == 1:
            del held[at : at + many]
        elif deed == 2:
            held[at:at] = draw.choice([b"\xff", b"\0", b"<", b'"', b"1e999", b"9" * 5000, b"[" * 2000, b"\xef\xbb\xbf"])
        elif deed == 3:
            del held[at:]
        else:
            held[at:at] = held[at - many : at]
    return bytes(held)


# --- COCO JSON

ANNOTATIONS = TOY / "annotations" / "instances_train.json"


def naive(text: bytes) -> tuple[list[int], list[list[float]]]:
    """Ids of images and the boxes with area, in the order of a `DetectionSet`, read with plain loops."""
    content = json.loads(text)
    ids = sorted(int(image["id"]) for image in content["images"])
    boxes = sorted(content["annotations"], key=lambda box: int(box["image_id"]))
    corners = [[x, y, x + w, y + h] for x, y, w, h in (box["bbox"] for box in boxes)]
    return ids, [[x1, y1, x2, y2] for x1, y1, x2, y2 in corners if x2 - x1 >= 0.01 and y2 - y1 >= 0.01]


def opened_coco(text: bytes, folder: Path) -> None:
    file = folder / "instances_train.json"
    file.write_bytes(text)
    data = File(annotations=file, images=TOY / "images")
    with told():
        assert len(data.fingerprint()) == 24 and isinstance(data.classes, tuple) and data.has_masks() in (True, False)
    with told():
        opened = data.open()
        ids, boxes = naive(text)
        assert (opened.image_ids.tolist(), opened.boxes.tolist()) == (ids, boxes)
        for index in range(len(opened)):
            with told():
                assert opened.read(index).dtype == np.uint8


@fuzz
@given(st.randoms(use_true_random=False))
def test_coco_values(draw: random.Random) -> None:
    with scratch() as folder:
        opened_coco(json.dumps(changed(json.loads(ANNOTATIONS.read_bytes()), draw)).encode(), folder)


@fuzz
@given(st.randoms(use_true_random=False))
def test_coco_bytes(draw: random.Random) -> None:
    with scratch() as folder:
        opened_coco(damaged(ANNOTATIONS.read_bytes(), draw), folder)


# --- VOC lists and XML


def opened_devkit(folder: Path, file: str, change: Callable[[bytes], bytes]) -> None:
    shutil.copytree(KIT, folder / "kit")
    path = folder / "kit" / "VOCdevkit" / "VOC2007" / file
    path.write_bytes(change(path.read_bytes()))
    data = Voc(splits=("2007/train",), folder=folder / "kit")
    with told():
        assert len(data.fingerprint()) == 24 and data.classes
    with told():
        checked_devkit(data.open())


def checked_devkit(opened: DetectionSet) -> None:
    assert np.isfinite(opened.boxes).all() and (opened.sizes > 0).all() and len(opened) == len(opened.file_names)
    for index in range(len(opened)):
        with told():
            assert opened.read(index).dtype == np.uint8


@fuzz
@given(st.randoms(use_true_random=False))
def test_voc_xml(draw: random.Random) -> None:
    with scratch() as folder:
        opened_devkit(folder, "Annotations/000001.xml", lambda text: damaged(text, draw))


@fuzz
@given(st.randoms(use_true_random=False))
def test_voc_lists(draw: random.Random) -> None:
    with scratch() as folder:
        opened_devkit(folder, "ImageSets/Main/train.txt", lambda text: damaged(text, draw))


# --- detections


def scored(truth: Path, detections: Path, protocol: str) -> None:
    with told():
        result = score(truth, detections, protocol)
        for name in ("AP", "AP50", "AP75"):
            assert result[name] is None or 0 <= float(str(result[name])) <= 100
        json.dumps(result, allow_nan=False)


@fuzz
@given(st.randoms(use_true_random=False), st.sampled_from(["coco", "voc07", "voc12"]))
def test_detections_of_coco(draw: random.Random, protocol: str) -> None:
    with scratch() as folder:
        text, values = DETECTIONS.read_bytes(), draw.random() < 0.5
        text = json.dumps(changed(json.loads(text), draw)).encode() if values else damaged(text, draw)
        (folder / "found.json").write_bytes(text)
        scored(TRUTH, folder / "found.json", protocol)


@fuzz
@given(st.randoms(use_true_random=False), st.sampled_from(["coco", "voc12"]))
def test_truth_of_coco(draw: random.Random, protocol: str) -> None:
    with scratch() as folder:
        (folder / "truth.json").write_text(json.dumps(changed(json.loads(TRUTH.read_bytes()), draw)))
        scored(folder / "truth.json", DETECTIONS, protocol)


@fuzz
@given(st.randoms(use_true_random=False))
def test_comp4_files(draw: random.Random) -> None:
    lines = b"000001 0.9 5 7 14 18\n000002 0.8 1 1 32 48\n000001 0.25 31 21 48 32\n"
    with scratch() as folder:
        (folder / "comp4_det_test_dog.txt").write_bytes(damaged(lines, draw))
        scored(KIT / "VOCdevkit/VOC2007/ImageSets/Main/train.txt", folder, "voc12")


# --- the command line: what the readers tell is one line there too


@pytest.mark.parametrize("text", [b"", b"[" * 100_000, b"\xff" * 9, b'{"images": 1}', b"9" * 5000, b'{"a":"\\ud800"}'])
def test_a_bad_file_is_one_line_on_the_terminal(
    tmp_path: Path, text: bytes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(TOY, tmp_path / "toy"))
    (folder / "annotations" / "instances_train.json").write_bytes(text)
    for words in (
        ["score", "toy/annotations/instances_train.json", str(DETECTIONS)],
        ["data", "verify", "--data", "toy"],
    ):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["bench", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        assert (ended.value.code, out) == (2, "")
        assert err.startswith("bench: ") and err.count("\n") == 1


def test_pipes_in_a_datasets_place_do_not_hang(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(TOY, tmp_path / "toy"))
    for name in ("annotations/instances_train.json", "images/a.png"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
    with pytest.raises(InputError) as error:
        File(annotations=folder / "annotations/instances_train.json", images=folder / "images").open()
    one_line(error, "instances_train.json")
    with pytest.raises(InputError) as error:
        score(folder / "annotations/instances_train.json", DETECTIONS, "coco")
    one_line(error, "instances_train.json")
    opened = File(annotations=ANNOTATIONS, images=folder / "images").open()
    with pytest.raises(InputError) as error:
        opened.read(0)
    one_line(error, "a.png", "not a regular file")
