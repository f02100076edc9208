"""Anchors of a feature pyramid: the same few shapes at every cell of every level."""

from functools import lru_cache
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from benchsuite.settings import Settings

Shape = tuple[int, int]


class PyramidAnchors(Settings):
    """Sides `base` · stride · scale, one anchor for each ratio (height / width) and scale, equal area over ratios.

    The defaults are HAR-Net's: two scales and three ratios, sides 32 and 45.25 on P3 up to 512 and 724.08 on P7
    (sec. IV-A names scales and ratios; RetinaNet has base 4).
    """

    scales: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1.0, 2**0.5)
    ratios: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.5, 1.0, 2.0)
    base: PositiveFloat = 4.0
    # choice: cell i is centred at i · stride, where a ResNet's receptive fields are centred (torchvision,
    # Detectron2); Detectron has offset 0.5.
    offset: Annotated[float, Field(ge=0, le=1)] = 0.0

    @property
    def per_cell(self) -> int:
        """A, the number of anchors in a cell."""
        return len(self.scales) * len(self.ratios)

    def shapes(self, stride: float) -> list[tuple[float, float]]:
        """(width, height) of the A anchors of a cell, scales running fastest."""
        sides = [self.base * stride * scale for scale in self.scales]
        return [(side / ratio**0.5, side * ratio**0.5) for ratio in self.ratios for side in sides]

    def grid(self, maps: tuple[Shape, ...], strides: tuple[int, ...], device: torch.device) -> Tensor:
        """All anchors, float32 [Σ H·W·A, 4] xyxy, level by level, row by row, for maps of (H, W) cells; kept for the
        next call: do not write into it."""
        return _grid(self, maps, strides, device)


@lru_cache(maxsize=32)
def _grid(anchors: PyramidAnchors, maps: tuple[Shape, ...], strides: tuple[int, ...], device: torch.device) -> Tensor:
    # kept tensors outlive the call, so they must not be inference tensors, which training refuses
    with torch.inference_mode(False):
        levels = [_level(anchors, shape, stride, device) for shape, stride in zip(maps, strides, strict=True)]
        return torch.cat(levels)


def _level(anchors: PyramidAnchors, shape: Shape, stride: int, device: torch.device) -> Tensor:
    height, width = shape
    y = (torch.arange(height, device=device, dtype=torch.float32) + anchors.offset) * stride
    x = (torch.arange(width, device=device, dtype=torch.float32) + anchors.offset) * stride
    centres = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)[:, :, None]
    halves = torch.tensor(anchors.shapes(stride), device=device) / 2
    return torch.cat((centres - halves, centres + halves), dim=-1).flatten(0, 2)
