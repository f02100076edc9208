"""SSD: Liu, Anguelov, Erhan, Szegedy, Reed, Fu and Berg, "SSD: Single Shot MultiBox Detector", ECCV 2016, arXiv
1512.02325.

    sec. 2.1            Extras, Head
    sec. 2.2            DefaultBoxes (default_boxes.py), OneToOne, Softmax with mining, SmoothL1; augmentation: data/
    sec. 3              the base network: vgg.py, with L2Norm
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import normalize
from typing_extensions import override

from benchsuite.errors import InputError
from benchsuite.models.anchors import Anchors
from benchsuite.models.boxes import BoxCoder
from benchsuite.models.default_boxes import DefaultBoxes, Ratios, Scales, Steps
from benchsuite.models.dense import Dense, DenseHead, by_anchor
from benchsuite.models.detector import Backbone
from benchsuite.models.fpn import Levels, Neck
from benchsuite.models.losses import BoxLoss, ClassLoss, SmoothL1, Softmax
from benchsuite.models.matcher import Assignment, OneToOne
from benchsuite.models.resnet import ResNet
from benchsuite.models.together import several
from benchsuite.settings import Settings


class Extra(Settings):
    """One coarser level: a 1×1 convolution to `squeeze` channels, then a 3×3 one to `channels`. Without `padding` it
    takes the border away: 3×3 cells become one."""

    squeeze: PositiveInt
    channels: PositiveInt
    stride: Literal[1, 2] = 2
    padding: Literal[0, 1] = 1


class Extras(Neck):
    """The backbone's maps, and coarser levels made of the last one, block by block (SSD, sec. 2.1). The defaults are
    those of SSD513 on a ResNet (Fu et al., DSSD, arXiv 1701.06659).

    norm  BatchNorm after every convolution, as on a ResNet; SSD on VGG-16 has none
    """

    blocks: Annotated[tuple[Extra, ...], Field(min_length=1)] = (
        Extra(squeeze=512, channels=1024),
        Extra(squeeze=256, channels=512),
        Extra(squeeze=128, channels=256),
        Extra(squeeze=128, channels=256, stride=1, padding=0),
    )
    norm: bool = True

    @override
    def build(self, channels: Sequence[int], strides: Sequence[int]) -> "ExtraLevels":
        return ExtraLevels(self, channels, strides)


class ExtraLevels(Levels):
    """The backbone's maps and what follows them."""

    def __init__(self, settings: Extras, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.settings = settings
        widths = [channels[-1], *(block.channels for block in settings.blocks)]
        self.blocks = nn.ModuleList(
            _block(width, block, settings.norm) for width, block in zip(widths, settings.blocks, strict=False)
        )
        self.channels = (*channels, *widths[1:])
        steps = [strides[-1]]
        for block in settings.blocks:
            steps.append(steps[-1] * block.stride)
        self.strides = (*strides, *steps[1:])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[B, C_l, H_l, W_l], fine to coarse. InputError where the input is too small for a level, or a batch of one
        image leaves a BatchNorm a single value."""
        levels = list(maps)
        for place, (block, layers) in enumerate(zip(self.settings.blocks, self.blocks, strict=True), len(maps) + 1):
            self._fits(levels[-1], block, place)
            levels.append(layers(levels[-1]))
        return levels

    def _fits(self, x: Tensor, block: Extra, place: int) -> None:
        shape = [(side + 2 * block.padding - 3) // block.stride + 1 for side in x.shape[-2:]]
        if min(shape) < 1:
            raise InputError(
                f"neck.blocks: no cell is left for level {place}, after a level of {x.shape[-2]}×{x.shape[-1]}; "
                "take a larger input, or fewer blocks and anchors"
            )
        if self.training and self.settings.norm and len(x) * shape[0] * shape[1] == 1 and not several():
            raise InputError(
                f"training: BatchNorm sees a single value at level {place}, 1×1 cells of one image; "
                "let solver.batch, or solver.micro_batch, be 2 or more"
            )


def _block(in_channels: int, block: Extra, norm: bool) -> nn.Sequential:
    """Convolution (with bias, Xavier's weights), BatchNorm and ReLU, twice."""
    squeeze = nn.Conv2d(in_channels, block.squeeze, kernel_size=1)
    grow = nn.Conv2d(block.squeeze, block.channels, kernel_size=3, stride=block.stride, padding=block.padding)
    layers: list[nn.Module] = []
    for convolution in (squeeze, grow):
        norms = [nn.BatchNorm2d(convolution.out_channels)] if norm else []
        layers += [_xavier(convolution), *norms, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _xavier(convolution: nn.Conv2d) -> nn.Conv2d:
    """choice: Caffe's SSD; ASSD's release leaves torch's weights."""
    nn.init.xavier_uniform_(convolution.weight)
    nn.init.zeros_(convolution.get_parameter("bias"))
    return convolution


class L2Norm(Neck):
    """The finest level of the neck `of` scaled to length `scale` at each cell, a factor for each channel being learnt
    (SSD, sec. 3.1; ParseNet, Liu et al. 2015): conv4_3 of VGG-16 has larger values than what comes after."""

    of: Neck
    scale: PositiveFloat = 20.0

    @override
    def build(self, channels: Sequence[int], strides: Sequence[int]) -> "Rescaled":
        return Rescaled(self, channels, strides)


class Rescaled(Levels):
    """The neck's levels, the first one normalised."""

    def __init__(self, settings: L2Norm, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.of = settings.of.build(channels, strides)
        self.channels, self.strides = self.of.channels, self.of.strides
        self.scale = nn.Parameter(torch.full((self.channels[0], 1, 1), settings.scale))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """As the neck gives them, but the first."""
        finest, *coarser = self.of(maps)
        return [normalize(finest) * self.scale, *coarser]


class Head(DenseHead):
    """Two 3×3 convolutions for each level, for classes and for boxes (SSD, sec. 2.1)."""

    @override
    def build(
        self, in_channels: Sequence[int], strides: Sequence[int], anchors: Sequence[int], outputs: int
    ) -> "SsdHead":
        return SsdHead(in_channels, anchors, outputs)


class SsdHead(nn.Module):
    """Predictors that no level shares."""

    def __init__(self, in_channels: Sequence[int], anchors: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.cls_logits, self.bbox_regression = (
            nn.ModuleList(
                _xavier(nn.Conv2d(width, count * size, kernel_size=3, padding=1))
                for width, count in zip(in_channels, anchors, strict=True)
            )
            for size in (outputs, 4)
        )

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """cls_logits [B, N, O] and bbox_regression [B, N, 4] of levels [B, C_l, H_l, W_l]."""
        logits = [by_anchor(layer(x), self.outputs) for layer, x in zip(self.cls_logits, levels, strict=True)]
        offsets = [by_anchor(layer(x), 4) for layer, x in zip(self.bbox_regression, levels, strict=True)]
        return torch.cat(logits, dim=1), torch.cat(offsets, dim=1)


class Boxes513(DefaultBoxes):
    """25,844 anchors: scales and steps of ASSD's release, which are those of SSD512 on COCO; a step is the input's side
    over the cells, rounded up."""

    scales: Scales = (0.04, 0.10, 0.26, 0.42, 0.58, 0.74, 0.90, 1.06)
    ratios: tuple[Ratios, ...] = ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,))
    steps: Steps | None = (8, 16, 31, 57, 103, 171, 513)


class SSD(Dense):
    """Defaults: SSD513 on ResNet-101."""

    backbone: Backbone = ResNet(depth=101)
    neck: Neck = Extras()
    head: DenseHead = Head()
    anchors: Anchors = Boxes513()
    coder: BoxCoder = BoxCoder(variances=(0.1, 0.1, 0.2, 0.2))
    # choice: IoU ½ itself is enough (so the PyTorch releases); Caffe wants more.
    assignment: Assignment = OneToOne(positive=0.5, negative=0.5)
    classification: ClassLoss = Softmax(mining=3)
    bbox_regression: BoxLoss = SmoothL1(beta=1)
