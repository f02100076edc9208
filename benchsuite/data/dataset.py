"""What every detection dataset becomes: columnar annotations and a way to read image i."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from benchsuite.errors import MissingData
from benchsuite.settings import Json, Part


@dataclass(frozen=True)
class DetectionSet:
    """One split, opened. N images, T boxes; image i owns rows `offsets[i]:offsets[i + 1]` of the box columns.

    image_ids   int64 [N]     ids as in the annotation file
    file_names  N names       as in the annotation file, for messages and pictures
    sizes       int32 [N, 2]  height, width as annotated
    boxes       float64 [T, 4] xyxy, absolute pixels, not rounded
    labels      int64 [T]     0-based index into `classes`
    areas       float64 [T]   the annotation's area (COCO: of the mask), box area where it gives none
    crowd       bool [T]      COCO `iscrowd`
    difficult   bool [T]      VOC `difficult`
    offsets     int64 [N + 1]
    category_ids int64 [K]    id of each class in the annotation file (COCO's 1..90), for results files
    read        index -> uint8 array [H, W, 3], RGB; InputError naming the file where it cannot be decoded
    dropped     boxes without area that were left out, as COCO itself has some
    """

    name: str
    classes: tuple[str, ...]
    image_ids: NDArray[np.int64]
    file_names: tuple[str, ...]
    sizes: NDArray[np.int32]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    read: Callable[[int], NDArray[np.uint8]] = field(repr=False)
    fingerprint: str = ""
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.image_ids)

    def rows(self, index: int) -> slice:
        """The rows of image `index` in the box columns."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))


class DetectionData(Part):
    """Slot: one split of a detection dataset. `identity` is its fingerprint, so it enters every key."""

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.data",)

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name shown on results, for instance `coco val2017`."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Class names in label order; known without the data on disk wherever the dataset fixes them."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of the content (annotations, image names and sizes); MissingData where it is not on this machine."""

    @abstractmethod
    def open(self) -> DetectionSet:
        """Read the annotations; images are read on demand. MissingData or InputError, one line with the cure."""

    def identity(self) -> Json:
        """The fingerprint, or `absent`: planning goes on without the data."""
        try:
            return self.fingerprint()
        except MissingData:
            return "absent"

    def require(self) -> None:
        """MissingData where it is not on this machine."""
        self.fingerprint()
