"""Anchors: the boxes that a detector judges and moves, some shapes at every cell of every level."""

from abc import abstractmethod
from functools import lru_cache
from typing import Annotated, ClassVar

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor
from typing_extensions import override

from benchsuite.settings import Part

Shape = tuple[int, int]


class Anchors(Part):
    """Slot: where anchors lie. A choice says how many each level has (`per_cell`) and which they are (`make`)."""

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.models", "benchsuite.papers")

    @abstractmethod
    def per_cell(self, levels: int) -> tuple[int, ...]:
        """A_l, the number of anchors in a cell of each of `levels` levels, from fine to coarse. InputError for a number
        of levels that they do not fit."""

    @abstractmethod
    def make(self, maps: tuple[Shape, ...], strides: tuple[int, ...], frame: Shape) -> Tensor:
        """All anchors, float32 [Σ H·W·A_l, 4] xyxy in pixels, level by level, row by row, on torch's default device.

        maps     (H, W) cells of each level
        strides  pixels between two cells of each level
        frame    (height, width) of the padded images, in pixels
        """

    def grid(self, maps: tuple[Shape, ...], strides: tuple[int, ...], frame: Shape, device: torch.device) -> Tensor:
        """What `make` gives, on `device`; kept for the next call: do not write into it."""
        return _kept(self, maps, strides, frame, device)


@lru_cache(maxsize=32)
def _kept(
    anchors: Anchors, maps: tuple[Shape, ...], strides: tuple[int, ...], frame: Shape, device: torch.device
) -> Tensor:
    # kept tensors outlive the call, so they must not be inference tensors, which training refuses
    with torch.inference_mode(False), device:
        return anchors.make(maps, strides, frame)


class PyramidAnchors(Anchors):
    """Sides `base` · stride · scale, one anchor for each ratio (height / width) and scale, equal area over ratios: the
    same few shapes at every cell of every level.

    The defaults are HAR-Net's: two scales and three ratios, sides 32 and 45.25 on P3 up to 512 and 724.08 on P7
    (sec. IV-A names scales and ratios; RetinaNet has base 4).
    """

    scales: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1.0, 2**0.5)
    ratios: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.5, 1.0, 2.0)
    base: PositiveFloat = 4.0
    # choice: cell i is centred at i · stride, where a ResNet's receptive fields are centred (torchvision,
    # Detectron2); Detectron has offset 0.5.
    offset: Annotated[float, Field(ge=0, le=1)] = 0.0

    @override
    def per_cell(self, levels: int) -> tuple[int, ...]:
        return (len(self.scales) * len(self.ratios),) * levels

    def shapes(self, stride: float) -> list[tuple[float, float]]:
        """(width, height) of the A anchors of a cell, scales running fastest."""
        sides = [self.base * stride * scale for scale in self.scales]
        return [(side / ratio**0.5, side * ratio**0.5) for ratio in self.ratios for side in sides]

    @override
    def make(self, maps: tuple[Shape, ...], strides: tuple[int, ...], frame: Shape) -> Tensor:
        return torch.cat([self._level(shape, stride) for shape, stride in zip(maps, strides, strict=True)])

    def _level(self, shape: Shape, stride: int) -> Tensor:
        y, x = (((torch.arange(cells, dtype=torch.float32) + self.offset) * stride) for cells in shape)
        centres = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)[:, :, None]
        halves = torch.tensor(self.shapes(stride)) / 2
        return torch.cat((centres - halves, centres + halves), dim=-1).flatten(0, 2)
