"""Feature pyramids (Lin et al. 2017) with the coarse levels of RetinaNet or of Faster R-CNN."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from pydantic import PositiveInt
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from benchsuite.errors import InputError
from benchsuite.settings import Part


class Neck(Part):
    """Slot: settings of what stands between backbone and head. What it builds maps a list of maps to a list of maps."""

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.models", "benchsuite.papers")

    @abstractmethod
    def build(self, channels: Sequence[int], strides: Sequence[int]) -> "Levels":
        """Build it for the backbone's maps with these channels and strides, from fine to coarse."""


class Levels(nn.Module):
    """A neck at work: its levels have `channels` and `strides`, one number a level, from fine to coarse."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]


def alike(what: str, counts: Sequence[int]) -> int:
    """The number that all levels share; InputError where they differ, `what` being shared by them."""
    if len(set(counts)) != 1:
        raise InputError(f"model: {what} serve all levels, which have {list(counts)}; choose a neck, anchors or a head "
                         "that fit each other")  # fmt: skip
    return counts[0]


class Fpn(Neck):
    """P3–P7 from C3–C5: 1×1 laterals, nearest 2× top-down, a 3×3 on each; P6 = 3×3 stride 2 on C5, P7 = 3×3 stride 2
    on ReLU(P6)."""

    channels: PositiveInt = 256

    def build(self, channels: Sequence[int], strides: Sequence[int]) -> "Pyramid":
        """Build it for C3–C5 or any other maps of which each is half the one before."""
        coarse = LastLevelP6P7(channels[-1], self.channels)
        coarse.use_P5 = False  # torchvision would tap P5 wherever C5 happens to have as many channels
        return Pyramid(channels, (*strides, 2 * strides[-1], 4 * strides[-1]), self.channels, coarse)


class PooledFpn(Neck):
    """P2–P6 from C2–C5, the pyramid of Faster R-CNN (Lin et al., sec. 4.1): as `Fpn`, but P6 is every other cell of
    P5."""

    channels: PositiveInt = 256

    def build(self, channels: Sequence[int], strides: Sequence[int]) -> "Pyramid":
        """Build it for C2–C5 or any other maps of which each is half the one before."""
        return Pyramid(channels, (*strides, 2 * strides[-1]), self.channels, LastLevelMaxPool())


class Pyramid(Levels):
    """A level for each of the backbone's maps, and the coarser ones that `coarse` adds."""

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], channels: int, coarse: ExtraFPNBlock
    ) -> None:
        super().__init__()
        # choice: torchvision's initial weights, kaiming_uniform(a=1), which are Detectron's XavierFill. With
        # N(0, 0.01²), which the head has, the pyramid would fade and learn slowly from scratch.
        self.fpn = FeaturePyramidNetwork(list(in_channels), channels, extra_blocks=coarse)
        self.channels = (channels,) * len(strides)
        self.strides = tuple(strides)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[B, C_l, H_l, W_l] of falling resolution to [B, channels, H_l, W_l], coarser ones added."""
        return list(self.fpn({str(stride): level for stride, level in zip(self.strides, maps, strict=False)}).values())
