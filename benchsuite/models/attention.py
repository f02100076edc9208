"""Attention at the end of every residual branch of a backbone, before the addition: where it stands, and the modules
that CAT (arXiv 2212.06335) is compared with, from timm.

    ResNet        after the last norm of a block     16 (ResNet-50), 33 (ResNet-101)
    MobileNetV2   after the last norm of a block     17, whether it has an addition or not
    ShuffleNetV2  after the branch that is processed, before the concatenation    16
    EfficientNet  after the last norm of a block, timm's    16 (EfficientNet-Lite0)

choice: the paper says "the residual operation of each block"; of all places, these give its parameter counts.
"""

from abc import abstractmethod
from typing import ClassVar

import torch
from timm.layers.cbam import CbamModule
from timm.layers.eca import EcaModule
from timm.layers.squeeze_excite import SEModule
from timm.models import _efficientnet_blocks as efficientnet
from torch import nn
from torchvision.models import mobilenetv2, resnet, shufflenetv2

from benchsuite.errors import InputError
from benchsuite.models.detector import Edit, Features


class Attention(Edit):
    """A unit of its own for each residual branch."""

    @abstractmethod
    def unit(self, channels: int) -> nn.Module:
        """What maps [B, C, H, W] to the same shape, with C = `channels`."""

    def apply(self, features: Features) -> list[nn.Module]:
        """Put a unit behind the last layer of each branch, which keeps its name; InputError where there is none."""
        ends = [(block, *end) for block in features.modules() if (end := _end(block))]
        if not ends:
            raise InputError(
                f"backbone.edits: {type(features).__name__} has no place for {self.kind()}; "
                "choose a ResNet, MobileNetV2 or ShuffleNetV2 of torchvision's, or an EfficientNet of timm's, or drop "
                "the edit"
            )
        # The generator is put back, so that a seed gives what comes after the backbone the same weights as without.
        with torch.random.fork_rng(devices=()):
            units = [self.unit(channels) for _, _, channels in ends]
        for (block, name, _), unit in zip(ends, units, strict=True):
            setattr(block, name, nn.Sequential(getattr(block, name), unit))
        return units


def _end(block: nn.Module) -> tuple[str, int] | None:
    """The last layer of a block's residual branch and its channels."""
    if isinstance(block, resnet.BasicBlock):
        return "bn2", block.conv2.out_channels
    if isinstance(block, resnet.Bottleneck):
        return "bn3", block.conv3.out_channels
    if isinstance(block, mobilenetv2.InvertedResidual):
        return "conv", block.out_channels
    if isinstance(block, shufflenetv2.InvertedResidual):
        *_, last = [layer for layer in block.branch2.modules() if isinstance(layer, nn.BatchNorm2d)][:3]  # it has three
        return "branch2", last.num_features
    if isinstance(block, efficientnet.InvertedResidual):
        return "bn3", block.conv_pwl.out_channels
    if isinstance(block, efficientnet.DepthwiseSeparableConv):
        return "bn2", block.conv_pw.out_channels
    return None


def reduced(channels: int) -> int:
    """Hidden channels of a channel attention with reduction 16."""
    return max(1, channels // 16)


class Se(Attention):
    """Squeeze-and-excitation (Hu, Shen, Sun, CVPR 2018) with reduction 16.

    choice: no biases; the paper's parameter counts leave them out.
    """

    def unit(self, channels: int) -> nn.Module:
        """2 C ⌊C / 16⌋ parameters."""
        module: nn.Module = SEModule(channels, rd_channels=reduced(channels), bias=False)
        return module


class Cbam(Attention):
    """CBAM (Woo et al., ECCV 2018): channels, then positions; reduction 16, 7×7.

    It starts as its authors' code does: the weight of the norm before the spatial gate at 0, so that the gate is ½
    everywhere, and that norm's statistics move by a hundredth a step.

    choice: no biases in its MLP; the paper's parameter counts leave them out.
    """

    version: ClassVar[int] = 2

    def unit(self, channels: int) -> nn.Module:
        """2 C ⌊C / 16⌋ + 98 + 2 parameters."""
        module = CbamModule(channels, rd_channels=reduced(channels))
        norm = module.spatial.conv.bn
        nn.init.zeros_(norm.weight)
        norm.momentum = 0.01
        unit: nn.Module = module
        return unit


class Eca(Attention):
    """ECA (Wang et al., CVPR 2020): a convolution over neighbouring channels, its size the odd number that their rule
    gives: 3 below 128 channels, 5 below 2,048, then 7."""

    def unit(self, channels: int) -> nn.Module:
        """3, 5 or 7 parameters."""
        module: nn.Module = EcaModule(channels)
        return module
