"""VGG backbones from torchvision, with SSD's convolutional fc6 and fc7 where they are asked for."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from benchsuite.models.detector import Features
from benchsuite.models.resnet import FromTorchvision

LEVELS = {"conv1": 1, "conv2": 2, "conv3": 4, "conv4": 8, "conv5": 16, "fc7": 16}
"""Strides of what a VGG can return; fc7 keeps conv5's."""

Level = Literal["conv1", "conv2", "conv3", "conv4", "conv5", "fc7"]


class Vgg(FromTorchvision):
    """VGG (Simonyan and Zisserman 2015); `levels` says which maps it returns: the last of a stage of convolutions,
    after its ReLU (conv4 is conv4_3 of VGG-16), or fc7.

    fc7    pool5 of 3×3 and stride 1, fc6 as a 3×3 convolution dilated by 6, fc7 as a 1×1 one, 1024 channels each (SSD,
           Liu et al. 2016, section 3). choice: both start from Xavier's weights (so torchvision), not from samples of
           the classifier's.
    norm   BatchNorm after every convolution of the stages, for training from scratch
    Pooling rounds sizes up (so Caffe): 75 cells become 38.
    """

    depth: Literal[11, 13, 16, 19] = 16
    norm: bool = False
    levels: Annotated[tuple[Level, ...], Field(min_length=1)] = ("conv4", "fc7")

    @field_validator("levels")
    @classmethod
    def _rising(cls, levels: tuple[str, ...]) -> tuple[str, ...]:
        order = list(LEVELS)
        if any(order.index(finer) >= order.index(coarser) for finer, coarser in pairwise(levels)):
            raise ValueError(f"levels {list(levels)} do not rise; write them from fine to coarse, as [conv4, fc7]")
        return levels

    @property
    def architecture(self) -> str:
        """vgg16, vgg16_bn and their like."""
        return f"vgg{self.depth}{'_bn' if self.norm else ''}"

    def build(self) -> "VggFeatures":
        """Build, load, edit, freeze; on the meta device nothing is loaded. MissingData where the weights are absent."""
        layers = make_layers(cfgs[{11: "A", 13: "B", 16: "D", 19: "E"}[self.depth]], batch_norm=self.norm)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.get_parameter("bias"))
        self.load(nn.ModuleDict({"features": layers}))
        features = VggFeatures(layers, self.levels)
        source = self.source()
        if source is not None:
            usual = source.transforms()  # weights ported from Caffe want values that are not divided by a deviation
            features.mean, features.std = tuple(usual.mean), tuple(usual.std)
        self.edit_and_freeze(features, list(features.stages.values())[:5])
        return features


class VggFeatures(Features):
    """The convolutions of a torchvision VGG, up to the last level asked for."""

    mean = (0.485, 0.456, 0.406)  # of ImageNet
    std = (0.229, 0.224, 0.225)

    def __init__(self, layers: nn.Sequential, levels: Sequence[str]) -> None:
        super().__init__()
        names = list(LEVELS)[: list(LEVELS).index(levels[-1]) + 1]
        parts = split_at_pools(layers)
        if "fc7" in names:
            parts.append(fully_connected(_channels(parts[-1])))
        stages = dict(zip(names, parts, strict=False))
        self.stages = nn.ModuleDict(stages)
        self.levels = tuple(levels)
        self.channels = tuple(_channels(stages[level]) for level in levels)
        self.strides = tuple(LEVELS[level] for level in levels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """A map for each of `levels`, [B, C, H / stride, W / stride] (rounded up)."""
        maps, x = [], images
        for name, stage in self.stages.items():
            x = stage(x)
            if name in self.levels:
                maps.append(x)
        return maps


def split_at_pools(layers: nn.Sequential) -> list[nn.Sequential]:
    """The five stages; each but the first begins with the pool before it, and the last pool is left out."""
    stages: list[list[nn.Module]] = [[]]
    for layer in layers:
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
            stages.append([])
        stages[-1].append(layer)
    return [nn.Sequential(*stage) for stage in stages[:5]]


def fully_connected(channels: int, width: int = 1024) -> nn.Sequential:
    """pool5, fc6, fc7 as convolutions that keep the map's size."""
    fc6 = nn.Conv2d(channels, width, kernel_size=3, padding=6, dilation=6)
    fc7 = nn.Conv2d(width, width, kernel_size=1)
    for layer in (fc6, fc7):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.get_parameter("bias"))
    pool = nn.MaxPool2d(kernel_size=3, stride=1, padding=1)
    return nn.Sequential(pool, fc6, nn.ReLU(inplace=True), fc7, nn.ReLU(inplace=True))


def _channels(stage: nn.Module) -> int:
    return [layer.out_channels for layer in stage.modules() if isinstance(layer, nn.Conv2d)][-1]
