"""A look at what a trained model does with one image, for pictures."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from benchsuite.data.batch import Batch
from benchsuite.data.batches import EvalBatches
from benchsuite.data.dataset import DetectionData
from benchsuite.data.transforms import Input
from benchsuite.engine.job import Context, Job
from benchsuite.errors import InputError, nearest
from benchsuite.loops import checkpoint
from benchsuite.models.detector import Detector
from benchsuite.models.postprocess import PostProcess
from benchsuite.pipelines.detection import Train
from benchsuite.settings import choices


class Probe(Job):
    """A look at what a trained model does with image `image` of a split. Leaves `arrays.safetensors`, from which
    `report/probed/` draws each of `pictures`: what `look` sees, and

    image  uint8 [H, W, 3] as the detector saw it, without padding
    """

    pictures: ClassVar[tuple[str, ...]] = ()

    train: Train
    data: DetectionData
    input: Input
    image: int = Field(0, ge=0)
    post: PostProcess = PostProcess()

    @property
    @override
    def label(self) -> str:
        return f"{' and '.join(self.pictures)} seed {self.train.seed}"

    @abstractmethod
    def look(self, detector: Detector, batch: Batch) -> Mapping[str, Tensor]:
        """The arrays of a batch of one image, by a detector in evaluation mode; InputError where there is nothing to
        see in it."""

    def do(self, context: Context) -> None:
        """Load the weights, look at one image. InputError where the split has no such image."""
        data = self.data.open()
        if self.image >= len(data):
            raise InputError(f"{data.name}: has no image {self.image}, only 0 to {len(data) - 1}; choose one of them")
        detector = self.train.trained(len(data.classes), context.inputs["train"])
        batch = EvalBatches(data, self.input, 1, None)[self.image]
        height, width = batch.sizes[0].tolist()
        with torch.inference_mode():
            found = dict(self.look(detector.eval(), batch))
        found["image"] = batch.images[0, :, :height, :width].permute(1, 2, 0)
        checkpoint.save(context.folder / "arrays.safetensors", found)


Told = Callable[[Any, Any], Mapping[str, Tensor]]
"""What the inputs (a tuple) and the output of a module's forward pass tell."""


@contextmanager
def watching(modules: Iterable[tuple[nn.Module, Told]]) -> Iterator[dict[str, Tensor]]:
    """What forward passes within tell, by name; a later pass overwrites an earlier one's."""
    found: dict[str, Tensor] = {}

    def kept(told: Told) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, inputs, output: found.update(told(inputs, output))

    handles = [module.register_forward_hook(kept(told)) for module, told in modules]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def probe_for(picture: str) -> type[Probe]:
    """The probe that serves a picture, found among the papers' jobs; InputError where none does."""
    choices(Job)  # imports every module that may hold one
    probes = {name: probe for probe in Probe.__subclasses__() for name in probe.pictures}
    if picture not in probes:
        raise InputError(f"plot {picture}: no job makes it; {nearest(picture, probes)}")
    return probes[picture]
