"""Networks for 32×32 images, made of torchvision's blocks: what CAT's Table 3 (arXiv 2212.06335) is measured on.

The paper names ResNet, MobileNetV2 and ShuffleNetV2 and not how they were fitted to CIFAR. These are the forms of which
its parameter counts and MACs come out.

Where the residual branch ends, for edits that put something there; isinstance finds the blocks:
    ResNet        `torchvision.models.resnet.Bottleneck`, `BasicBlock`: `bn3`, `bn2`         16 (R50), 33 (R101)
    MobileNetV2   `torchvision.models.mobilenetv2.InvertedResidual`: the last of `conv`       17, residual or not
    ShuffleNetV2  `torchvision.models.shufflenetv2.InvertedResidual`: the last of `branch2`   16, before the concat

choice: blocks start with torchvision's random weights, what is put in their place here with PyTorch's, biases with 0.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torchvision
from pydantic import Field
from torch import Tensor, nn
from torchvision.models import get_model_builder, mobilenetv2, shufflenetv2
from torchvision.ops import Conv2dNormActivation

from benchsuite.models.detector import Backbone, Edit, Features

Deviation = Annotated[float, Field(gt=0)]


class CifarNet(Backbone):
    """What the networks below share: they train from scratch and return one map.

    mean, std  of the training images in 0..1, RGB; by default those of CIFAR-100
    edits      changes of the network, in this order
    """

    mean: tuple[float, float, float] = (0.5071, 0.4865, 0.4409)
    std: tuple[Deviation, Deviation, Deviation] = (0.2673, 0.2564, 0.2762)
    edits: tuple[Edit, ...] | None = None

    @abstractmethod
    def build(self) -> "CifarFeatures":
        """Build and edit."""

    def edited(self, features: "CifarFeatures") -> "CifarFeatures":
        """The features with the statistics and the edits of these settings."""
        features.mean, features.std = self.mean, self.std
        for edit in self.edits or ():
            edit.apply(features)
        return features


class CifarFeatures(Features):
    """Stages in a row. `pool` is the network's own average over H and W, [B, C, H, W] to [B, C, 1, 1]."""

    def __init__(self, stages: Sequence[nn.Module], channels: int, stride: int, pool: nn.Module) -> None:
        super().__init__()
        self.stages = nn.Sequential(*stages)
        self.channels, self.strides = (channels,), (stride,)
        self.pool = pool

    def forward(self, images: Tensor) -> list[Tensor]:
        """The last map alone, [B, C, H / stride, W / stride]."""
        return [self.stages(images)]


class ResNet(CifarNet):
    """ResNet (He et al. 2016) whose stem is one 3×3 convolution of stride 1, without pooling."""

    depth: Literal[18, 34, 50, 101] = 50

    def build(self) -> CifarFeatures:
        """Stem and four stages, stride 8."""
        network: torchvision.models.ResNet = get_model_builder(f"resnet{self.depth}")()
        stem = Conv2dNormActivation(3, 64, kernel_size=3)
        stages = [stem, network.layer1, network.layer2, network.layer3, network.layer4]
        return self.edited(CifarFeatures(stages, network.fc.in_features, 8, network.avgpool))


class MobileNetV2(CifarNet):
    """MobileNetV2 (Sandler et al. 2018) with a 1×1 stem of stride 1 and three strides of 2 instead of five, and biases
    in all convolutions; the first block expands too, by a factor of 1."""

    def build(self) -> CifarFeatures:
        """Stem, 17 blocks and the last convolution, stride 8."""
        expansion_channels_blocks_stride = [
            [1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 1], [6, 320, 1, 1],
        ]  # fmt: skip
        network = mobilenetv2.MobileNetV2(
            inverted_residual_setting=expansion_channels_blocks_stride, block=ExpandingBlock
        )
        # The padding makes a frame of zeros, so that 32×32 becomes 34×34.
        network.features[0][0] = nn.Conv2d(3, 32, 1, padding=1)
        add_biases(network)
        return self.edited(CifarFeatures(list(network.features), network.last_channel, 8, Mean()))


class ExpandingBlock(mobilenetv2.InvertedResidual):  # type: ignore[misc]  # torchvision is untyped
    """MobileNetV2's block, which torchvision builds without its expansion where that multiplies by 1."""

    def __init__(
        self, inp: int, oup: int, stride: int, expand_ratio: int, norm_layer: type[nn.Module] | None = None
    ) -> None:
        super().__init__(inp, oup, stride, expand_ratio, norm_layer)
        if expand_ratio == 1:
            self.conv.insert(0, Conv2dNormActivation(inp, inp, kernel_size=1, activation_layer=nn.ReLU6))


class ShuffleNetV2(CifarNet):
    """ShuffleNetV2 ×1.0 (Ma et al. 2018) whose stem is one 3×3 convolution of stride 1 with a norm, without ReLU and
    pooling, and biases in all convolutions; units of stride 2 narrow to their output in the last convolution only."""

    def build(self) -> CifarFeatures:
        """Stem, 16 units and the last convolution, stride 8."""
        network = shufflenetv2.ShuffleNetV2([4, 8, 4], [24, 116, 232, 464, 1024], inverted_residual=WideUnit)
        stem = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24))
        add_biases(network)
        stages = [stem, network.stage2, network.stage3, network.stage4, network.conv5]
        return self.edited(CifarFeatures(stages, network.fc.in_features, 8, Mean()))


class WideUnit(shufflenetv2.InvertedResidual):  # type: ignore[misc]  # torchvision is untyped
    """ShuffleNetV2's unit; that of stride 2 is as wide as its input up to the last convolution of `branch2`."""

    def __init__(self, inp: int, oup: int, stride: int) -> None:
        super().__init__(inp, oup, stride)
        if stride > 1:
            self.branch2 = nn.Sequential(
                nn.Conv2d(inp, inp, 1),
                nn.BatchNorm2d(inp),
                nn.ReLU(inplace=True),
                self.depthwise_conv(inp, inp, 3, stride, padding=1),
                nn.BatchNorm2d(inp),
                nn.Conv2d(inp, oup // 2, 1),
                nn.BatchNorm2d(oup // 2),
                nn.ReLU(inplace=True),
            )


class Mean(nn.Module):
    """The average over H and W written as a function. How the paper counted MACs sees modules only, and among them no
    pooling in MobileNetV2 and ShuffleNetV2; `cost.ptflops_macs` does not see this one either."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, 1, 1]."""
        return x.flatten(2).mean(2)[:, :, None, None]


def add_biases(network: nn.Module) -> None:
    """Give every convolution of `network` that has none a bias of 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.bias is None:
            module.bias = nn.Parameter(torch.zeros(module.out_channels, device=module.weight.device))
