"""Datasets made of datasets: an even subset of one, one whose difficult boxes count, the first of several that is on
this machine."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import numpy as np
from pydantic import Field, ModelWrapValidatorHandler, model_validator

from benchsuite.data.dataset import DetectionData, DetectionSet
from benchsuite.data.masks import Chosen
from benchsuite.errors import MissingData
from benchsuite.settings import Settings, Switch, content_key


def take(data: DetectionSet, limit: int) -> DetectionSet:
    """At most `limit` images, evenly spread over the set's order, with their boxes."""
    count = len(data)
    if limit >= count:
        return data
    chosen = np.arange(limit) * count // limit
    lengths = np.diff(data.offsets)[chosen]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = np.repeat(data.offsets[chosen] - offsets[:-1], lengths) + np.arange(offsets[-1])
    opened = data.masks
    return replace(
        data,
        image_ids=data.image_ids[chosen],
        file_names=tuple(data.file_names[index] for index in chosen),
        sizes=data.sizes[chosen],
        boxes=data.boxes[rows],
        sides=None if data.sides is None else data.sides[rows],
        labels=data.labels[rows],
        areas=data.areas[rows],
        crowd=data.crowd[rows],
        difficult=data.difficult[rows],
        offsets=offsets,
        read=lambda index: data.read(int(chosen[index])),
        fingerprint=content_key([data.fingerprint, limit]),
        masks=None if opened is None else lambda: Chosen(opened(), rows),
    )


class Subset(DetectionData):
    """At most `limit` images of another dataset, evenly spread."""

    of: DetectionData
    limit: int = Field(ge=1)

    @property
    def name(self) -> str:
        """Shown on results."""
        return f"{self.of.name} ({self.limit} images)"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.of.classes

    @property
    def annotated(self) -> bool:
        """As the whole dataset."""
        return self.of.annotated

    def fingerprint(self) -> str:
        """Hash of the content."""
        return content_key([self.of.fingerprint(), self.limit])

    def has_masks(self) -> bool:
        """As the whole dataset."""
        return self.of.has_masks()

    def open(self) -> DetectionSet:
        """Read the annotations."""
        return replace(take(self.of.open(), self.limit), name=self.name)


class DifficultToo(DetectionData):
    """Another dataset whose difficult boxes are boxes like any other: trained on, and if scored, counted."""

    of: DetectionData

    @property
    def name(self) -> str:
        """As the dataset."""
        return self.of.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.of.classes

    def fingerprint(self) -> str:
        """As the dataset; the key tells them apart by `kind`."""
        return self.of.fingerprint()

    def has_masks(self) -> bool:
        """As the dataset."""
        return self.of.has_masks()

    def open(self) -> DetectionSet:
        """Read the annotations, and forget which boxes are difficult."""
        data = self.of.open()
        return replace(data, difficult=np.zeros_like(data.difficult))


class Data(Protocol):
    """A dataset, of whatever kind."""

    def fingerprint(self) -> str:
        """Hash of the content; MissingData where it is not on this machine."""


D = TypeVar("D", bound=Data)


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


class FirstOnDisk(DetectionData):
    """The first of several datasets that is on this machine; it turns into that dataset when it is validated, so
    that keys and results name what was used."""

    of: tuple[DetectionData, ...] = Field(min_length=1)

    @model_validator(mode="wrap")
    @classmethod
    def _choose(cls, value: Any, handler: ModelWrapValidatorHandler["FirstOnDisk"]) -> Any:
        return first_on_disk(handler(value).of)

    @property
    def name(self) -> str:
        """Shown on results."""
        return self.of[0].name

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.of[0].classes

    def fingerprint(self) -> str:
        """Hash of the content."""
        return self.of[0].fingerprint()

    def has_masks(self) -> bool:
        """As the dataset it stands for."""
        return self.of[0].has_masks()

    def open(self) -> DetectionSet:
        """Read the annotations."""
        return self.of[0].open()


class Splits(Settings):
    """The two splits a table needs, each cut to a number of images where a limit is given.

    train_difficult  boxes that VOC calls difficult are trained on too (Detectron2), not left out (Detectron)
    """

    train: DetectionData
    val: DetectionData
    train_limit: int | None = None
    val_limit: int | None = None
    train_difficult: Switch = None

    def cut(self, split: str) -> DetectionData:
        """The split as it is used."""
        data: DetectionData = getattr(self, split)
        limit: int | None = getattr(self, f"{split}_limit")
        data = data if limit is None else Subset(of=data, limit=limit)
        return DifficultToo(of=data) if split == "train" and self.train_difficult else data
