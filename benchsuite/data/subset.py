"""Datasets made of datasets: a subset of one, one whose difficult boxes count, the first of several that is on this
machine."""

from dataclasses import replace
from typing import Any, ClassVar, NoReturn

import numpy as np
from pydantic import Field, ModelWrapValidatorHandler, model_validator
from typing_extensions import override

from benchsuite.data.classification import ClassificationData
from benchsuite.data.dataset import DetectionData, DetectionSet
from benchsuite.data.masks import Chosen
from benchsuite.data.split import Data, Splits, Subset, evenly, first_on_disk
from benchsuite.settings import Switch, content_key


def take(data: DetectionSet, limit: int) -> DetectionSet:
    """At most `limit` images, evenly spread over the set's order, with their boxes."""
    count = len(data)
    if limit >= count:
        return data
    chosen = evenly(count, limit)
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


class DetectionSubset(Subset, DetectionData):
    """Some images with their boxes."""

    of: DetectionData

    @property
    @override
    def annotated(self) -> bool:
        return self.of.annotated

    @override
    def has_masks(self) -> bool:
        return self.of.has_masks()

    @override
    def open(self) -> DetectionSet:
        return replace(take(self.of.open(), self.limit), name=self.name)


class DifficultToo(DetectionData):
    """Another dataset whose difficult boxes are boxes like any other: trained on, and if scored, counted."""

    of: DetectionData

    @property
    @override
    def name(self) -> str:
        return self.of.name

    @property
    @override
    def classes(self) -> tuple[str, ...]:
        return self.of.classes

    def fingerprint(self) -> str:
        """As the dataset; the key tells them apart by `kind`."""
        return self.of.fingerprint()

    @property
    @override
    def annotated(self) -> bool:
        return self.of.annotated

    @override
    def has_masks(self) -> bool:
        return self.of.has_masks()

    def open(self) -> DetectionSet:
        """Read the annotations, and forget which boxes are difficult."""
        data = self.of.open()
        return replace(data, difficult=np.zeros_like(data.difficult))


class FirstOnDisk(DetectionData, ClassificationData):
    """The first of several datasets that is on this machine; it turns into that dataset when it is validated, so
    that keys and results name what was used."""

    of: tuple[Data, ...] = Field(min_length=1)

    @model_validator(mode="wrap")
    @classmethod
    def _choose(cls, value: Any, handler: ModelWrapValidatorHandler["FirstOnDisk"]) -> Any:
        return first_on_disk(handler(value).of)

    @property
    @override
    def name(self) -> str:
        return self.of[0].name

    @property
    @override
    def classes(self) -> tuple[str, ...]:
        return self.of[0].classes

    @override
    def fingerprint(self) -> str:
        return self.of[0].fingerprint()

    def open(self) -> NoReturn:
        """There is nothing to open: settings hold the dataset that was chosen."""
        raise TypeError("the chosen dataset is opened")


class DetectionSplits(Splits[DetectionData]):
    """Splits of a detection dataset.

    train_difficult  boxes that VOC calls difficult are trained on too (Detectron2), not left out (Detectron)
    """

    subset: ClassVar[type[Subset]] = DetectionSubset

    train_difficult: Switch = None

    @override
    def cut(self, split: str) -> DetectionData:
        data = super().cut(split)
        return DifficultToo(of=data) if split == "train" and self.train_difficult else data
