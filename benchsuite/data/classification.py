"""What every classification dataset becomes: images by index, and labels; and datasets made of datasets."""

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ModelWrapValidatorHandler, model_validator

from benchsuite.data.subset import first_on_disk
from benchsuite.errors import MissingData
from benchsuite.settings import Json, Part, Settings, content_key


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
    """Slot: one split of a classification dataset. `identity` is its fingerprint, so it enters every key.

    usual_classes  how many classes the dataset has where it is not on this machine, as far as it fixes them
    """

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.data",)
    usual_classes: ClassVar[int | None] = None

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name shown on results, for instance `cifar100 train`."""

    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Class names in label order; MissingData where it is not on this machine."""

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

    def require(self) -> None:
        """MissingData where it is not on this machine."""
        self.fingerprint()

    def class_count(self) -> int:
        """How many classes; MissingData where only the data could tell and it is not on this machine."""
        try:
            return len(self.classes())
        except MissingData:
            if self.usual_classes is None:
                raise
            return self.usual_classes


@dataclass(frozen=True)
class _Some:
    """Images of another set, by their place there."""

    images: Images
    chosen: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]:
        return self.images[int(self.chosen[index])]


class Subset(ClassificationData):
    """At most `limit` images of another dataset, evenly spread."""

    of: ClassificationData
    limit: int = Field(ge=1)

    @property
    def name(self) -> str:
        """Shown on results."""
        return f"{self.of.name} ({self.limit} images)"

    def classes(self) -> tuple[str, ...]:
        """All classes of the other dataset, even those without an image here."""
        return self.of.classes()

    def class_count(self) -> int:
        """As many as the other dataset has."""
        return self.of.class_count()

    def fingerprint(self) -> str:
        """Hash of the content."""
        return content_key([self.of.fingerprint(), self.limit])

    def open(self) -> ClassificationSet:
        """Open the other dataset and choose."""
        data = self.of.open()
        count, kept = len(data), min(self.limit, len(data))
        chosen = np.arange(kept) * count // max(1, kept)
        images = data.images[chosen] if isinstance(data.images, np.ndarray) else _Some(data.images, chosen)
        return replace(data, name=self.name, images=images, labels=data.labels[chosen], fingerprint=self.fingerprint())


class FirstOnDisk(ClassificationData):
    """The first of several datasets that is on this machine; it turns into that dataset when it is validated, so
    that keys and results name what was used."""

    of: tuple[ClassificationData, ...] = Field(min_length=1)

    @model_validator(mode="wrap")
    @classmethod
    def _choose(cls, value: Any, handler: ModelWrapValidatorHandler["FirstOnDisk"]) -> Any:
        return first_on_disk(handler(value).of)

    @property
    def name(self) -> str:
        """Shown on results."""
        return self.of[0].name

    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.of[0].classes()

    def fingerprint(self) -> str:
        """Hash of the content."""
        return self.of[0].fingerprint()

    def open(self) -> ClassificationSet:
        """Read labels and, where they are small, images."""
        return self.of[0].open()


class ClassificationSplits(Settings):
    """The two splits a table of classification needs, each cut to a number of images where a limit is given."""

    train: ClassificationData
    val: ClassificationData
    train_limit: int | None = Field(None, ge=1)
    val_limit: int | None = Field(None, ge=1)

    def cut(self, split: str) -> ClassificationData:
        """The split as it is used."""
        data: ClassificationData = getattr(self, split)
        limit: int | None = getattr(self, f"{split}_limit")
        return data if limit is None else Subset(of=data, limit=limit)
