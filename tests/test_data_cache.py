import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data_cases import TOY, copy, one_line, toy
from numpy.typing import NDArray

from benchsuite.data.cache import reader
from benchsuite.data.dataset import DetectionSet
from benchsuite.data.transforms import Fixed, ShortSide
from benchsuite.errors import BenchError, InputError

RESIZE = ShortSide(short=24, long=40)


def counted(data: DetectionSet) -> tuple[DetectionSet, list[int]]:
    calls: list[int] = []

    def read(index: int) -> NDArray[np.uint8]:
        calls.append(index)
        return data.read(index)

    return replace(data, read=read), calls


def test_cache_gives_what_decoding_gives_and_decodes_once(tmp_path: Path) -> None:
    data, calls = counted(toy().open())
    direct = reader(data, RESIZE, None)
    expected = [direct(index) for index in range(len(data))]
    calls.clear()
    for _ in range(2):
        cached = reader(data, RESIZE, tmp_path)
        assert all(torch.equal(cached(index), image) for index, image in enumerate(expected))
    assert sorted(calls) == list(range(len(data)))
    assert not list(tmp_path.glob("*.half"))


def test_one_file_a_resize_and_content(tmp_path: Path) -> None:
    data = toy().open()
    for resize in (None, RESIZE, Fixed(height=8, width=9)):
        image = reader(data, resize, tmp_path)(1)
        assert image.shape[-2:] == ((48, 32) if resize is None else resize.target(48, 32))
    reader(replace(data, fingerprint="other"), RESIZE, tmp_path)
    assert len(list(tmp_path.glob("*.images"))) == 4


def test_writing_into_an_image_leaves_the_file_alone(tmp_path: Path) -> None:
    data = toy().open()
    reader(data, RESIZE, tmp_path)(0).zero_()
    assert reader(data, RESIZE, tmp_path)(0).any()


@pytest.mark.parametrize("damage", [lambda text: text[:-5], lambda text: text + b"x", lambda text: b""])
def test_a_cache_of_another_size_is_made_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    data, calls = counted(toy().open())
    expected = reader(data, RESIZE, tmp_path)(2).clone()
    (file,) = tmp_path.glob("*.images")
    file.write_bytes(damage(file.read_bytes()))
    assert torch.equal(reader(data, RESIZE, tmp_path)(2), expected)
    assert len(calls) == 2 * len(data)


def test_too_large_or_without_fingerprint_is_not_kept(tmp_path: Path) -> None:
    data = toy().open()
    reader(data, RESIZE, tmp_path, limit=1000)(0)
    reader(replace(data, fingerprint=""), RESIZE, tmp_path)(0)
    assert not list(tmp_path.iterdir())


def test_two_at_once_decode_once(tmp_path: Path) -> None:
    data, calls = counted(toy().open())
    threads = [threading.Thread(target=reader, args=(data, RESIZE, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == len(data)


def test_undecodable_image_leaves_nothing(tmp_path: Path) -> None:
    folder = copy(TOY, tmp_path)
    (folder / "images" / "c.png").write_bytes(b"not an image")
    with pytest.raises(InputError) as error:
        reader(toy(folder=folder).open(), RESIZE, tmp_path / "cache")
    one_line(error, "c.png", "cannot be decoded")
    assert not [file for file in (tmp_path / "cache").iterdir() if file.suffix != ".lock"]


def test_image_of_another_size_than_annotated(tmp_path: Path) -> None:
    folder = copy(TOY, tmp_path)
    (folder / "images" / "a.png").write_bytes((TOY / "images" / "b.png").read_bytes())
    with pytest.raises(InputError) as error:
        reader(toy(folder=folder).open(), RESIZE, None)(0)
    one_line(error, "a.png", "32x48", "48x32")


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError) as error:
        reader(toy().open(), RESIZE, tmp_path / "file")
    one_line(error, "image cache")
