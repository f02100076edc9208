import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_cases import SHARED, TOY, one_line, shared

from benchsuite.data.cifar import Cifar100, load
from benchsuite.data.imagenet import Folders
from benchsuite.errors import InputError, MissingData


def write_cifar(folder: Path, protocol: int = 2, **changes: Any) -> Path:
    """Two images, red and blue, in CIFAR-100's layout."""
    folder = folder / "cifar-100-python"
    folder.mkdir(parents=True)
    pixels = np.zeros((2, 3072), np.uint8)
    pixels[0, :1024] = 200
    pixels[1, 2048:] = np.arange(1024) % 256
    content = {"data": pixels, "fine_labels": [1, 0], "filenames": [b"a", b"b"], **changes}
    for name, value in (("train", content), ("meta", {"fine_label_names": ["cat", "dog"]})):
        (folder / name).write_bytes(pickle.dumps(value, protocol=protocol))
    return folder


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("place", ["", "cifar100"])
def test_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, place: str) -> None:
    write_cifar(tmp_path / place, protocol)
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    data = Cifar100(split="train").open()
    assert (data.name, data.classes, data.labels.tolist()) == ("cifar100 train", ("cat", "dog"), [1, 0])
    assert data.read(0)[5, 6].tolist() == [200, 0, 0]
    assert data.read(1)[2, 3].tolist() == [0, 0, 67]  # row 2, column 3 of the blue plane
    assert data.read(1).shape == (32, 32, 3)
    with pytest.raises(MissingData) as error:
        Cifar100(split="test").open()
    one_line(error, "cifar100 test", "found only: train", "cifar-100-python.tar.gz")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("touched"),)


def test_pickles_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (("evil", {"data": Evil()}), ("list", [1])):
        (tmp_path / name).write_bytes(pickle.dumps(value))
        with pytest.raises(InputError) as error:
            load(tmp_path / name)
        one_line(error, name)
    (tmp_path / "cut").write_bytes(pickle.dumps({"data": np.zeros(9)})[:-20])
    with pytest.raises(InputError):
        load(tmp_path / "cut")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"fine_labels": [0, 2]},
        {"fine_labels": [0]},
        {"fine_labels": ["a", "b"]},
        {"fine_labels": [[0], [0, 1]]},
        {"fine_labels": [0, [1]]},
        {"fine_labels": [True, 1]},
        {"fine_labels": [0.0, 1.0]},
        {"fine_labels": [0, 10**5000]},
        {"fine_labels": [0, None]},
        {"data": [1]},
        {"data": np.zeros((2, 9), np.uint8)},
    ],
)
def test_damaged_cifar(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_cifar(tmp_path, **changes)
    with pytest.raises(InputError) as error:
        Cifar100(split="train", folder=tmp_path).open()
    one_line(error, "train")


def test_folders(tmp_path: Path) -> None:
    for name, images in (("zebra", "ab"), ("ant", "c")):
        (tmp_path / "train" / name).mkdir(parents=True)
        for image in images:
            (tmp_path / "train" / name / f"{image}.png").write_bytes((TOY / "images" / f"{image}.png").read_bytes())
    (tmp_path / "train" / "ant" / "notes.txt").write_text("not an image")
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "d.png").write_bytes((TOY / "images" / "d.png").read_bytes())
    data = Folders(split="train", folder=tmp_path).open()
    assert (data.classes, data.labels.tolist(), len(data.images)) == (("ant", "zebra"), [0, 1, 1], 3)
    assert data.read(2).shape == (48, 32, 3)
    with pytest.raises(InputError) as error:
        Folders(split="val", folder=tmp_path).open()
    one_line(error, "val", "one folder a class")
    with pytest.raises(MissingData) as missing:
        Folders(split="test", folder=tmp_path).open()
    one_line(missing, "found only: train, val")


@shared
def test_real_cifar_layout() -> None:
    train, test = (Cifar100(split=split, folder=SHARED / "grocery32").open() for split in ("train", "test"))
    assert (len(train), len(test), len(train.classes)) == (1929, 1812, 81)
    assert train.classes == test.classes
