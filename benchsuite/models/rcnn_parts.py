"""The parts of Faster R-CNN and what is set about each: proposals, RoIs, losses. They are torchvision's, with anchors
at the pyramid's own strides, RoIAlign in both alignments, and box losses to choose.

Shapes: B images, L levels, K classes, R RoIs of all images together, C channels, S side of a pooled RoI.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torchvision  # registers torchvision::roi_align  # noqa: F401
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops.poolers import LevelMapper

from benchsuite.models.anchors import Anchors, PyramidAnchors
from benchsuite.models.boxes import clip
from benchsuite.models.fpn import alike
from benchsuite.models.losses import BoxLoss, SmoothL1
from benchsuite.models.matcher import Share, Thresholds
from benchsuite.models.nms import NOTHING, best_left
from benchsuite.models.together import Sampler, normaliser
from benchsuite.settings import Settings

SMALLEST = 1e-2  # px; a detection with a shorter side, mostly one outside its image, is none (torchvision)


class Sampled(Thresholds):
    """What a loss is computed on: boxes are foreground from IoU `positive` on and background below `negative`; of an
    image's, `batch` are drawn, at most `positive_fraction` of them foreground."""

    batch: PositiveInt
    positive_fraction: Share


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
        return [self.of(images.tensors, levels)] * len(images.image_sizes)

    def of(self, images: Tensor, levels: list[Tensor]) -> Tensor:
        """The same for all images [B, 3, H, W]."""
        maps = tuple((level.shape[-2], level.shape[-1]) for level in levels)
        frame = images.shape[-2], images.shape[-1]
        return self.settings.grid(maps, self.strides, frame, levels[0].device)


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
        self.fg_bg_sampler = Sampler(settings.batch, settings.positive_fraction)
        self.box_loss = settings.bbox_regression

    def propose(self, images: Tensor, levels: list[Tensor], sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Of images [B, 3, H, W] with valid areas `sizes` [B, 2]: boxes [B, P, 4], the best first, and which of them
        are proposals, bool [B, P]. P hangs on the maps' sizes alone."""
        objectness, deltas = self.head(levels)
        cells = [level[0].numel() for level in objectness]
        scores, deltas = concat_box_prediction_layers(objectness, deltas)
        decoded = self.box_coder.decode(deltas, [self.anchor_generator.of(images, levels)] * len(images))
        return self._best(decoded.view(len(images), -1, 4), scores.view(len(images), -1), sizes, cells)

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Torchvision's step while it trains: the proposals [P_i, 4] of each image; their scores are not used."""
        scores = objectness.detach().view(len(proposals), -1)
        sizes = torch.tensor(image_shapes, device=proposals.device)
        boxes, real = self._best(proposals, scores, sizes, num_anchors_per_level)
        return [each[mask] for each, mask in zip(boxes, real, strict=True)], []

    def _best(self, boxes: Tensor, scores: Tensor, sizes: Tensor, cells: list[int]) -> tuple[Tensor, Tensor]:
        """Of boxes [B, N, 4] and logits [B, N], `cells` on each level: the best of each level, and after NMS of all."""
        parts = scores.split_with_sizes(cells, dim=1)
        ranked = [level.topk(min(self.pre_nms_top_n(), level.shape[1]), dim=1) for level in parts]
        starts = [sum(cells[:level]) for level in range(len(cells))]
        places = torch.cat([level.indices + start for level, start in zip(ranked, starts, strict=True)], dim=1)
        owners = torch.cat([torch.full_like(level.indices, i) for i, level in enumerate(ranked)], dim=1)
        boxes = clip(boxes.gather(1, places.unsqueeze(2).expand(-1, -1, 4)), sizes)
        scores = torch.cat([level.values for level in ranked], dim=1).sigmoid()
        scores = scores.masked_fill(shortest(boxes) < self.min_size, NOTHING)
        left, order = best_left(boxes, scores, owners, len(cells), self.nms_thresh, NOTHING / 2, self.post_nms_top_n())
        return boxes.gather(1, order.unsqueeze(2).expand(-1, -1, 4)), left > NOTHING / 2

    def compute_loss(
        self, objectness: Tensor, deltas: Tensor, labels: list[Tensor], targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Over the number of anchors drawn: cross entropy of objectness [B · N, 1], and the box loss of the foreground
        among `deltas` [B · N, 4]. Of each image labels [N], 1 foreground, 0 background, −1 neither, and targets [N, 4].
        """
        positive, negative = (torch.cat(drawn).nonzero().squeeze(1) for drawn in self.fg_bg_sampler(labels))
        drawn = torch.cat((positive, negative))
        box_loss = self.box_loss.sum(deltas[positive], torch.cat(targets)[positive])
        logits, wanted = objectness.flatten()[drawn], torch.cat(labels)[drawn]
        count = normaliser(len(drawn))
        return binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / count, box_loss / count


class RoiAlign(nn.Module):
    """Pool every box from the level that suits its size (FPN, eq. 1: 224² px belong to stride 16)."""

    def __init__(self, settings: Roi, strides: Sequence[int]) -> None:
        super().__init__()
        self.size, self.sampling, self.aligned = settings.size, settings.sampling, settings.aligned
        self.strides = tuple(strides)
        self.level_of = LevelMapper(int(math.log2(strides[0])), int(math.log2(strides[-1])))

    def forward(self, levels: Sequence[Tensor], boxes: Tensor, images: Tensor) -> Tensor:
        """[R, C, S, S] of levels [B, C, H_l, W_l] and boxes [R, 4], xyxy in pixels, of images int64 [R]."""
        rois = torch.cat((images.unsqueeze(1).to(boxes), boxes), dim=1)
        if len(levels) == 1:
            return self._pool(levels[0], rois, self.strides[0])
        wanted = self.level_of([boxes])
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
        self.fg_bg_sampler = Sampler(settings.batch, settings.positive_fraction)
        self.box_loss = settings.bbox_regression

    def losses(
        self, logits: Tensor, deltas: Tensor, labels: list[Tensor], targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Over the number of RoIs: cross entropy of logits [R, K + 1], and the box loss of the foreground's `deltas`
        [R, 4 (K + 1)] for its classes. Labels [R_i], 0 background, and targets [R_i, 4] of each image."""
        wanted = torch.cat(labels)
        count = normaliser(len(wanted))
        foreground = wanted.nonzero().squeeze(1)
        chosen = by_class(deltas)[foreground, wanted[foreground]]
        box_loss = self.box_loss.sum(chosen, torch.cat(targets)[foreground])
        return cross_entropy(logits, wanted, reduction="sum") / count, box_loss / count

    def decode(self, deltas: Tensor, proposals: Tensor) -> Tensor:
        """Boxes [R, K, 4] of the K classes from deltas [R, 4 (K + 1)] of proposals [R, 4]."""
        boxes: Tensor = self.box_coder.decode_single(deltas, proposals)
        return by_class(boxes)[:, 1:]


def shortest(boxes: Tensor) -> Tensor:
    """The shorter side [...] of boxes [..., 4], in pixels."""
    return (boxes[..., 2:] - boxes[..., :2]).amin(-1)


def with_image(boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Boxes [R_i, 4] of each image as one [R, 4], and the image int64 [R] that each is of."""
    images = [torch.full((len(each),), i, device=each.device) for i, each in enumerate(boxes)]
    return torch.cat(list(boxes)), torch.cat(images)


def by_class(rows: Tensor) -> Tensor:
    """[R, 4 (K + 1)] to [R, K + 1, 4]; R may be 0."""
    return rows.reshape(len(rows), rows.shape[1] // 4, 4)
