"""Dense detectors: every anchor of every level gets classes and a box, in one pass. What one is made of is chosen part
by part: RetinaNet is one choice, SSD another.

Shapes: B images, N anchors of all levels together, K classes, O outputs an anchor (K, or K + 1 where the background is
one of them), M boxes in an image.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from typing_extensions import override

from benchsuite.data.batch import Batch
from benchsuite.models.anchors import Anchors
from benchsuite.models.boxes import BoxCoder, clip
from benchsuite.models.detector import Backbone, Detector, Model
from benchsuite.models.fpn import Neck
from benchsuite.models.losses import BoxLoss, ClassLoss
from benchsuite.models.matcher import Assignment
from benchsuite.models.normalise import Normalise
from benchsuite.models.postprocess import Candidates, PostProcess
from benchsuite.models.together import normaliser
from benchsuite.settings import Part


class DenseHead(Part):
    """Slot: settings of what predicts classes and boxes at every cell of a pyramid. What it builds maps a list of maps
    to cls_logits [B, N, O] and bbox_regression [B, N, 4], level by level, row by row, anchor by anchor. A head with R
    pairs of predictors gives [R · B, …] while it trains, pair by pair, and their mean else."""

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.models", "benchsuite.papers")

    @abstractmethod
    def build(
        self, in_channels: Sequence[int], strides: Sequence[int], anchors: Sequence[int], outputs: int
    ) -> nn.Module:
        """Build it for maps with these channels, strides and anchors in a cell, one number a level, and `outputs`
        logits an anchor."""


def by_anchor(predicted: Tensor, size: int) -> Tensor:
    """[B, A · size, H, W] to [B, H · W · A, size]; a view where the map is channels_last."""
    return predicted.permute(0, 2, 3, 1).reshape(len(predicted), -1, size)


class Dense(Model):
    """A dense detector: backbone, neck, head, anchors, and how it learns."""

    backbone: Backbone
    neck: Neck
    head: DenseHead
    anchors: Anchors
    coder: BoxCoder = BoxCoder()
    assignment: Assignment
    classification: ClassLoss
    bbox_regression: BoxLoss

    def build(self, num_classes: int) -> "DenseDetector":
        """Build it on torch's default device, weights drawn from the global generator. InputError where the parts do
        not fit each other."""
        return DenseDetector(self, num_classes)


class DenseDetector(Detector):
    """Built from `Dense` for K = `num_classes` classes."""

    def __init__(self, settings: Dense, num_classes: int) -> None:
        super().__init__()
        backbone: Any = settings.backbone.build()
        self.settings = settings
        self.normalised = Normalise(backbone.mean, backbone.std)
        self.backbone = backbone
        self.neck = settings.neck.build(backbone.channels, backbone.strides)
        channels, strides = self.neck.channels, self.neck.strides
        self.per_cell = settings.anchors.per_cell(len(strides))
        outputs = num_classes + settings.classification.background
        self.head = settings.head.build(channels, strides, self.per_cell, outputs)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Class loss and box loss, each divided by the foreground anchors of the batch, in float32."""
        cls_logits, bbox_regression, anchors, _ = self._predict(batch)
        pairs = len(cls_logits) // len(batch.boxes)  # of predictors: the mean of their losses
        boxes, labels = batch.boxes.repeat(pairs, 1, 1), batch.labels.repeat(pairs, 1)
        return self.losses_of(cls_logits, bbox_regression, anchors, boxes, labels)

    def losses_of(
        self, cls_logits: Tensor, bbox_regression: Tensor, anchors: Tensor, boxes: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Losses of predictions [B, N, O] and [B, N, 4] at anchors [N, 4], or [B, N, 4] where each image has its own,
        for boxes [B, M, 4] and labels [B, M]."""
        settings = self.settings
        matches = settings.assignment.match(anchors, boxes, labels)
        foreground, rows = matches >= 0, matches.clamp(min=0)
        count = normaliser(foreground.sum())
        boxes, labels = pad(boxes, (0, 0, 0, 1)), pad(labels, (0, 1))  # or there might be none to point at
        targets = torch.where(foreground, labels.gather(1, rows), matches)
        images = torch.arange(len(boxes), device=rows.device).unsqueeze(1)
        # of the B · N anchors in a row
        chosen = worth(foreground)
        owner, sure = (rows + images * boxes.shape[1]).flatten()[chosen], foreground.flatten()[chosen].unsqueeze(1)
        own = anchors.expand(len(boxes), -1, 4).flatten(0, 1)[chosen]
        # what is no foreground, where it is chosen at all, is to stay where it is, and does
        offsets = settings.coder.encode(torch.where(sure, boxes.flatten(0, 1)[owner], own), own)
        found = torch.where(sure, bbox_regression.flatten(0, 1)[chosen], 0)
        return {
            "classification": settings.classification.sum(cls_logits, targets) / count,
            "bbox_regression": settings.bbox_regression.sum(found, offsets) / count,
        }

    def candidates(self, batch: Batch, post: PostProcess) -> Candidates:
        """The best (anchor, class) pairs (RetinaNet, sec. 4.1 "Inference")."""
        cls_logits, bbox_regression, anchors, cells = self._predict(batch)
        levels = self.settings.classification.scores(cls_logits).split_with_sizes(cells, dim=1)
        found = best_pairs(levels, bbox_regression, anchors, self.settings.coder, post)
        return replace(found, boxes=clip(found.boxes, batch.sizes))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, tuple[tuple[int, int], ...]]:
        """cls_logits [B, N, O], bbox_regression [B, N, 4] and the (H_l, W_l) of each level, for normalised images
        [B, 3, H, W]."""
        levels = self.neck(self.backbone(images))
        return *self.head(levels), tuple((level.shape[-2], level.shape[-1]) for level in levels)

    @override
    def imagined(self, images: Tensor) -> Tensor:
        cls_logits, bbox_regression, _ = self(images)
        targets = torch.full(cls_logits.shape[:2], 0, device=images.device)
        offsets = bbox_regression.float().flatten(0, 1)
        settings = self.settings
        return settings.classification.sum(cls_logits.float(), targets) + settings.bbox_regression.sum(
            offsets, torch.zeros_like(offsets)
        )

    @override
    def anchor_count(self, images: Tensor) -> int:
        count: int = self(images)[1].shape[1]
        return count

    def _predict(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        """cls_logits [B, N, O], bbox_regression [B, N, 4], anchors [N, 4], and how many anchors each level has."""
        cls_logits, bbox_regression, maps = self(self.images(batch))
        height, width = batch.images.shape[-2:]
        anchors = self.settings.anchors.grid(maps, self.neck.strides, (height, width), cls_logits.device)
        cells = [rows * columns * count for (rows, columns), count in zip(maps, self.per_cell, strict=True)]
        return cls_logits.float(), bbox_regression.float(), anchors, cells


def worth(foreground: Tensor) -> Tensor | slice:
    """Which of the anchors [B, N], taken in a row, box losses are worth computing for: the foreground, a hundredth of
    them; on a GPU all, for to pick some out the host would have to wait until they are counted."""
    return slice(None) if foreground.is_cuda else foreground.flatten().nonzero().squeeze(1)


def best_pairs(
    scores: Sequence[Tensor], bbox_regression: Tensor, anchors: Tensor, coder: BoxCoder, post: PostProcess
) -> Candidates:
    """The best (anchor, class) pairs, by the limits of `post` per level, or else per class, which spare decoding the
    rest; boxes are not cut at any edge.

    Scores [B, N_l, K] of each level; offsets [B, N, 4] and anchors [N, 4] or [B, N, 4] are of all."""
    if post.per_level is None:
        best, positions, labels = _best_of_classes(torch.cat(list(scores), dim=1), post.per_class)
    else:
        found, start = [], 0
        for level in scores:
            best, positions, labels = _best_pairs(level, post.per_level)
            found.append((best, positions + start, labels))
            start += level.shape[1]
        best, positions, labels = (torch.cat(part, dim=1) for part in zip(*found, strict=True))
    places = positions.unsqueeze(-1).expand(-1, -1, 4)
    own = anchors.expand(len(bbox_regression), -1, 4)
    return Candidates(coder.decode(bbox_regression.gather(1, places), own.gather(1, places)), best, labels)


def _best_pairs(scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` best (anchor, class) pairs of each image, from [B, N, K]: scores, anchors, classes [B, count].

    The best pairs lie among the `count` anchors with the best best class, which spares sorting all N · K.
    """
    count_anchors = min(count, scores.shape[1])
    anchors = scores.amax(dim=2).topk(count_anchors, dim=1).indices
    rows = scores.gather(1, anchors.unsqueeze(-1).expand(-1, -1, scores.shape[2])).flatten(1)
    best, pairs = rows.topk(min(count, rows.shape[1]), dim=1)
    return best, anchors.gather(1, pairs // scores.shape[2]), pairs % scores.shape[2]


def _best_of_classes(scores: Tensor, count: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` best anchors of each class of each image, from [B, N, K]: scores, anchors, classes [B, K · count]."""
    anchors, classes = scores.shape[1:]
    best, positions = scores.transpose(1, 2).topk(min(count or anchors, anchors), dim=2)
    labels = torch.arange(classes, device=scores.device).view(1, -1, 1).expand_as(best)
    return best.flatten(1), positions.flatten(1), labels.flatten(1)
