"""Jobs about detections that are there: taking over those of others, and what a number is made of."""

import hashlib
from pathlib import Path
from typing import ClassVar

from pydantic import Field
from safetensors.numpy import save_file
from typing_extensions import override

from benchsuite.data.dataset import DetectionSet
from benchsuite.engine.job import Context, Job
from benchsuite.errors import InputError
from benchsuite.metrics.coco_results import names_of, read_results
from benchsuite.metrics.metric import Found, Metric, drawn_weights
from benchsuite.pipelines.detection import DETECTIONS, Detecting, found
from benchsuite.pipelines.steps import DRAWS_FILE


class Foreign(Detecting):
    """Take over the detections of another framework, a file of COCO results.

    sha256  of the file
    seed    of the training that they are of, as its owner numbers it
    file    where it lies
    """

    on_device: ClassVar[bool] = False

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    seed: int = Field(ge=0)
    file: Path = Field(exclude=True)

    @property
    @override
    def trained_seed(self) -> int:
        return self.seed

    @property
    @override
    def label(self) -> str:
        return f"read {self.file.name} seed {self.seed}"

    def do(self, context: Context) -> None:
        """Read, and keep. InputError where the file does not fit the split, or is no longer the one that was meant."""
        if hashlib.sha256(self.file.read_bytes()).hexdigest() != self.sha256:
            raise InputError(f"{self.file}: has changed meanwhile; add it again")
        self.read(self.data.open()).save(context.folder / DETECTIONS)

    def read(self, data: DetectionSet) -> Found:
        """The file's detections. InputError where it does not fit the split."""
        return read_results(self.file, data, names_of(data))


class Breakdown(Job):
    """What the metric's number is made of, in each of many draws of the split's images. Leaves `draws.safetensors`: by
    the names of `Metric.parts`, [1 + draws]."""

    on_device: ClassVar[bool] = False

    predict: Detecting
    metric: Metric

    @property
    @override
    def label(self) -> str:
        return f"break down seed {self.predict.trained_seed}"

    def do(self, context: Context) -> None:
        """Read the ground truth, and let the metric draw."""
        data = self.predict.data.open()
        parts = self.metric.parts(data, found(context.inputs["predict"]), drawn_weights(len(data)))
        save_file(parts, context.folder / DRAWS_FILE)
