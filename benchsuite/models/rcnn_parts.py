"""The parts of Faster R-CNN and what is set about each: proposals, RoIs, losses. They are torchvision's, with anchors
at the pyramid's own strides, RoIAlign in both alignments, and box losses to choose.

Shapes: B images, L levels, K classes, R RoIs of all images together, C channels, S side of a pooled RoI.
"""

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
import torchvision  # registers torchvision::roi_align  # noqa: F401
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops.poolers import LevelMapper

from benchsuite.models.anchors import Anchors, PyramidAnchors
from benchsuite.models.fpn import alike
from benchsuite.models.losses import BoxLoss, SmoothL1
from benchsuite.models.matcher import Share
from benchsuite.settings import Settings

SMALLEST = 1e-2  # px; a detection with a shorter side, mostly one outside its image, is none (torchvision)


class Sampled(Settings):
    """What a loss is computed on: boxes are foreground from IoU `positive` on and background below `negative`; of an
    image's, `batch` are drawn, at most `positive_fraction` of them foreground."""

    positive: Share
    negative: Share
    batch: PositiveInt
    positive_fraction: Share

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.negative > self.positive:
            raise ValueError(f"negative {self.negative} is above positive {self.positive}; lower it")
        return self


class Proposals(Settings):
    """How many boxes of an image the proposal network keeps: the best of each level before NMS, of all after it."""

    before_nms: PositiveInt
    after_nms: PositiveInt


class Rpn(Sampled):
    """Region proposal network (Faster R-CNN, sec. 3.1). Defaults: torchvision's for a feature pyramid, anchors of sides
    32 on P2 to 512 on P6.

    nms  overlap above which the worse of two proposals goes
    """

    # choice: sides as they are, as in Detectron2; torchvision and Detectron round them to whole pixels.
    anchors: Anchors = PyramidAnchors(scales=(1.0,), base=8.0)
    positive: Share = 0.7
    negative: Share = 0.3
    batch: PositiveInt = 256
    positive_fraction: Share = 0.5
    train: Proposals = Proposals(before_nms=2000, after_nms=2000)
    test: Proposals = Proposals(before_nms=1000, after_nms=1000)
    nms: Share = 0.7
    bbox_regression: BoxLoss = SmoothL1(beta=1 / 9)

    def build(self, channels: int, strides: Sequence[int]) -> "ProposalNetwork":
        """Build it for maps of `channels`, one a stride."""
        return ProposalNetwork(self, channels, strides)


class Roi(Sampled):
    """What becomes of proposals (Fast R-CNN, sec. 2; RoIAlign: He et al., arXiv 1703.06870). Defaults: torchvision's
    for a feature pyramid.

    size      S, the side of a pooled RoI in cells
    sampling  points in a cell, in each direction; 0 adapts them to the RoI: about one a cell of the map
    aligned   pixels are points at their centres (Detectron2), not at their corners
    """

    size: PositiveInt = 7
    sampling: NonNegativeInt = 2
    aligned: bool = False
    positive: Share = 0.5
    negative: Share = 0.5
    batch: PositiveInt = 512
    positive_fraction: Share = 0.25
    bbox_regression: BoxLoss = SmoothL1(beta=1 / 9)

    def build(self, strides: Sequence[int], head: nn.Module | None, width: int, num_classes: int) -> "RoiHeads":
        """Build it for maps at `strides`; `head` makes [R, width] of pooled RoIs, where it is not elsewhere."""
        return RoiHeads(self, strides, head, FastRCNNPredictor(width, num_classes + 1))


class AnchorGrid(nn.Module):
    """Anchors in the form that torchvision asks for them."""

    # choice: the strides of the levels, as in Detectron2; torchvision divides the image's size by the map's, which
    # gives 61 instead of 64 on P6 of an image 800 high.
    def __init__(self, settings: Anchors, strides: Sequence[int]) -> None:
        super().__init__()
        self.settings, self.strides = settings, tuple(strides)

    def forward(self, images: ImageList, levels: list[Tensor]) -> list[Tensor]:
        """For each image [N, 4], of all levels [B, C, H_l, W_l] together; not to be written into."""
        maps = tuple((level.shape[-2], level.shape[-1]) for level in levels)
        frame = images.tensors.shape[-2], images.tensors.shape[-1]
        return [self.settings.grid(maps, self.strides, frame, levels[0].device)] * len(images.image_sizes)


class ProposalHead(RPNHead):  # type: ignore[misc]  # torchvision is untyped
    """A 3×3 convolution and two 1×1, shared by the levels."""

    def forward(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Of each level objectness [B, A, H_l, W_l] and offsets [B, 4 A, H_l, W_l], in float32: boxes are decoded from
        them, and half precision has no pixels beyond 256."""
        objectness, offsets = super().forward(levels)
        return [level.float() for level in objectness], [level.float() for level in offsets]


class ProposalNetwork(RegionProposalNetwork):  # type: ignore[misc]  # torchvision is untyped
    """Boxes that may hold something; while it trains, its losses."""

    def __init__(self, settings: Rpn, channels: int, strides: Sequence[int]) -> None:
        train, test = settings.train, settings.test
        super().__init__(
            AnchorGrid(settings.anchors, strides),
            ProposalHead(channels, alike("proposals", settings.anchors.per_cell(len(strides)))),
            settings.positive,
            settings.negative,
            settings.batch,
            settings.positive_fraction,
            {"training": train.before_nms, "testing": test.before_nms},
            {"training": train.after_nms, "testing": test.after_nms},
            settings.nms,
        )
        self.box_loss = settings.bbox_regression

    def compute_loss(
        self, objectness: Tensor, deltas: Tensor, labels: list[Tensor], targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Over the number of anchors drawn: cross entropy of objectness [B · N, 1], and the box loss of the foreground
        among `deltas` [B · N, 4]. Of each image labels [N], 1 foreground, 0 background, −1 neither, and targets [N, 4].
        """
        positive, negative = (torch.cat(drawn).nonzero().squeeze(1) for drawn in self.fg_bg_sampler(labels))
        drawn = torch.cat((positive, negative))
        box_loss = self.box_loss.sum(deltas[positive], torch.cat(targets)[positive])
        logits = objectness.flatten()[drawn]
        return binary_cross_entropy_with_logits(logits, torch.cat(labels)[drawn]), box_loss / len(drawn)


class RoiAlign(nn.Module):
    """Pool every box from the level that suits its size (FPN, eq. 1: 224² px belong to stride 16)."""

    def __init__(self, settings: Roi, strides: Sequence[int]) -> None:
        super().__init__()
        self.size, self.sampling, self.aligned = settings.size, settings.sampling, settings.aligned
        self.strides = tuple(strides)
        self.level_of = LevelMapper(int(math.log2(strides[0])), int(math.log2(strides[-1])))

    def forward(self, levels: Sequence[Tensor], boxes: list[Tensor]) -> Tensor:
        """[R, C, S, S] of levels [B, C, H_l, W_l] and boxes [R_i, 4], xyxy in pixels, of each image."""
        rois = torch.cat([torch.cat((each.new_full((len(each), 1), i), each), 1) for i, each in enumerate(boxes)])
        if len(levels) == 1:
            return self._pool(levels[0], rois, self.strides[0])
        wanted = self.level_of(boxes)
        pooled = levels[0].new_zeros(len(rois), levels[0].shape[1], self.size, self.size)
        for position, (level, stride) in enumerate(zip(levels, self.strides, strict=True)):
            chosen = (wanted == position).nonzero().squeeze(1)
            pooled[chosen] = self._pool(level, rois[chosen], stride)
        return pooled

    def _pool(self, level: Tensor, rois: Tensor, stride: int) -> Tensor:
        # The kernel itself: where determinism is asked for, torchvision's function takes a compiled form on GPUs that
        # recompiles for new shapes and samples every cell of the map where sampling adapts.
        align: Any = torch.ops.torchvision.roi_align
        pooled: Tensor = align(level, rois, 1 / stride, self.size, self.size, self.sampling, self.aligned)
        return pooled


class RoiHeads(RoIHeads):  # type: ignore[misc]  # torchvision is untyped
    """Torchvision's sampling and coding of RoIs; a detector strings the steps together and selects the detections."""

    def __init__(self, settings: Roi, strides: Sequence[int], head: nn.Module | None, predictor: nn.Module) -> None:
        super().__init__(
            RoiAlign(settings, strides),
            head,
            predictor,
            settings.positive,
            settings.negative,
            settings.batch,
            settings.positive_fraction,
            bbox_reg_weights=None,
            score_thresh=None,
            nms_thresh=None,
            detections_per_img=None,
        )
        self.box_loss = settings.bbox_regression

    def losses(
        self, logits: Tensor, deltas: Tensor, labels: list[Tensor], targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Over the number of RoIs: cross entropy of logits [R, K + 1], and the box loss of the foreground's `deltas`
        [R, 4 (K + 1)] for its classes. Labels [R_i], 0 background, and targets [R_i, 4] of each image."""
        wanted = torch.cat(labels)
        count = max(1, len(wanted))
        foreground = wanted.nonzero().squeeze(1)
        chosen = by_class(deltas)[foreground, wanted[foreground]]
        box_loss = self.box_loss.sum(chosen, torch.cat(targets)[foreground])
        return cross_entropy(logits, wanted, reduction="sum") / count, box_loss / count

    def decode(self, deltas: Tensor, proposals: list[Tensor]) -> Tensor:
        """Boxes [R, K, 4] of the K classes from deltas [R, 4 (K + 1)] of proposals [R_i, 4] of each image."""
        boxes: Tensor = self.box_coder.decode_single(deltas, torch.cat(proposals))
        return by_class(boxes)[:, 1:]


def by_class(rows: Tensor) -> Tensor:
    """[R, 4 (K + 1)] to [R, K + 1, 4]; R may be 0."""
    return rows.reshape(len(rows), rows.shape[1] // 4, 4)
