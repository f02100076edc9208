"""Datasets made of datasets: an even subset of one, and the first of several that is on this machine."""

from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field, ModelWrapValidatorHandler, model_validator

from benchsuite.data.dataset import DetectionData, DetectionSet
from benchsuite.errors import MissingData
from benchsuite.settings import content_key


def take(data: DetectionSet, limit: int) -> DetectionSet:
    """At most `limit` images, evenly spread over the set's order, with their boxes."""
    count = len(data)
    if limit >= count:
        return data
    chosen = np.arange(limit) * count // limit
    lengths = np.diff(data.offsets)[chosen]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = np.repeat(data.offsets[chosen] - offsets[:-1], lengths) + np.arange(offsets[-1])
    return replace(
        data,
        image_ids=data.image_ids[chosen],
        file_names=tuple(data.file_names[index] for index in chosen),
        sizes=data.sizes[chosen],
        boxes=data.boxes[rows],
        labels=data.labels[rows],
        areas=data.areas[rows],
        crowd=data.crowd[rows],
        difficult=data.difficult[rows],
        offsets=offsets,
        read=lambda index: data.read(int(chosen[index])),
        fingerprint=content_key([data.fingerprint, limit]),
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

    def fingerprint(self) -> str:
        """Hash of the content."""
        return content_key([self.of.fingerprint(), self.limit])

    def open(self) -> DetectionSet:
        """Read the annotations."""
        return replace(take(self.of.open(), self.limit), name=self.name)


class FirstOnDisk(DetectionData):
    """The first of several datasets that is on this machine; it turns into that dataset when it is validated, so
    that keys and results name what was used."""

    of: tuple[DetectionData, ...] = Field(min_length=1)

    @model_validator(mode="wrap")
    @classmethod
    def _choose(cls, value: Any, handler: ModelWrapValidatorHandler["FirstOnDisk"]) -> Any:
        for option in handler(value).of:
            try:
                option.fingerprint()
            except MissingData as error:
                missing = error
            else:
                return option
        raise missing

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

    def open(self) -> DetectionSet:
        """Read the annotations."""
        return self.of[0].open()
