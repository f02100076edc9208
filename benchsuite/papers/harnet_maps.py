"""What a trained HAR-Net pays attention to in one image: its masks, channel weights and offsets, as arrays."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from benchsuite.data.batch import Batch
from benchsuite.errors import InputError
from benchsuite.models.cross_level import CrossLevelGates, LevelGates
from benchsuite.models.detector import Detector
from benchsuite.papers.harnet import AlignedAttention, SpatialGates
from benchsuite.pipelines.probe import Probe, Told, watching


class AttentionMaps(Probe):
    """Arrays of what a HAR-Net attends to:

    mask_P3, …  [H_l, W_l] in (0, 1), where there is spatial attention; a cell of P_l is 2^l pixels
    weights_cls, weights_box  [C] (CLSE) or [levels, C] (SE) in (0, 1), where there is channel attention
    offsets_C5, …  [H_x, W_x, G, 9, 2] of C_x's G offset groups: dy, dx in cells, where there is aligned attention
    """

    pictures: ClassVar[tuple[str, ...]] = ("masks", "weights", "offsets")

    def look(self, detector: Detector, batch: Batch) -> Mapping[str, Tensor]:
        """Run the detector. InputError where it has no attention of HAR-Net's."""
        found = attention_maps(detector, detector.images(batch))
        if not found:
            raise InputError("the model has no attention to look at; choose a row that has")
        return found


def attention_maps(detector: Detector, images: Tensor) -> Mapping[str, Tensor]:
    """The arrays that `AttentionMaps` describes, for normalised images [1, 3, H, W]; none without attention."""
    modules = [each for path, module in detector.named_modules() for each in _watched(path, module)]
    with watching(modules) as found:
        if modules:
            detector(images)
    return found


def _watched(path: str, module: nn.Module) -> list[tuple[nn.Module, Told]]:
    """The module whose output tells, and what it tells."""
    parts = path.split(".")
    if isinstance(module, SpatialGates):
        return [(module, lambda _, masks: {f"mask_{n}": m[0, 0] for n, m in zip(module.names, masks, strict=True)})]
    if isinstance(module, CrossLevelGates):
        return [(module, lambda _, gates: {f"weights_{_task(parts)}": gates[0][0, :, 0, 0]})]
    if isinstance(module, LevelGates):
        return [(module, lambda _, gates: {f"weights_{_task(parts)}": torch.cat(gates)[:, :, 0, 0]})]
    if isinstance(module, AlignedAttention):
        return [(module.offsets, lambda _, offsets: {f"offsets_{parts[-1]}": _by_group(offsets[0])})]
    return []


def _task(parts: list[str]) -> str:
    """cls of head.cls_attention.channel."""
    return parts[-2].removesuffix("_attention")


def _by_group(offsets: Tensor) -> Tensor:
    """[2 · 9 · G, H, W], as deformable convolution takes them, to [H, W, G, 9, 2]."""
    return offsets.reshape(-1, 9, 2, *offsets.shape[1:]).permute(3, 4, 0, 1, 2)
