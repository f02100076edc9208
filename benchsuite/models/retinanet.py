"""RetinaNet: Lin, Goyal, Girshick, He, Dollár, "Focal Loss for Dense Object Detection", ICCV 2017, arXiv 1708.02002.

    sec. 4 "Anchors"          PyramidAnchors, Matcher
    sec. 4 "… Subnet"         Head
    sec. 3.2, eq. 5           FocalLoss
    sec. 4.1                  Head (initialisation); DenseDetector (inference)

Shapes: B images, N anchors of all levels together, A anchors in a cell, O outputs an anchor: a logit for each class.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from benchsuite.models.anchors import Anchors, PyramidAnchors
from benchsuite.models.dense import Dense, DenseHead, by_anchor
from benchsuite.models.detector import Backbone
from benchsuite.models.fpn import Fpn, Neck, alike
from benchsuite.models.losses import BoxLoss, ClassLoss, FocalLoss, SmoothL1
from benchsuite.models.matcher import Assignment, Matcher
from benchsuite.models.resnet import ResNet


class Head(DenseHead):
    """Two towers of `depth` 3×3 convolutions with ReLU, for classes and for boxes, shared by all levels.

    `prior` is the probability that every anchor starts with for every class.
    """

    channels: PositiveInt = 256
    depth: PositiveInt = 4
    prior: Annotated[float, Field(gt=0, lt=1)] = 0.01

    def build(
        self, in_channels: Sequence[int], strides: Sequence[int], anchors: Sequence[int], outputs: int
    ) -> "RetinaNetHead":
        """Build it. InputError for levels of unlike channels or anchors: the same layers serve them all."""
        return RetinaNetHead(self, in_channels, anchors, outputs)


class RetinaNetHead(nn.Module):
    """Towers and predictors; a paper's head changes `towers`."""

    def __init__(self, settings: Head, in_channels: Sequence[int], anchors: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        channels = alike("the head's towers", in_channels)
        self.cls_tower = tower(channels, settings.channels, settings.depth)
        self.box_tower = tower(channels, settings.channels, settings.depth)
        self.cls_logits, self.bbox_regression = predictors(settings, anchors, outputs)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """cls_logits [B, N, O] and bbox_regression [B, N, 4] of maps [B, C, H_l, W_l]."""
        return predictions(*self.towers(levels), self.cls_logits, self.bbox_regression, self.outputs)

    def towers(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """What the class and the box predictor see of each level."""
        return [self.cls_tower(level) for level in levels], [self.box_tower(level) for level in levels]


def conv3x3(in_channels: int, out_channels: int, dilation: int = 1, bias: float = 0.0) -> nn.Conv2d:
    """A 3×3 convolution that keeps the map's size, weights from N(0, 0.01²) (RetinaNet, sec. 4.1)."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=dilation, dilation=dilation)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.constant_(conv.get_parameter("bias"), bias)
    return conv


def tower(in_channels: int, channels: int, depth: int) -> nn.Sequential:
    """`depth` times 3×3 convolution and ReLU."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [conv3x3(in_channels, channels), nn.ReLU(inplace=True)]
        in_channels = channels
    return nn.Sequential(*layers)


def predictors(settings: Head, anchors: Sequence[int], outputs: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The convolutions that predict classes and boxes."""
    bias = -math.log((1 - settings.prior) / settings.prior)
    per_cell = alike("the head's predictors", anchors)
    cls_logits = conv3x3(settings.channels, per_cell * outputs, bias=bias)
    return cls_logits, conv3x3(settings.channels, per_cell * 4)


def predictions(
    cls_levels: list[Tensor], box_levels: list[Tensor], cls_logits: nn.Module, bbox_regression: nn.Module, outputs: int
) -> tuple[Tensor, Tensor]:
    """What a pair of predictors makes of all levels: [B, N, O] and [B, N, 4]."""
    logits = [by_anchor(cls_logits(level), outputs) for level in cls_levels]
    offsets = [by_anchor(bbox_regression(level), 4) for level in box_levels]
    return torch.cat(logits, dim=1), torch.cat(offsets, dim=1)


class RetinaNet(Dense):
    """Defaults: HAR-Net's baseline, RetinaNet-R50 with its own anchors."""

    backbone: Backbone = ResNet()
    neck: Neck = Fpn()
    head: DenseHead = Head()
    anchors: Anchors = PyramidAnchors()
    assignment: Assignment = Matcher()
    classification: ClassLoss = FocalLoss()
    bbox_regression: BoxLoss = SmoothL1()
