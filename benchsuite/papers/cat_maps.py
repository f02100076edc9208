"""What CAT's spatial attention sees in one image, as arrays: figures 3 and 4."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from benchsuite.data.batch import Batch
from benchsuite.errors import InputError
from benchsuite.models.detector import Detector
from benchsuite.models.resnet import ResNetFeatures
from benchsuite.papers.cat import SpatialMap
from benchsuite.pipelines.probe import Probe, watching


class SpatialMaps(Probe):
    """Arrays of the first block of each stage of a ResNet, whose map is C_l:

    avg_C2, max_C2, ent_C2, …  float32 [H_l, W_l]: S_Avg, S_Max and S_Ent, those that the run has
    sum_C2 or concat_C2, …     float32 [H_l, W_l]: S'_A, what they are fused to, before it is weighed by S_w; the name
                               says how (fig. 3 b: concatenated, c: summed)
    """

    pictures: ClassVar[tuple[str, ...]] = ("cat-maps",)

    def look(self, detector: Detector, batch: Batch) -> Mapping[str, Tensor]:
        """Run the backbone. InputError where there are no spatial maps of CAT's in a ResNet."""
        backbone = getattr(detector, "backbone", None)
        if not isinstance(backbone, nn.Module):
            raise InputError(f"{type(detector).__name__}: has no backbone to look at; choose another row")
        return spatial_maps(backbone, detector.images(batch))


def spatial_maps(backbone: nn.Module, images: Tensor) -> Mapping[str, Tensor]:
    """The arrays that `SpatialMaps` describes, for normalised images [1, 3, H, W]; InputError where there are none."""
    stages = list(backbone.stages)[1:] if isinstance(backbone, ResNetFeatures) else []
    watched = [
        (module, partial(_told, module, f"C{level}"))
        for level, stage in enumerate(stages, 2)
        for module in next(stage.children()).modules()
        if isinstance(module, SpatialMap)
    ]
    if not watched:
        raise InputError("the model has no spatial attention of CAT's to look at; choose a row that has")
    with watching(watched) as found:
        backbone(images)
    return found


def _told(module: SpatialMap, name: str, inputs: tuple[Tensor, Tensor], raw: Tensor) -> Mapping[str, Tensor]:
    pooled = {f"{op}_{name}": module.pooled(*inputs, op)[0, 0].float() for op in module.ops}
    return pooled | {f"{'concat' if module.concat else 'sum'}_{name}": raw[0, 0].float()}
