"""What systems and tools hide in folders belongs to no dataset: macOS's copies of copies, checkpoints of notebooks."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_cases import KIT, TOY, copy
from PIL import Image
from test_data_yolo import layout
from typer.testing import CliRunner

from benchsuite.cli.app import app
from benchsuite.data.files import unhidden
from benchsuite.data.imagenet import Folders
from benchsuite.data.locate import open_class_folder, open_folder
from benchsuite.data.pictures import Pictures
from benchsuite.errors import harmless


def classes(folder: Path) -> Path:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            Image.new("RGB", (4, 4), "red" if name == "cat" else "blue").save(folder / split / name / "a.png")
    return folder


def read(data: Any) -> object:
    opened = data.open()
    return (
        data.fingerprint(),
        opened.classes,
        len(opened),
        [opened.read(index).tobytes() for index in range(len(opened))],
    )


def detection(folder: Path) -> list[object]:
    return [read(data) for data in open_folder(folder)]


def classification(folder: Path) -> list[object]:
    return [read(data) for data in open_class_folder(folder)]


def pictures(folder: Path) -> object:
    return read(Pictures(folder=folder / "train", categories=((1, "cat"),)))


LAYOUTS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "coco": (lambda folder: copy(TOY, folder), detection),
    "yolo": (layout, detection),
    "devkit": (lambda folder: copy(KIT, folder), detection),
    "classes": (classes, classification),
    "pictures": (classes, pictures),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_hidden_things_change_nothing(tmp_path: Path, name: str) -> None:
    make, look = LAYOUTS[name]
    folder = make(tmp_path / "set")
    before = look(folder)
    for place, _, files in list(os.walk(folder)):
        (Path(place) / ".ipynb_checkpoints").mkdir()
        for file in files:
            (Path(place) / f"._{file}").write_bytes(b"\x00\x05\x16\x07")
            (Path(place) / ".ipynb_checkpoints" / file).write_bytes(b"")
    assert look(folder) == before


def test_a_dataset_may_lie_in_a_hidden_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = classes(tmp_path / ".data" / "pets")
    assert len(Folders(folder=folder, split="train").open()) == 2
    monkeypatch.chdir(folder / "train")
    assert sorted(unhidden(Path(), "*/*")) == [Path("cat/a.png"), Path("dog/a.png")]


@pytest.mark.parametrize("name", ["yolo", "classes"])
def test_names_in_no_known_encoding(tmp_path: Path, name: str) -> None:
    """As old archives leave them."""
    make, look = LAYOUTS[name]
    folder = make(tmp_path / os.fsdecode(b"gr\xf6sse"))
    for place in [*folder.rglob("a b.*"), *folder.rglob("cat")]:
        place.rename(place.with_name(os.fsdecode(b"k\xe4tzchen") + place.suffix))
    look(folder)
    result = CliRunner().invoke(app, ["data", "verify", "--data", str(folder)])
    assert result.exit_code == 0, result.exception
    assert all(map(harmless, result.stdout.replace("\n", "")))
    if name == "classes":
        assert "k\\udce4tzchen" in result.stdout
    recipe, rows = ("har-table1", "baseline") if name == "yolo" else ("cat-table3", "r50")
    result = CliRunner().invoke(app, ["plan", recipe, "--rows", rows, "--data", str(folder), "--json"])
    assert result.exit_code == 0, result.exception
