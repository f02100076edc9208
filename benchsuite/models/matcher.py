"""Which anchor answers for which box. B images, M boxes in an image, A anchors."""

from abc import abstractmethod
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import override

from benchsuite.models.boxes import iou
from benchsuite.settings import Part, Settings

BACKGROUND = -1
IGNORED = -2
LARGEST = 1 << 26
"""Overlaps held at once: 256 MiB. Batches with more are matched image by image."""

Share = Annotated[float, Field(ge=0, le=1)]


class Assignment(Part):
    """Slot: how anchors are assigned to boxes."""

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.models", "benchsuite.papers")

    @abstractmethod
    def match(self, anchors: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """int64 [B, A]: the row of `boxes` that an anchor answers for, or BACKGROUND, or IGNORED.

        anchors [A, 4], or [B, A, 4] where each image has its own; boxes [B, M, 4]; labels [B, M], -1 for padding, which
        matches nothing. M may be 0.
        """


class Thresholds(Settings):
    """IoUs from which on something is foreground, and below which it is background."""

    positive: Share
    negative: Share

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.negative > self.positive:
            raise ValueError(f"negative {self.negative} is above positive {self.positive}; lower it")
        return self


class OverlapAssignment(Thresholds, Assignment):
    """What looks at nothing but overlaps, between two thresholds: from IoU `positive` on an anchor is foreground, below
    `negative` background, between them ignored."""

    positive: Share = 0.5
    negative: Share = 0.4

    @torch.no_grad()
    @override
    def match(self, anchors: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        images, rows = labels.shape
        count = anchors.shape[-2]
        if rows == 0:
            return torch.full((images, count), BACKGROUND, device=anchors.device)
        if images > 1 and images * rows * count > LARGEST:
            parts = zip(anchors.expand(images, count, 4), boxes[:, None], labels[:, None], strict=True)
            return torch.cat([self.match(*part) for part in parts])
        return self.assign(iou(boxes, anchors).masked_fill_((labels < 0).unsqueeze(-1), -1))

    @abstractmethod
    def assign(self, overlaps: Tensor) -> Tensor:
        """int64 [B, A] from overlaps [B, M, A], -1 for padding, which may be overwritten."""


class Matcher(OverlapAssignment):
    """An anchor answers for the box it overlaps most (RetinaNet, sec. 4).

    `force_best` also gives every box the anchors that overlap it most, however little.
    """

    # choice: HAR-Net says nothing about boxes that no anchor fits; Detectron and torchvision force their best anchors.
    force_best: bool = True

    @override
    def assign(self, overlaps: Tensor) -> Tensor:
        overlap, matches = overlaps.max(dim=1)
        ignored = (overlap >= self.negative) & (overlap < self.positive)
        background = overlap < self.negative
        if self.force_best:
            best = overlaps.amax(dim=2, keepdim=True)
            forced = ((overlaps == best) & (best > 0)).any(dim=1)  # padding has best -1
            ignored &= ~forced
            background &= ~forced
        return matches.masked_fill_(ignored, IGNORED).masked_fill_(background, BACKGROUND)


class OneToOne(OverlapAssignment):
    """Every box first takes one anchor for itself: the pair of largest overlap is joined and taken out, then the
    largest of what is left (SSD, Liu et al., ECCV 2016, sec. 2.2 "Matching strategy"; greedily, as in its release). Of
    the other anchors those with IoU `positive` or more (`strict`: more) join the box they overlap most.

    Of equal overlaps the first box goes first and takes its first anchor. A box that no free anchor meets takes none.
    """

    negative: Share = 0.5
    strict: bool = False

    def assign(self, overlaps: Tensor) -> Tensor:
        """M rounds, each for the whole batch."""
        overlap, matches = overlaps.max(dim=1)
        joined = overlap > self.positive if self.strict else overlap >= self.positive
        matches = matches.masked_fill_(~joined, IGNORED).masked_fill_(overlap < self.negative, BACKGROUND)
        best, choice = overlaps.max(dim=2)  # of every box that has none yet: its best free anchor
        for _ in range(overlaps.shape[1]):
            value, box = best.max(dim=1, keepdim=True)
            anchor = choice.gather(1, box)
            matches.scatter_(1, anchor, torch.where(value > 0, box, matches.gather(1, anchor)))
            best.scatter_(1, box, -1)
            overlaps.scatter_(2, anchor.unsqueeze(1).expand(-1, overlaps.shape[1], -1), -1)
            robbed = ((choice == anchor) & (best > 0)).nonzero(as_tuple=True)
            best[robbed], choice[robbed] = overlaps[robbed].max(dim=1)
        return matches
