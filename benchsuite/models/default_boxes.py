"""Default boxes, the anchors of SSD (Liu et al., ECCV 2016, arXiv 1512.02325, section 2.2), made by torchvision."""

from typing import Annotated, Self

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from benchsuite.errors import InputError
from benchsuite.models.anchors import Anchors, Shape
from benchsuite.settings import Switch

Ratios = tuple[PositiveFloat, ...]
Scales = Annotated[tuple[PositiveFloat, ...], Field(min_length=2)]
Steps = tuple[PositiveFloat, ...]


class DefaultBoxes(Anchors):
    """At each cell of level l a square of scale s_l, a square of √(s_l · s_l+1), then for each ratio r the boxes
    (s_l √r, s_l / √r) and (s_l / √r, s_l √r), in this order. A scale is a fraction of the input's width and height.

    scales  one a level, and one more for the last level's second square
    ratios  those beside 1, for each level
    steps   distance of the cells' centres in pixels of the input, one a level: cell i is centred at (i + ½) · step.
            Without them the cells divide the input evenly: (i + ½) / cells
    clip    cut at the edges of the input. choice: nothing is (so Caffe's SSD); torchvision cuts by default
    """

    scales: Scales
    ratios: Annotated[tuple[Ratios, ...], Field(min_length=1)]
    steps: Steps | None = None
    clip: Switch = None

    @model_validator(mode="after")
    def _one_a_level(self) -> Self:
        levels = len(self.ratios)
        if len(self.scales) != levels + 1:
            raise ValueError(f"{len(self.scales)} scales for {levels} levels of ratios; give {levels + 1}")
        if self.steps is not None and len(self.steps) != levels:
            raise ValueError(f"{len(self.steps)} steps for {levels} levels of ratios; give {levels}")
        return self

    def per_cell(self, levels: int) -> tuple[int, ...]:
        """Anchors in a cell of each level, fine to coarse; InputError where there are not so many levels."""
        if levels != len(self.ratios):
            raise InputError(
                f"anchors: default boxes for {len(self.ratios)} levels, and the model has {levels}; "
                "give ratios, scales and steps for as many levels as the neck makes"
            )
        return tuple(2 + 2 * len(ratios) for ratios in self.ratios)

    def make(self, maps: tuple[Shape, ...], strides: tuple[int, ...], frame: Shape) -> Tensor:
        """See the slot; `strides` do not matter. InputError where the steps are another input's."""
        self.per_cell(len(maps))
        for step, shape in zip(self.steps or (), maps, strict=False):
            wanted = tuple(_cells(side, step) for side in frame)
            if wanted != tuple(shape):
                raise InputError(
                    f"anchors.steps: a step of {step:g} px divides an input of {frame[0]}×{frame[1]} into "
                    f"{wanted[0]}×{wanted[1]} cells, and the map has {shape[0]}×{shape[1]}; "
                    "give the steps of this input, or null to divide it evenly"
                )
        steps = None if self.steps is None else list(self.steps)
        ratios = [list(each) for each in self.ratios]
        generator = DefaultBoxGenerator(ratios, scales=list(self.scales), steps=steps, clip=False)
        one = torch.empty(())  # neither images nor maps are looked at, but for their shapes
        images = ImageList(one.expand(1, 3, *frame), [frame])
        boxes: Tensor = generator(images, [one.expand(1, 1, *shape) for shape in maps])[0]
        if self.clip:
            height, width = frame
            return boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height], dtype=torch.float32))
        return boxes


def _cells(side: int, step: float) -> int:
    return -int(-side // step)
