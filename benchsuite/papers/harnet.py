"""HAR-Net: Li and Wang, "HAR-Net: Joint Learning of Hybrid Attention for Single-stage Object Detection", IEEE
Transactions on Image Processing 29, 2020, arXiv 1904.11141.

    sec. III-A, fig. 2, eq. 1   SpatialAttention, SpatialGates
    sec. IV-A                   the baseline: models/retinanet.py with the default anchors
    sec. IV-B, fig. 5           Head, HarHead

Shapes: B images, C channels, P_l a level of the pyramid [B, 256, H_l, W_l], F_t what task t (classes, boxes) has made
of it, M_l a mask [B, 1, H_l, W_l].
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from benchsuite.models import retinanet
from benchsuite.models.retinanet import RetinaNetHead, conv3x3
from benchsuite.settings import Settings


class SpatialAttention(Settings):
    """Stacked dilated convolutions, their rates `dilations`, all with `channels` channels but the last, which has one
    (sec. III-A). The paper's settings: 1-1-1, 1-2-5 and 5-2-1 with 32 channels, 1-2-5-2-1 with 16 (sec. V-A)."""

    dilations: Annotated[tuple[PositiveInt, ...], Field(min_length=2)]
    channels: PositiveInt
    # choice: N(0, 0.01²) as in RetinaNet's head. With 16 channels each such layer shrinks its input tenfold, so that
    # five of them learn very slowly; "he" keeps the hidden layers' size (He et al. 2015), for short schedules.
    init: Literal["normal", "he"] = "normal"

    def build(self, in_channels: int, strides: Sequence[int]) -> "SpatialGates":
        """Build a stack for each level of a pyramid with `in_channels` channels."""
        return SpatialGates(self, in_channels, strides)


class SpatialGates(nn.Module):
    """A mask for each level of the pyramid, from convolutions of its own.

    choice: the levels share no weights (so the authors' release; the text can be read either way).
    """

    def __init__(self, settings: SpatialAttention, in_channels: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.names = [f"P{int(math.log2(stride))}" for stride in strides]
        self.gates = nn.ModuleList(dilated_stack(settings, in_channels) for _ in strides)
        self.means: list[Tensor] = []

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """M_l, each in (0, 1), of the levels P_l."""
        masks = [gate(level) for gate, level in zip(self.gates, levels, strict=True)]
        self.means = [mask.detach().mean() for mask in masks]
        return masks

    def observe(self) -> dict[str, float]:
        """Mean of each level's mask over the last batch."""
        return {f"mask_{name}": mean.item() for name, mean in zip(self.names, self.means, strict=False)}


def dilated_stack(settings: SpatialAttention, in_channels: int) -> nn.Sequential:
    """σ(D_rn(ReLU(… ReLU(D_r1(P_l))))), fig. 2.

    choice: the last rate belongs to the layer that makes the mask, none comes after it (so the authors' release).
    """
    widths = [in_channels, *[settings.channels] * (len(settings.dilations) - 1), 1]
    layers: list[nn.Module] = []
    for (before, after), rate in zip(pairwise(widths), settings.dilations, strict=True):
        layers += [conv3x3(before, after, rate), nn.ReLU(inplace=True)]
    if settings.init == "he":
        for hidden in layers[:-2:2]:
            nn.init.kaiming_normal_(hidden.get_parameter("weight"), nonlinearity="relu")
    return nn.Sequential(*layers[:-1], nn.Sigmoid())


class Head(retinanet.Head):
    """RetinaNet's head with attention; without any it is RetinaNet's head."""

    spatial: SpatialAttention | None = None

    def build(self, in_channels: int, strides: Sequence[int], anchors: int, num_classes: int) -> "HarHead":
        """Build RetinaNet's towers and predictors, then what pays attention."""
        return HarHead(self, in_channels, strides, anchors, num_classes)


class HarHead(RetinaNetHead):
    """The towers of RetinaNet, in parallel with the branches that learn attention."""

    def __init__(
        self, settings: Head, in_channels: int, strides: Sequence[int], anchors: int, num_classes: int
    ) -> None:
        # attention comes after the towers, so that a seed gives the baseline's layers the same weights in every row
        super().__init__(settings, in_channels, anchors, num_classes)
        self.spatial = settings.spatial.build(in_channels, strides) if settings.spatial else None

    def towers(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """F_cls and F_box of every level, attended."""
        cls_levels, box_levels = super().towers(levels)
        if self.spatial is not None:  # eq. 1: F_t ← M_l ⊙ F_t, one mask for both tasks
            masks = self.spatial(levels)
            cls_levels = [mask * level for mask, level in zip(masks, cls_levels, strict=True)]
            box_levels = [mask * level for mask, level in zip(masks, box_levels, strict=True)]
        return cls_levels, box_levels
