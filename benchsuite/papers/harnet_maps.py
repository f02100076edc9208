"""What a trained HAR-Net pays attention to in one image: its masks, channel weights and offsets, as arrays."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchsuite.data.batches import EvalBatches
from benchsuite.engine.job import Context
from benchsuite.errors import InputError
from benchsuite.loops import checkpoint
from benchsuite.models.cross_level import CrossLevelGates, LevelGates
from benchsuite.models.dense import DenseDetector
from benchsuite.models.detector import Detector
from benchsuite.papers.harnet import AlignedAttention, SpatialGates
from benchsuite.pipelines.probe import Probe


class AttentionMaps(Probe):
    """Runs a trained detector on image `image` of a split. Leaves `arrays.safetensors`:

    image       uint8 [H, W, 3] as the detector saw it, without padding
    mask_P3, …  [H_l, W_l] in (0, 1), where there is spatial attention; a cell of P_l is 2^l pixels
    weights_cls, weights_box  [C] (CLSE) or [levels, C] (SE) in (0, 1), where there is channel attention
    offsets_C5, …  [H_x, W_x, G, 9, 2] of C_x's G offset groups: dy, dx in cells, where there is aligned attention
    """

    pictures: ClassVar[tuple[str, ...]] = ("masks", "weights", "offsets")

    @property
    def label(self) -> str:
        """For progress and plan."""
        return f"attention maps seed {self.train.seed}"

    def do(self, context: Context) -> None:
        """Load the weights, look at one image."""
        data = self.data.open()
        if self.image >= len(data):
            raise InputError(f"{data.name}: has no image {self.image}, only 0 to {len(data) - 1}; choose one of them")
        detector = self.train.trained(len(data.classes), context.inputs["train"])
        batch = EvalBatches(data, self.input, 1, None)[self.image]
        height, width = batch.sizes[0].tolist()
        if not isinstance(detector, DenseDetector):
            raise InputError(f"{type(detector).__name__}: has no attention of HAR-Net's to look at; choose another row")
        with torch.inference_mode():
            found = attention_maps(detector.eval(), detector.normalised(batch))
        if not found:
            raise InputError("the model has no attention to look at; choose a row that has")
        found["image"] = batch.images[0, :, :height, :width].permute(1, 2, 0)
        checkpoint.save(context.folder / "arrays.safetensors", found)


def attention_maps(detector: Detector, images: Tensor) -> dict[str, Tensor]:
    """The arrays that `AttentionMaps` describes, but the image, for normalised images [1, 3, H, W]."""
    found: dict[str, Tensor] = {}
    handles = [
        watched.register_forward_hook(_keep(found, names))
        for path, module in detector.named_modules()
        for watched, names in _watched(path, module)
    ]
    try:
        detector(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _watched(path: str, module: nn.Module) -> list[tuple[nn.Module, Callable[[Any], dict[str, Tensor]]]]:
    """The module whose output tells, and what it tells."""
    parts = path.split(".")
    if isinstance(module, SpatialGates):
        return [(module, lambda masks: {f"mask_{n}": m[0, 0] for n, m in zip(module.names, masks, strict=True)})]
    if isinstance(module, CrossLevelGates):
        return [(module, lambda gates: {f"weights_{_task(parts)}": gates[0][0, :, 0, 0]})]
    if isinstance(module, LevelGates):
        return [(module, lambda gates: {f"weights_{_task(parts)}": torch.cat(gates)[:, :, 0, 0]})]
    if isinstance(module, AlignedAttention):
        return [(module.offsets, lambda offsets: {f"offsets_{parts[-1]}": _by_group(offsets[0])})]
    return []


def _task(parts: list[str]) -> str:
    """cls of head.cls_attention.channel."""
    return parts[-2].removesuffix("_attention")


def _by_group(offsets: Tensor) -> Tensor:
    """[2 · 9 · G, H, W], as deformable convolution takes them, to [H, W, G, 9, 2]."""
    return offsets.reshape(-1, 9, 2, *offsets.shape[1:]).permute(3, 4, 0, 1, 2)


def _keep(found: dict[str, Tensor], names: Callable[[Any], dict[str, Tensor]]) -> Callable[..., None]:
    return lambda module, inputs, output: found.update(names(output))
