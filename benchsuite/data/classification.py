"""What every classification dataset becomes: images by index, and labels."""

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from benchsuite.data.split import Data, Splits, Subset, evenly


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


class ClassificationData(Data):
    """Slot: one split of a classification dataset."""

    @abstractmethod
    def open(self) -> ClassificationSet:
        """Read labels and, where they are small, images. MissingData or InputError, one line with the cure."""


@dataclass(frozen=True)
class _Some:
    """Images of another set, by their place there."""

    images: Images
    chosen: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]:
        return self.images[int(self.chosen[index])]


class ClassificationSubset(Subset, ClassificationData):
    """Some images with their labels."""

    of: ClassificationData

    def open(self) -> ClassificationSet:
        """Open the other dataset and choose."""
        data = self.of.open()
        chosen = evenly(len(data), self.limit)
        images = data.images[chosen] if isinstance(data.images, np.ndarray) else _Some(data.images, chosen)
        return replace(data, name=self.name, images=images, labels=data.labels[chosen], fingerprint=self.fingerprint())


class ClassificationSplits(Splits[ClassificationData]):
    """Splits of a classification dataset."""

    subset: ClassVar[type[Subset]] = ClassificationSubset
