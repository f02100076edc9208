"""What CAT's spatial attention sees in one image, as arrays: figures 3 and 4."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchsuite.data.batches import EvalBatches
from benchsuite.engine.job import Context
from benchsuite.errors import InputError
from benchsuite.loops import checkpoint
from benchsuite.models.dense import DenseDetector
from benchsuite.models.rcnn import TwoStageDetector
from benchsuite.models.resnet import ResNetFeatures
from benchsuite.papers.cat import SpatialMap
from benchsuite.pipelines.probe import Probe


class SpatialMaps(Probe):
    """Runs a trained detector's ResNet on image `image` of a split. Leaves `arrays.safetensors`, of the first block of
    each stage, whose map is C_l:

    image                      uint8 [H, W, 3] as the detector saw it, without padding
    avg_C2, max_C2, ent_C2, …  float32 [H_l, W_l]: S_Avg, S_Max and S_Ent, those that the run has
    sum_C2 or concat_C2, …     float32 [H_l, W_l]: S'_A, what they are fused to, before it is weighed by S_w; the name
                               says how (fig. 3 b: concatenated, c: summed)
    """

    pictures: ClassVar[tuple[str, ...]] = ("cat-maps",)

    @property
    def label(self) -> str:
        """For progress and plan."""
        return f"spatial maps seed {self.train.seed}"

    def do(self, context: Context) -> None:
        """Load the weights, look at one image."""
        data = self.data.open()
        if self.image >= len(data):
            raise InputError(f"{data.name}: has no image {self.image}, only 0 to {len(data) - 1}; choose one of them")
        detector = self.train.trained(len(data.classes), context.inputs["train"])
        if not isinstance(detector, (DenseDetector, TwoStageDetector)):
            raise InputError(f"{type(detector).__name__}: has no backbone to look at; choose another row")
        batch = EvalBatches(data, self.input, 1, None)[self.image]
        height, width = batch.sizes[0].tolist()
        with torch.inference_mode():
            found = spatial_maps(detector.backbone.eval(), detector.normalised(batch))
        found["image"] = batch.images[0, :, :height, :width].permute(1, 2, 0)
        checkpoint.save(context.folder / "arrays.safetensors", found)


def spatial_maps(backbone: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The arrays that `SpatialMaps` describes, but the image, for normalised images [1, 3, H, W].

    InputError where there are no spatial maps of CAT's in a ResNet.
    """
    stages = list(backbone.stages)[1:] if isinstance(backbone, ResNetFeatures) else []
    watched = {
        f"C{level}": module
        for level, stage in enumerate(stages, 2)
        for module in next(stage.children()).modules()
        if isinstance(module, SpatialMap)
    }
    if not watched:
        raise InputError("the model has no spatial attention of CAT's to look at; choose a row that has")
    found: dict[str, Tensor] = {}
    handles = [module.register_forward_hook(_keep(found, name)) for name, module in watched.items()]
    try:
        backbone(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _keep(found: dict[str, Tensor], name: str) -> Callable[..., None]:
    def keep(module: SpatialMap, inputs: tuple[Tensor, Tensor], raw: Any) -> None:
        found.update({f"{op}_{name}": module.pooled(*inputs, op)[0, 0].float() for op in module.ops})
        found[f"{'concat' if module.concat else 'sum'}_{name}"] = raw[0, 0].float()

    return keep
