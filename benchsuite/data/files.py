"""What datasets of files share: where to look, and annotations in columns, checked."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from benchsuite.data.dataset import DetectionSet, clipped, without_area
from benchsuite.data.images import ImageFiles
from benchsuite.data.masks import Segmentations, problem
from benchsuite.errors import InputError

FARTHEST = 1e9  # pixels from the corner of the image


def data_root() -> Path:
    """`$BENCH_DATA`, or `./data` where it is not set."""
    return Path(os.environ.get("BENCH_DATA") or "data")


def roots(name: str, folder: Path | None = None) -> list[Path]:
    """Folders that may be dataset `name`: `folder` and `folder/name` where it is given, else the usual places."""
    if folder is not None:
        return [folder, folder / name]
    root = data_root()
    return [root / name, root, Path("data") / name, Path("datasets") / name]


def looked_in(name: str, folder: Path | None) -> str:
    """The places of `roots` for an error message."""
    return str(folder) if folder is not None else f"$BENCH_DATA ({data_root()}), data/{name} and datasets/{name}"


def unhidden(folder: Path, pattern: str) -> Iterator[Path]:
    """What matches a glob below `folder`, one by one, without what systems and tools hide there: `._0001.jpg` of
    macOS's copies, `.ipynb_checkpoints`."""
    dot = f"{os.sep}."
    for path in folder.glob(pattern):
        # A path without any such name, as nearly all are, is not taken apart.
        if dot not in f"{os.sep}{path}" or dot not in f"{os.sep}{path.relative_to(folder)}":
            yield path


@dataclass(frozen=True)
class Raw:
    """Annotations as written, not yet checked: N images, T boxes in any order; see `DetectionSet` for the columns.

    owners    int64 [T] index of the image, -1 where it is unknown
    labels    int64 [T] index of the class, -1 where it is unknown
    describe  row -> which annotation this is, for messages
    images    reads the images; None for truth alone, to score against
    found     (sort, one line) of every mistake met while reading (equal ids, files that cannot be parsed)
    notes     one line for each thing that was put in place of what is not written
    unsized   images whose size could not be read, as is told in `found`; theirs stands as 1×1
    segmentations  reads the masks' polygons or run lengths, one a box as COCO writes them; None where there are none
    """

    name: str
    file: Path
    classes: tuple[str, ...]
    category_ids: NDArray[np.integer]
    image_ids: NDArray[np.integer]
    file_names: tuple[str, ...]
    sizes: NDArray[np.int32]
    boxes: NDArray[np.float64]
    owners: NDArray[np.int64]
    labels: NDArray[np.int64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    describe: Callable[[int], str] = field(repr=False)
    images: ImageFiles | None = None
    sides: NDArray[np.float64] | None = None
    fingerprint: str = ""
    found: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    unsized: frozenset[int] = frozenset()
    segmentations: Callable[[], Sequence[Any]] | None = field(default=None, repr=False)

    @property
    def empty(self) -> NDArray[np.bool_]:
        """Boxes without area, bool [T]."""
        return without_area(self.boxes)

    @property
    def limits(self) -> NDArray[np.float64]:
        """Width, height, width, height of each box's image, [T, 4]."""
        return np.tile(self.sizes[self.owners][:, ::-1], 2).astype(np.float64)

    @property
    def outside(self) -> NDArray[np.bool_]:
        """Boxes with area, of a known image, that lie wholly outside it, bool [T]."""
        if not len(self.boxes) or not len(self.sizes):
            return np.zeros(len(self.boxes), dtype=bool)
        beyond = (self.boxes[:, :2] >= self.limits[:, :2]).any(1) | (self.boxes[:, 2:] <= 0).any(1)
        return beyond & ~self.empty & (self.owners >= 0)

    @property
    def endless(self) -> NDArray[np.bool_]:
        """Boxes that are not finite, or so far out that sums of their sides are not, bool [T]."""
        far: NDArray[np.bool_] = np.any(~(np.abs(self.boxes) <= FARTHEST), axis=1)
        return far


@runtime_checkable
class HasRaw(Protocol):
    """A dataset whose annotations can be looked at before they are checked."""

    def raw(self) -> Raw:
        """The annotations as written."""


def mistakes(raw: Raw) -> Iterator[tuple[str, str]]:
    """(sort of mistake, one line) of everything that keeps a dataset from being used."""
    yield from raw.found
    if not len(raw.image_ids):
        yield "images", "lists no image; choose another file or split"
    for row in map(int, np.flatnonzero(raw.owners < 0)):
        yield "unknown images", f"{raw.describe(row)}: its image is not in the list of images; correct or remove it"
    for row in map(int, np.flatnonzero(raw.labels < 0)):
        yield "unknown classes", f"{raw.describe(row)}: its class is not in the list of classes; correct or remove it"
    for row in map(int, np.flatnonzero(raw.endless)):
        yield "boxes not finite", f"{raw.describe(row)}: box {raw.boxes[row].tolist()} is not finite; correct it"
    for row in map(int, np.flatnonzero(~((raw.areas >= 0) & (raw.areas < np.inf)))):
        yield "areas", f"{raw.describe(row)}: area {raw.areas[row]} is none; correct it, or leave it out"
    least = 0 if raw.images is None else 1  # who only scores may leave sizes out
    for index in map(int, np.flatnonzero((raw.sizes < least).any(1))):
        height, width = raw.sizes[index]
        yield "sizes", f"image {raw.file_names[index]} is annotated as {width}x{height}; correct the annotation"
    if raw.images is not None:
        yield from _of_images(raw)


def _of_images(raw: Raw) -> Iterator[tuple[str, str]]:
    for row in map(int, np.flatnonzero(raw.outside)):
        height, width = raw.sizes[raw.owners[row]]
        box = [round(float(side), 2) for side in raw.boxes[row]]
        yield (
            "boxes outside",
            f"{raw.describe(row)}: box {box} (x1, y1, x2, y2) lies wholly outside its image "
            f"{raw.file_names[raw.owners[row]]} of {width}x{height}; correct or remove it",
        )


def _unread(index: int) -> NDArray[np.uint8]:
    raise InputError(f"image {index}: was not given; name the folder of images")


def checked(raw: Raw) -> DetectionSet:
    """Boxes without area dropped and counted, the others as they are, sorted by image.

    InputError at the first mistake.
    """
    first = next(mistakes(raw), None)
    if first is not None:
        raise InputError(f"{raw.file}: {first[1]}")
    rows = np.flatnonzero(~raw.empty)
    rows = rows[np.argsort(raw.owners[rows], kind="stable")]
    return DetectionSet(
        name=raw.name,
        classes=raw.classes,
        image_ids=raw.image_ids,
        file_names=raw.file_names,
        sizes=raw.sizes,
        boxes=raw.boxes[rows],
        sides=None if raw.sides is None else raw.sides[rows],
        labels=raw.labels[rows],
        areas=raw.areas[rows],
        crowd=raw.crowd[rows],
        difficult=raw.difficult[rows],
        offsets=np.searchsorted(raw.owners[rows], np.arange(len(raw.image_ids) + 1)).astype(np.int64),
        category_ids=raw.category_ids,
        read=raw.images or _unread,
        fingerprint=raw.fingerprint,
        dropped=int(raw.empty.sum()),
        masks=_masks(raw, rows),
    )


def _masks(raw: Raw, rows: NDArray[np.int64]) -> Callable[[], Segmentations] | None:
    """Opens the masks of `rows`, cut at the edges of their images; InputError at the first that is malformed."""
    if raw.segmentations is None:
        return None
    read, describe, file, sizes = raw.segmentations, raw.describe, raw.file, raw.sizes[raw.owners[rows]]

    def opened() -> Segmentations:
        written = read()
        for row, (height, width) in zip(rows.tolist(), sizes.tolist(), strict=True):
            if mistake := problem(written[row], height, width):
                raise InputError(f"{file}: {describe(row)} {mistake}; correct or remove it")
        return Segmentations.of((written[row] for row in rows.tolist()), clipped(raw.boxes[rows], sizes), sizes)

    return opened


def fingerprint(annotations: Iterable[bytes], images: Iterable[Path]) -> str:
    """SHA-256, 24 digits, over annotation texts and the names and sizes on disk of the images (-1 where missing)."""
    digest = hashlib.sha256()
    for text in annotations:
        digest.update(hashlib.sha256(text).digest())
    for path in images:
        try:
            size = path.stat().st_size
        except (OSError, ValueError):  # ValueError: a name that no file can have
            size = -1
        digest.update(f"{path.name} {size}\n".encode(errors="backslashreplace"))
    return digest.hexdigest()[:24]
