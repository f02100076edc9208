"""What every detection dataset becomes: columnar annotations and a way to read image i."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchsuite.data.split import Data
from benchsuite.errors import InputError, MissingData

Rle: TypeAlias = dict[str, Any]  # COCO's run lengths, compressed: {"size": [H, W], "counts": bytes}
LEAST = 0.01  # pixels across a box that has area: in float32 the edges of a thinner one may meet
GRID = 112  # cells along each side of a mask in the coordinates of its box: four for each cell of Mask R-CNN's target


class Masks(ABC):
    """The masks of a split's T boxes, drawn when they are asked for."""

    @abstractmethod
    def rle(self, row: int) -> Rle:
        """The mask of box `row` in its whole image."""

    @abstractmethod
    def grids(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Masks in the coordinates of their boxes, [m, GRID, GRID]: each box is divided into GRID × GRID cells, and
        what lies outside it is cut off."""


@dataclass(frozen=True)
class DetectionSet:
    """One split, opened. N images, T boxes; image i owns rows `offsets[i]:offsets[i + 1]` of the box columns.

    image_ids   int64 [N]     ids as in the annotation file; uint64 where one of them needs it
    file_names  N names       as in the annotation file, for messages and pictures
    sizes       int32 [N, 2]  height, width as annotated
    boxes       float64 [T, 4] xyxy, absolute pixels, as annotated: not rounded, and an edge may lie beyond the image,
                as COCO's and VOC's evaluators take it; `inside` gives what training sees
    labels      int64 [T]     0-based index into `classes`
    areas       float64 [T]   the annotation's area (COCO: of the mask), box area where it gives none
    crowd       bool [T]      COCO `iscrowd`
    difficult   bool [T]      VOC `difficult`
    offsets     int64 [N + 1]
    category_ids int64 [K]    id of each class in the annotation file (COCO's 1..90), for results files
    read        index -> uint8 array [H, W, 3], RGB; InputError naming the file where it cannot be decoded
    dropped     boxes without area that were left out, as COCO itself has some
    sides       float64 [T, 2] width, height as annotated, where the format gives these: x + w - x is not always w; None
                where it gives corners
    masks       opens the masks, which may mean to read the annotations once more; None where there are boxes only
    """

    name: str
    classes: tuple[str, ...]
    image_ids: NDArray[np.integer]
    file_names: tuple[str, ...]
    sizes: NDArray[np.int32]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    category_ids: NDArray[np.integer]
    read: Callable[[int], NDArray[np.uint8]] = field(repr=False)
    fingerprint: str = ""
    dropped: int = 0
    sides: NDArray[np.float64] | None = None
    masks: Callable[[], Masks] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.image_ids)

    def rows(self, index: int) -> slice:
        """The rows of image `index` in the box columns."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def inside(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """The boxes of `rows`, cut at the edges of their images, [m, 4]."""
        owners = np.searchsorted(self.offsets, rows, side="right") - 1
        return clipped(self.boxes[rows], self.sizes[owners])

    @property
    def xywh(self) -> NDArray[np.float64]:
        """The boxes as left, top, width, height, to the bit as annotated, [T, 4]."""
        sides = self.boxes[:, 2:] - self.boxes[:, :2] if self.sides is None else self.sides
        return np.concatenate([self.boxes[:, :2], sides], axis=1)

    @property
    def trainable(self) -> NDArray[np.bool_]:
        """Boxes that training learns from, bool [T]: not crowds, not difficult (Detectron), and of some area within
        their image."""
        return ~(self.crowd | self.difficult | without_area(self.inside(np.arange(len(self.boxes)))))

    def open_masks(self) -> Masks:
        """The masks; InputError where there are none, or one of them is malformed."""
        if self.masks is None:
            raise no_masks(self.name)
        return self.masks()


def distinct(names: Iterable[str], ids: Iterable[int | str]) -> tuple[str, ...]:
    """Names to show and to tell apart: with the id where another class has the same."""
    held = tuple(names)
    return tuple(f"{name} (id {id_})" if held.count(name) > 1 else name for name, id_ in zip(held, ids, strict=True))


def index_of(wanted: NDArray[np.integer], ids: NDArray[np.integer]) -> NDArray[np.int64]:
    """Place of each wanted id in `ids`, -1 where it is not there. Whole numbers throughout: numpy compares signed with
    unsigned ones as float64, which holds no id beyond 2^53."""
    if not len(ids):
        return np.full(len(wanted), -1, dtype=np.int64)
    known = np.ones(len(wanted), dtype=bool)
    if wanted.dtype != ids.dtype:
        known = wanted >= 0 if ids.dtype == np.uint64 else wanted <= np.iinfo(ids.dtype).max
        wanted = wanted.astype(ids.dtype)
    order = np.argsort(ids, kind="stable")
    places = order[np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)]
    return np.where(known & (ids[places] == wanted), places, -1).astype(np.int64)


def without_area(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Boxes [T, 4] of no extent, bool [T]. NaN counts as none."""
    thin: NDArray[np.bool_] = np.any(~((boxes[:, 2:] - boxes[:, :2]) >= LEAST), axis=1)
    return thin


def clipped(boxes: NDArray[np.float64], sizes: NDArray[np.int32]) -> NDArray[np.float64]:
    """Boxes [T, 4] cut at the edges of their images, whose height and width are `sizes` [T, 2]."""
    return np.clip(boxes, 0, np.tile(sizes[:, ::-1], 2))


def no_masks(name: str) -> InputError:
    """The error for a dataset with boxes only where masks are needed."""
    return InputError(
        f"{name}: has boxes but no masks (COCO's `segmentation`); choose a dataset with masks, or a model and a metric "
        "of boxes"
    )


class DetectionData(Data):
    """Slot: one split of a detection dataset. Its classes are told without the data wherever the dataset fixes them."""

    @abstractmethod
    def open(self) -> DetectionSet:
        """Read the annotations; images are read on demand. MissingData or InputError, one line with the cure."""

    @property
    def annotated(self) -> bool:
        """Whether it has ground truth, told without the data wherever the dataset fixes it."""
        return True

    def has_masks(self) -> bool:
        """Whether what `open` gives has masks, told without opening it; MissingData where it is not here."""
        return False


def require_masks(data: DetectionData) -> None:
    """InputError where a split is here and has no masks."""
    with suppress(MissingData):
        if not data.has_masks():
            raise no_masks(data.name)
