"""What every classification dataset becomes: images by index, and labels."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from benchsuite.errors import MissingData
from benchsuite.settings import Json, Part


class Images(Protocol):
    """Images by index, each uint8 [H, W, 3], RGB: an array [N, H, W, 3], or files read on demand."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class ClassificationSet:
    """One split, opened: N images with one label each.

    images  N images, see `Images`
    labels  int64 [N], 0-based index into `classes`
    """

    name: str
    classes: tuple[str, ...]
    images: Images = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Image `index`, uint8 [H, W, 3]; InputError naming the file where it cannot be decoded."""
        return self.images[index]


class ClassificationData(Part):
    """Slot: one split of a classification dataset. `identity` is its fingerprint, so it enters every key."""

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.data",)

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name shown on results, for instance `cifar100 train`."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of the content; MissingData where it is not on this machine."""

    @abstractmethod
    def open(self) -> ClassificationSet:
        """Read labels and, where they are small, images. MissingData or InputError, one line with the cure."""

    def identity(self) -> Json:
        """The fingerprint, or `absent`."""
        try:
            return self.fingerprint()
        except MissingData:
            return "absent"
