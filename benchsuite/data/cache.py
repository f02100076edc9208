"""Decoded and resized images of one split in one flat memory-mapped file, made once and shared by all jobs of a store.

The file holds the bytes of uint8 [3, H, W] images one after another, and then their checksum; shapes follow from the
annotated sizes and the resize, so nothing else needs to be stored. A file of another length or checksum is not this
cache and is made again. The checksum is taken when a process first opens the file as it is: xxh3 runs at the memory's
speed, so that the opening costs little beside an epoch, and an epoch itself nothing.
"""

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import torch
import xxhash
from torch import Tensor

from benchsuite.data.dataset import DetectionSet
from benchsuite.data.transforms import Input, as_tensor
from benchsuite.disk import locked, open_regular
from benchsuite.errors import BenchError, InputError
from benchsuite.settings import canonical, content_key

LIMIT = 4 * 2**30  # bytes; a larger split is decoded anew each time
BLOCK = 2**20  # bytes of which a checksum is taken at a time
DIGEST = 16  # bytes of a checksum

_known: set[tuple[int, ...]] = set()
"""Files whose checksum this process has seen to be right: device, inode, size and time of change."""

Reader: TypeAlias = Callable[[int], Tensor]


def reader(data: DetectionSet, resize: Input | None, folder: Path | None, limit: int = LIMIT) -> Reader:
    """Index -> uint8 [3, H, W] after `resize` (None: as read), from the cache in `folder` where that pays.

    InputError naming the file where an image cannot be decoded or is not of its annotated size.
    """
    shapes = _shapes(data, resize)
    offsets = np.concatenate([[0], np.cumsum(3 * shapes[:, 0] * shapes[:, 1])])
    size = int(offsets[-1])

    def decode(index: int) -> Tensor:
        return _decode(data, resize, index)

    if folder is None or not data.fingerprint or not 0 < size <= limit:
        return decode
    path = folder / f"{_key(data, resize)}.images"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        if not _sound(path, size):
            with locked(path.with_suffix(".lock"), wait=True):
                if not _sound(path, size):  # another process may have made it meanwhile
                    _write(path, decode, offsets)
    except OSError as error:
        cure = "free space there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "choose a folder you may write"
        odd = error.errno in (errno.EISDIR, errno.ELOOP)  # a folder or a link where a file of the cache should be
        cure, place = ("delete it", error.filename) if odd else (cure, folder)
        raise BenchError(f"{place}: the image cache cannot be written ({error.strerror}); {cure}") from error
    # A private mapping: what a caller writes into an image never reaches the file.
    pixels = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)

    def read(index: int) -> Tensor:
        height, width = shapes[index]
        return pixels[offsets[index] : offsets[index + 1]].view(3, height, width)

    return read


def _shapes(data: DetectionSet, resize: Input | None) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    sizes = data.sizes.astype(np.int64)
    if resize is None:
        return sizes
    return np.array([resize.target(int(h), int(w)) for h, w in sizes], dtype=np.int64).reshape(-1, 2)


def _decode(data: DetectionSet, resize: Input | None, index: int) -> Tensor:
    image = data.read(index)
    if image.shape[:2] != tuple(data.sizes[index]):
        (height, width), found = data.sizes[index], image.shape
        raise InputError(
            f"{data.file_names[index]}: the image is {found[1]}x{found[0]} but annotated as {width}x{height}; "
            "correct or remove it (`bench data verify` lists all such images)"
        )
    return as_tensor(image).contiguous() if resize is None else resize.apply(image)


def _key(data: DetectionSet, resize: Input | None) -> str:
    # torch is named because another release may round a resized pixel differently.
    return content_key({"data": data.fingerprint, "input": canonical(resize), "torch": torch.__version__})


def _sound(path: Path, size: int) -> bool:
    """Whether the file holds `size` bytes and their checksum. IsADirectoryError where a folder is in its place."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    try:
        with open_regular(path) as file:
            stat = os.fstat(file.fileno())
            stamp = stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
            if stat.st_size != size + DIGEST:
                return False
            if stamp not in _known and _digest_of(file, size) != file.read(DIGEST):
                return False
    except OSError:
        return False
    _known.add(stamp)
    return True


def _digest_of(file: BinaryIO, size: int) -> bytes:
    """Checksum of the next `size` bytes."""
    digest, block = xxhash.xxh3_128(), memoryview(bytearray(min(BLOCK, size)))
    for first in range(0, size, BLOCK):
        part = block[: min(BLOCK, size - first)]
        file.readinto(part)  # type: ignore[attr-defined]  # what `open` gives has it
        digest.update(part)
    return digest.digest()


def _write(path: Path, decode: Reader, offsets: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
    """Fill a file beside `path` in order, decoding ahead on as many threads as torch uses, and move it into place."""
    half, digest = path.with_suffix(f".{os.getpid()}.half"), xxhash.xxh3_128()
    try:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool, half.open("wb") as file:
            for first in range(0, len(offsets) - 1, 64):
                for image in pool.map(decode, range(first, min(first + 64, len(offsets) - 1))):
                    digest.update(image.numpy().data)
                    file.write(image.numpy().data)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove what killed writers left: halves whose lock nobody holds."""
    for half in folder.glob("*.half"):
        with suppress(OSError), locked(folder / f"{half.name.partition('.')[0]}.lock") as mine:
            if mine:
                half.unlink(missing_ok=True)
