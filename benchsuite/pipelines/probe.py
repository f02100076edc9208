"""A look at what a trained model does with one image, for pictures."""

from typing import ClassVar

from pydantic import Field

from benchsuite.data.dataset import DetectionData
from benchsuite.data.transforms import Input
from benchsuite.engine.job import Job
from benchsuite.errors import InputError, nearest
from benchsuite.pipelines.detection import Train
from benchsuite.settings import choices


class Probe(Job):
    """A look at what a trained model does with image `image` of a split. Leaves `arrays.safetensors`, from which
    `report/probed/` draws each of `pictures`."""

    pictures: ClassVar[tuple[str, ...]] = ()

    train: Train
    data: DetectionData
    input: Input
    image: int = Field(0, ge=0)


def probe_for(picture: str) -> type[Probe]:
    """The probe that serves a picture, found among the papers' jobs; InputError with the nearest name."""
    choices(Job)  # imports every module that may hold one
    probes = {name: probe for probe in Probe.__subclasses__() for name in probe.pictures}
    if picture not in probes:
        raise InputError(f"plot: no picture '{picture}'; {nearest(picture, ['detections', *probes])}")
    return probes[picture]
