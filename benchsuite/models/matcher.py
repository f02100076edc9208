"""Which anchor answers for which box."""

from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from benchsuite.models.boxes import iou
from benchsuite.settings import Settings

BACKGROUND = -1
IGNORED = -2

Share = Annotated[float, Field(ge=0, le=1)]


class Matcher(Settings):
    """An anchor answers for the box it overlaps most: foreground from IoU `positive` on, background below `negative`,
    ignored between (RetinaNet, sec. 4).

    `force_best` also gives every box the anchors that overlap it most, however little.
    """

    positive: Share = 0.5
    negative: Share = 0.4
    # choice: HAR-Net says nothing about boxes that no anchor fits; Detectron and torchvision force their best anchors.
    force_best: bool = True

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.negative > self.positive:
            raise ValueError(f"negative {self.negative} is above positive {self.positive}; lower it")
        return self

    @torch.no_grad()
    def match(self, anchors: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """int64 [B, A]: the row of `boxes` that an anchor answers for, or BACKGROUND, or IGNORED.

        anchors [A, 4]; boxes [B, M, 4]; labels [B, M], -1 for padding, which matches nothing. M may be 0.
        """
        images, rows = labels.shape
        if rows == 0:
            return torch.full((images, len(anchors)), BACKGROUND, device=anchors.device)
        real = labels >= 0
        overlaps = iou(boxes, anchors)  # [B, M, A]
        overlaps.masked_fill_(~real.unsqueeze(-1), -1)
        overlap, matches = overlaps.max(dim=1)
        ignored = (overlap >= self.negative) & (overlap < self.positive)
        background = overlap < self.negative
        if self.force_best:
            best = overlaps.amax(dim=2, keepdim=True)
            forced = ((overlaps == best) & (best > 0)).any(dim=1)  # padding has best -1
            ignored &= ~forced
            background &= ~forced
        return matches.masked_fill_(ignored, IGNORED).masked_fill_(background, BACKGROUND)
