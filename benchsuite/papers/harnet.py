"""HAR-Net: Li and Wang, "HAR-Net: Joint Learning of Hybrid Attention for Single-stage Object Detection", IEEE
Transactions on Image Processing 29, 2020, arXiv 1904.11141.

    sec. III-A, fig. 2, eq. 1   SpatialAttention, SpatialGates
    sec. III-B, fig. 3, eq. 2   CLGN, SE, CLSE; their layers: models/cross_level.py
    sec. III-C, fig. 4          AlignedNeck, AlignedAttention
    sec. III-D, IV-B, fig. 5    Head, HarHead: the order of all three
    sec. III-D, IV-B            incremental training: harnet_training.py
    sec. IV-A                   the baseline: models/retinanet.py with the default anchors
    sec. IV-B, fig. 6           multi-scale testing: harnet_testing.py

Shapes: B images, C channels, C_x a map of the backbone, P_l a level of the pyramid [B, 256, H_l, W_l], F_t what task t
(classes, boxes) has made of it, M_l a mask [B, 1, H_l, W_l], w_t a weight for each channel [B, 256, 1, 1].
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise, zip_longest
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from benchsuite.errors import InputError
from benchsuite.models import retinanet
from benchsuite.models.cross_level import CrossLevelGates, CrossLevelGroupNorm, LevelGates
from benchsuite.models.fpn import Fpn, Levels, Neck
from benchsuite.models.retinanet import RetinaNetHead, conv3x3, predictions, predictors
from benchsuite.settings import Part, Settings, Switch


class SpatialAttention(Settings):
    """Stacked dilated convolutions, their rates `dilations`, all with `channels` channels but the last, which has one
    (sec. III-A). The paper's settings: 1-1-1, 1-2-5 and 5-2-1 with 32 channels, 1-2-5-2-1 with 16 (sec. V-A)."""

    dilations: Annotated[tuple[PositiveInt, ...], Field(min_length=2)]
    channels: PositiveInt
    # choice: N(0, 0.01²) as in RetinaNet's head. With 16 channels each such layer shrinks its input tenfold, so that
    # five of them learn very slowly; "he" keeps the hidden layers' size (He et al. 2015), for short schedules.
    init: Literal["normal", "he"] = "normal"
    # choice: the levels share no weights (so the authors' release; the text can be read either way).
    shared: Switch = None
    # choice: no norm; some nets of the release have a parameter-free group norm before each ReLU, of 4 groups.
    norm_groups: PositiveInt | None = None

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        _divides("norm_groups", self.norm_groups or 1, self.channels)
        return self

    def build(self, in_channels: int, strides: Sequence[int]) -> "SpatialGates":
        """Build a stack for each level of a pyramid with `in_channels` channels."""
        return SpatialGates(self, in_channels, strides)


class SpatialGates(nn.Module):
    """A mask for each level of the pyramid."""

    def __init__(self, settings: SpatialAttention, in_channels: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.names = [f"P{int(math.log2(stride))}" for stride in strides]
        stacks = 1 if settings.shared else len(strides)
        self.gates = nn.ModuleList(dilated_stack(settings, in_channels) for _ in range(stacks))
        self.means: list[Tensor] = []

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """M_l, each in (0, 1), of the levels P_l."""
        gates = [*self.gates] * (len(levels) // len(self.gates))
        masks = [gate(level) for gate, level in zip(gates, levels, strict=True)]
        self.means = [mask.detach().mean() for mask in masks]
        return masks

    def observe(self) -> dict[str, Tensor]:
        """Mean of each level's mask over the last batch."""
        return {f"mask_{name}": mean for name, mean in zip(self.names, self.means, strict=False)}


def dilated_stack(settings: SpatialAttention, in_channels: int) -> nn.Sequential:
    """σ(D_rn(ReLU(… ReLU(D_r1(P_l))))), fig. 2.

    choice: the last rate belongs to the layer that makes the mask, none comes after it (so the authors' release).
    """
    widths = [in_channels, *[settings.channels] * (len(settings.dilations) - 1), 1]
    *hidden, last = (conv3x3(*pair, rate) for pair, rate in zip(pairwise(widths), settings.dilations, strict=True))
    layers: list[nn.Module] = []
    for layer in hidden:
        if settings.init == "he":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        norm = [nn.GroupNorm(settings.norm_groups, layer.out_channels, affine=False)] if settings.norm_groups else []
        layers += [layer, *norm, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, last, nn.Sigmoid())


class CLGN(Settings):
    """Cross-level group normalisation with attached feature scaling (sec. III-B): statistics of `groups` groups of
    channels are taken over all levels, the scales are shared by them."""

    groups: PositiveInt = 32
    # choice: mean and variance (so the authors' release); "L2" may also mean the root mean square alone.
    l2: bool = False
    # choice: 1; the release starts the last one of HA's towers at 0.1.
    last_gamma: float = 1.0

    def build(self, channels: int, gamma: float) -> CrossLevelGroupNorm:
        """Build it for one convolution of one task's tower, its scales starting at `gamma`."""
        return CrossLevelGroupNorm(channels, self.groups, gamma, centred=not self.l2)


class ChannelAttention(Part):
    """Slot: what weighs the channels of the last layer before the predictors, for each task apart (sec. III-B)."""

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.papers",)

    @abstractmethod
    def build(self, channels: int, levels: int) -> nn.Module:
        """What maps the levels [B, C, H_l, W_l] to a list of weights [B, C, 1, 1] in (0, 1), one a level."""


class SE(ChannelAttention):
    """A squeeze-and-excitation block for each level (SE-CA); pooling and reduction as in Hu et al. 2018."""

    reduction: PositiveInt = 16
    pool: Literal["avg", "max"] = "avg"

    def build(self, channels: int, levels: int) -> "LevelGates":
        """Build one block a level."""
        return LevelGates(levels, channels, max(1, channels // self.reduction), self.pool)


class CLSE(ChannelAttention):
    """Squeeze and excitation over all levels: their pooled features are concatenated, the weights serve them all.

    choice: 32 hidden units, which the paper does not state (so the authors' release).
    """

    hidden: PositiveInt = 32
    # choice: "global max-pooling", as the text says; every net of the release takes the average.
    pool: Literal["max", "avg"] = "max"

    def build(self, channels: int, levels: int) -> "CrossLevelGates":
        """Build one block for all levels."""
        return CrossLevelGates(levels, channels, self.hidden, self.pool)


class AlignedNeck(Neck):
    """Aligned attention on the backbone's maps C_x, x in `align`, before the neck `of` (sec. III-C, IV-B).

    choice: width, groups, offset groups, `gamma` (where the last norm's scale starts; 0 would never train) and
    `offset_lr` (a factor of the learning rate of the offsets) as in the authors' release; the paper gives none.
    """

    align: Annotated[tuple[Literal[2, 3, 4, 5], ...], Field(min_length=1)]
    of: Neck = Fpn()
    channels: PositiveInt = 256
    groups: PositiveInt = 32
    offset_groups: PositiveInt = 4
    gamma: PositiveFloat = 0.1
    offset_lr: PositiveFloat = 0.1

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        _divides("groups", self.groups, self.channels)
        _divides("offset_groups", self.offset_groups, self.channels)
        return self

    def build(self, channels: Sequence[int], strides: Sequence[int]) -> "AlignedLevels":
        """Build it. InputError for a map that the backbone does not give."""
        return AlignedLevels(self, channels, strides)


class AlignedLevels(Levels):
    """C_x to C'_x, then the neck."""

    def __init__(self, settings: AlignedNeck, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.of = settings.of.build(channels, strides)
        self.channels, self.strides = self.of.channels, self.of.strides
        widths = {f"C{int(math.log2(stride))}": width for stride, width in zip(strides, channels, strict=True)}
        absent = sorted({f"C{level}" for level in settings.align} - widths.keys())
        if absent:
            raise InputError(f"neck.align: the backbone gives {', '.join(widths)} and no {absent[0]}; leave it out")
        aligned = [name for name in widths if int(name[1:]) in settings.align]
        # The generator is put back, so that a seed gives what comes after the neck the same weights as without it.
        with torch.random.fork_rng(devices=()):
            self.units = nn.ModuleDict({name: AlignedAttention(settings, widths[name]) for name in aligned})
        self.names = tuple(widths)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The neck's levels of the aligned maps."""
        named = zip(self.names, maps, strict=True)
        levels: list[Tensor] = self.of([self.units[name](x) if name in self.units else x for name, x in named])
        return levels


class AlignedAttention(nn.Module):
    """C' = C + ReLU(GN(1×1(h₂))), h₂ = ReLU(GN(DCN(h₁))), h₁ = ReLU(GN(1×1(C))), fig. 4; the deformable convolution
    (Dai et al. 2017) takes its offsets, which start at 0, from h₁."""

    def __init__(self, settings: AlignedNeck, channels: int) -> None:
        super().__init__()
        _divides("neck.groups", settings.groups, channels, InputError)
        width, groups = settings.channels, settings.groups
        self.reduce = nn.Conv2d(channels, width, 1, bias=False)
        self.reduce_norm = nn.GroupNorm(groups, width)
        self.offsets = SlowConv2d(settings.offset_lr, width, 2 * 9 * settings.offset_groups)
        self.deform = DeformConv2d(width, width, 3, padding=1, bias=False)
        self.deform_norm = nn.GroupNorm(groups, width)
        self.expand = nn.Conv2d(width, channels, 1, bias=False)
        self.expand_norm = nn.GroupNorm(groups, channels)
        for conv in (self.reduce, self.deform, self.expand):
            nn.init.normal_(conv.weight, std=0.01)
        nn.init.constant_(self.expand_norm.weight, settings.gamma)
        self.shift: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """C' [B, C, H, W] of C."""
        hidden = self.reduce_norm(self.reduce(x)).relu()
        offsets = self.offsets(hidden)
        self.shift = offsets.detach().abs().mean()
        # There is no such kernel in bfloat16; autocast does not know the meta device, on which costs are counted.
        with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
            deformed = self.deform(hidden.float(), offsets.float())
        aligned = self.deform_norm(deformed).relu()
        residual: Tensor = self.expand_norm(self.expand(aligned)).relu()
        return x + residual

    def observe(self) -> dict[str, Tensor]:
        """Mean size of the offsets over the last batch, in cells."""
        return {} if self.shift is None else {"offset": self.shift}


class SlowConv2d(nn.Conv2d):
    """A 3×3 convolution that starts at 0 and learns at `lr_factor` times the learning rate (see `train.factors`)."""

    def __init__(self, lr_factor: float, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)
        self.lr_factor = lr_factor
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.get_parameter("bias"))


class Head(retinanet.Head):
    """RetinaNet's head with attention, in the order below; without any it is RetinaNet's head (sec. III-D, IV-B).

    clgn        after the towers' convolutions. choice: not after the one whose output `channel` weighs, which is the
                tower's last where there is no extra one ("middle convolutional layers"; so the authors' release)
    spatial     in parallel with the towers, one mask for both tasks
    extra_conv  a 3×3 convolution with ReLU for each task: "the nonlinear mapping between channel and spatial attention"
    channel     the channels' weights
    dual_predictors  a second pair of predictors that sees what spatial attention gives; losses and predictions are the
                mean of both pairs'. choice: off, the paper knows one pair; the authors' release has two in HA
    """

    clgn: CLGN | None = None
    spatial: SpatialAttention | None = None
    extra_conv: Switch = None
    channel: ChannelAttention | None = None
    dual_predictors: Switch = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _divides("clgn.groups", self.clgn.groups if self.clgn else 1, self.channels)
        if self.dual_predictors and not (self.extra_conv or self.channel):
            raise ValueError(
                "dual_predictors would see the same twice; add extra_conv or channel attention, or drop it"
            )
        return self

    @property
    def main(self) -> "Head":
        """The head that incremental training begins with: no spatial and no channel attention (sec. III-D)."""
        return Head(channels=self.channels, depth=self.depth, prior=self.prior)

    def build(
        self, in_channels: Sequence[int], strides: Sequence[int], anchors: Sequence[int], outputs: int
    ) -> "HarHead":
        """Build RetinaNet's towers and predictors, then what pays attention. InputError as RetinaNet's."""
        return HarHead(self, in_channels, strides, anchors, outputs)


class HarHead(RetinaNetHead):
    """The towers of RetinaNet and what pays attention to their features."""

    def __init__(
        self, settings: Head, in_channels: Sequence[int], strides: Sequence[int], anchors: Sequence[int], outputs: int
    ) -> None:
        # attention comes after the towers, so that a seed gives the baseline's layers the same weights in every row
        super().__init__(settings, in_channels, anchors, outputs)
        self.spatial = settings.spatial.build(in_channels[0], strides) if settings.spatial else None
        self.cls_attention = TaskAttention(settings, len(strides))
        self.box_attention = TaskAttention(settings, len(strides))
        self.early = nn.ModuleList(predictors(settings, anchors, outputs) if settings.dual_predictors else ())

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """cls_logits and bbox_regression; see `DenseHead` for two pairs of predictors."""
        if not self.early:
            return super().forward(levels)
        attended, (cls_logits, bbox_regression) = self.attended(levels), self.early
        early = predictions(*attended, cls_logits, bbox_regression, self.outputs)
        late = predictions(*self.refined(*attended), self.cls_logits, self.bbox_regression, self.outputs)
        if self.training:
            return torch.cat((early[0], late[0])), torch.cat((early[1], late[1]))
        return (early[0] + late[0]) / 2, (early[1] + late[1]) / 2

    def towers(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """F_cls and F_box of every level, with all attention."""
        return self.refined(*self.attended(levels))

    def attended(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """F_cls and F_box after CLGN and spatial attention."""
        cls_levels = self.cls_attention.features(self.cls_tower, levels)
        box_levels = self.box_attention.features(self.box_tower, levels)
        if self.spatial is not None:  # eq. 1: F_t ← M_l ⊙ F_t, one mask for both tasks
            masks = self.spatial(levels)
            cls_levels, box_levels = weighed(masks, cls_levels), weighed(masks, box_levels)
        return cls_levels, box_levels

    def refined(self, cls_levels: list[Tensor], box_levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Each task's extra convolution, then its channel attention."""
        return self.cls_attention.refined(cls_levels), self.box_attention.refined(box_levels)


class TaskAttention(nn.Module):
    """What one task has for itself beside its tower; every layer is shared by the levels, but for SE's blocks."""

    def __init__(self, settings: Head, levels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList()
        if settings.clgn:
            gated_tower = settings.channel is not None and not settings.extra_conv
            count = settings.depth - gated_tower
            gammas = [1.0 if place < count else settings.clgn.last_gamma for place in range(1, count + 1)]
            self.norms.extend(settings.clgn.build(settings.channels, gamma) for gamma in gammas)
        self.extra_conv = conv3x3(settings.channels, settings.channels) if settings.extra_conv else None
        self.channel = settings.channel.build(settings.channels, levels) if settings.channel else None

    def features(self, tower: nn.Sequential, levels: list[Tensor]) -> list[Tensor]:
        """The tower's features F_t of each level, with CLGN between convolution and ReLU."""
        if not self.norms:
            return [tower(level) for level in levels]
        convolutions = [layer for layer in tower if isinstance(layer, nn.Conv2d)]
        for convolution, norm in zip_longest(convolutions, self.norms):
            levels = [convolution(level) for level in levels]
            levels = [level.relu() for level in (levels if norm is None else norm(levels))]
        return levels

    def refined(self, levels: list[Tensor]) -> list[Tensor]:
        """ReLU of the extra convolution; eq. 2: F_t ← w_t ⊙ F_t."""
        if self.extra_conv is not None:
            levels = [self.extra_conv(level).relu() for level in levels]
        return levels if self.channel is None else weighed(self.channel(levels), levels)


def weighed(weights: list[Tensor], levels: list[Tensor]) -> list[Tensor]:
    """Each level times its weights, [B, 1, H, W] or [B, C, 1, 1]."""
    return [weight * level for weight, level in zip(weights, levels, strict=True)]


def _divides(name: str, groups: int, channels: int, error: type[Exception] = ValueError) -> None:
    if channels % groups:
        raise error(f"{name} {groups} does not divide {channels} channels; choose a divisor")
