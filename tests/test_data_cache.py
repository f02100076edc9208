import fcntl
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data_cases import TOY, copy, one_line, toy
from numpy.typing import NDArray

from benchsuite.data import cache
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


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:100] + bytes([text[100] ^ 1]) + text[101:],
        lambda text: bytes(len(text)),
        lambda text: text[:40] + bytes(500) + text[540:],
        lambda text: text[300:600] + text[:300] + text[600:],
        lambda text: text[:-1] + bytes([text[-1] ^ 128]),
    ],
)
def test_other_pixels_are_noticed_and_made_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    data, calls = counted(toy().open())
    expected = [reader(data, RESIZE, tmp_path)(index).clone() for index in range(len(data))]
    (file,) = tmp_path.glob("*.images")
    file.write_bytes(damage(file.read_bytes()))
    again = reader(data, RESIZE, tmp_path)
    assert all(torch.equal(again(index), image) for index, image in enumerate(expected))
    assert len(calls) == 2 * len(data)


def test_a_file_is_checked_once_a_process_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []
    digest_of = cache._digest_of
    monkeypatch.setattr(cache, "_digest_of", lambda file, size: checked.append(size) or digest_of(file, size))
    data = toy().open()
    for _ in range(3):
        reader(data, RESIZE, tmp_path)
    assert len(checked) == 1
    (file,) = tmp_path.glob("*.images")
    os.utime(file)
    reader(data, RESIZE, tmp_path)
    assert len(checked) == 2


def test_what_killed_writers_left_is_swept_and_what_is_being_written_stays(tmp_path: Path) -> None:
    data = toy().open()
    reader(data, RESIZE, tmp_path)
    (made,) = tmp_path.glob("*.images")
    for name in (f"{made.stem}.7.half", "abc.8.half", "held.9.half"):
        (tmp_path / name).write_bytes(b"half")
    with (tmp_path / "held.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        reader(data, RESIZE, tmp_path)
        assert [file.name for file in tmp_path.glob("*.half")] == ["held.9.half"]


def test_foreign_things_in_the_caches_place(tmp_path: Path) -> None:
    data = toy().open()
    expected = reader(data, RESIZE, tmp_path / "cache")(0).clone()
    (file,) = (tmp_path / "cache").glob("*.images")
    for place in (file, file.with_suffix(".lock")):
        file.unlink(missing_ok=True)
        place.unlink(missing_ok=True)
        place.mkdir()
        with pytest.raises(BenchError) as error:
            reader(data, RESIZE, tmp_path / "cache")
        one_line(error, f"{place}: ", "delete it")
        place.rmdir()
    file.symlink_to(tmp_path / "elsewhere")
    assert torch.equal(reader(data, RESIZE, tmp_path / "cache")(0), expected)
    assert not (tmp_path / "elsewhere").exists()
    file.unlink()
    os.mkfifo(file)
    assert torch.equal(reader(data, RESIZE, tmp_path / "cache")(0), expected)
    file.unlink()
    file.with_suffix(".lock").unlink()
    os.mkfifo(file.with_suffix(".lock"))  # which locks as well as any file
    assert torch.equal(reader(data, RESIZE, tmp_path / "cache")(0), expected)
    file.unlink()
    file.with_suffix(".lock").unlink()
    file.with_suffix(".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BenchError) as error:
        reader(data, RESIZE, tmp_path / "cache")
    one_line(error, f"{file.with_suffix('.lock')}: ", "delete it")
    assert not (tmp_path / "elsewhere").exists()
