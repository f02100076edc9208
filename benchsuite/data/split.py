"""What every dataset is, whatever its images are annotated with: one split, known by name, content and classes; a
part of one; and the two splits that a table needs."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from benchsuite.errors import InputError, MissingData, shortened
from benchsuite.settings import Json, Part, Settings, content_key, once


class Data(Part):
    """Slot: one split of a dataset. `identity` is its fingerprint, so it enters every key.

    usual_classes  how many classes the dataset has where it is not on this machine, as far as it fixes them
    """

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.data",)
    usual_classes: ClassVar[int | None] = None

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name shown on results, for instance `coco val2017`."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Class names in label order; MissingData where only the data could tell and they are not on this machine."""

    @property
    def num_classes(self) -> int:
        """How many classes; MissingData where only the data could tell and they are not on this machine."""
        try:
            return len(self.classes)
        except MissingData:
            if self.usual_classes is None:
                raise
            return self.usual_classes

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of the content (annotations, image names and sizes); MissingData where it is not on this machine."""

    @abstractmethod
    def open(self) -> Any:
        """Read the annotations; images are read on demand. MissingData or InputError, one line with the cure."""

    @once
    def identity(self) -> Json:
        """The fingerprint, or `absent`: planning goes on without the data."""
        try:
            return self.fingerprint()
        except MissingData:
            return "absent"

    def require(self) -> None:
        """MissingData where it is not on this machine."""
        self.fingerprint()


D = TypeVar("D", bound=Data)


class Subset(Data):
    """At most `limit` images of another dataset, evenly spread; `of` is typed by each family of datasets."""

    of: Any
    limit: int = Field(ge=1)

    @property
    def name(self) -> str:
        """Says how many images they are at most."""
        return f"{self.of.name} (≤ {self.limit} images)"

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes of the other dataset, even those without an image here."""
        classes: tuple[str, ...] = self.of.classes
        return classes

    @property
    def num_classes(self) -> int:
        """As many as the other dataset has."""
        count: int = self.of.num_classes
        return count

    def fingerprint(self) -> str:
        """Hash of the other's and the limit."""
        return content_key([self.of.fingerprint(), self.limit])


def evenly(count: int, limit: int) -> NDArray[np.int64]:
    """Indices of at most `limit` of `count` images, evenly spread over their order."""
    kept = min(count, limit)
    return np.arange(kept) * count // max(1, kept)


def first_on_disk(options: Sequence[D]) -> D:
    """The first of the datasets that is on this machine; the last one's MissingData where none is."""
    for option in options:
        try:
            option.fingerprint()
        except MissingData as error:
            missing = error
        else:
            return option
    raise missing


@lru_cache(maxsize=4)
def opened(data: Data) -> Any:
    """A split, opened once for all who only look at it. MissingData or InputError as `Data.open`."""
    return data.open()


def require_same_classes(train: Data, other: Data) -> None:
    """InputError where a split has other classes than those trained on, as far as both are known without the data."""
    try:
        known, asked = train.classes, other.classes
    except MissingData:
        return  # planning goes on without the data
    if known != asked:
        raise InputError(f"data: {unlike(train, other)}; train and val need the same classes in the same order")


def unlike(one: Data, other: Data) -> str:
    """How the classes of two splits differ, in a few words."""
    counts = f"{one.name} has {len(one.classes)} classes and {other.name} {len(other.classes)}"
    alone = [
        f"only {mine.name} has {shortened(', '.join(missing), 200)}"
        for mine, theirs in ((one, other), (other, one))
        if (missing := [repr(name) for name in mine.classes if name not in theirs.classes])
    ]
    if alone:
        return f"{counts}: {', '.join(alone)}"
    # Not strict: either may have one name twice.
    pairs = enumerate(zip(one.classes, other.classes, strict=False), 1)
    place, (mine, its) = next((each for each in pairs if each[1][0] != each[1][1]), (0, ("", "")))
    return f"{counts}: number {place} is {mine!r} here and {its!r} there" if place else f"{counts}, some of one name"


class Splits(Settings, Generic[D]):
    """The two splits a table needs, each cut to a number of images where a limit is given."""

    subset: ClassVar[type[Subset]]

    train: D
    val: D
    train_limit: int | None = Field(None, ge=1)
    val_limit: int | None = Field(None, ge=1)

    @once
    def cut(self, split: str) -> D:
        """The split as it is used."""
        data: D = getattr(self, split)
        limit: int | None = getattr(self, f"{split}_limit")
        if limit is None:
            return data
        some: Any = self.subset(of=data, limit=limit)  # of the same family
        return some  # type: ignore[no-any-return]
