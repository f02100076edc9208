"""A norm between a backbone and what comes after it."""

from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import override

from benchsuite.models.fpn import Levels, Neck


class Normed(Neck):
    """BatchNorm on each of the backbone's maps, then the neck `of`. For backbones whose maps are sums of linear
    outputs, such as MobileNets and EfficientNets: their values are several times those of a ResNet's maps, for which
    SSD's and its kin's heads are initialised."""

    of: Neck

    @override
    def build(self, channels: Sequence[int], strides: Sequence[int]) -> "NormedLevels":
        return NormedLevels(self, channels, strides)


class NormedLevels(Levels):
    """The neck's levels, made of normalised maps."""

    def __init__(self, settings: Normed, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in channels)
        self.of = settings.of.build(channels, strides)
        self.channels, self.strides = self.of.channels, self.of.strides

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[B, C_l, H_l, W_l], fine to coarse."""
        levels: list[Tensor] = self.of([norm(x) for norm, x in zip(self.norms, maps, strict=True)])
        return levels
