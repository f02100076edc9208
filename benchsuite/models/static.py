"""Detection of one picture in fixed shapes, which an exporter can follow: what detectors do in `detect`, with padding
where that cuts.

Shapes: N candidates, K classes, D detections, P proposals, S side of a pooled RoI.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import batched_nms

from benchsuite.data.batch import Batch
from benchsuite.errors import InputError
from benchsuite.models.boxes import clip
from benchsuite.models.dense import DenseDetector, best_pairs
from benchsuite.models.detector import Detector
from benchsuite.models.postprocess import Hard, PostProcess
from benchsuite.models.rcnn import TwoStageDetector
from benchsuite.models.rcnn_parts import SMALLEST, RoiAlign

Candidates = tuple[Tensor, Tensor, Tensor]
"""boxes [N, 4], scores [N], labels int64 [N]."""
NOTHING = -1.0
"""The score of what is no candidate."""


@torch.library.custom_op("benchsuite::grouped_nms", mutates_args=())
def grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, count: int, iou: float, threshold: float) -> Tensor:
    """Indices int64 of the boxes [N, 4] with a score above `threshold` that no better one of their group overlaps by
    more than `iou`; there are `count` groups, from 0 on. One operator, because exporters have one for it."""
    above = (scores > threshold).nonzero().squeeze(1)
    return above[batched_nms(boxes[above].double(), scores[above].double(), groups[above], iou)]


@grouped_nms.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, count: int, iou: float, threshold: float) -> Tensor:
    return groups.new_empty(torch.library.get_ctx().new_dynamic_size())


def best(kept: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Scores and places [min(count, N)] of the best among `kept` [any], padded with places that score NOTHING."""
    chosen = torch.full_like(scores, NOTHING).scatter(0, kept, scores[kept])
    values, places = chosen.topk(min(count, len(scores)))
    return values, places


class Static(nn.Module, ABC):
    """A detector for one picture in a frame of fixed size. `forward` gives what `detect` does: boxes [D, 4], scores [D]
    and labels [D], padding with score 0 and label -1."""

    def __init__(self, detector: Detector, post: PostProcess) -> None:
        super().__init__()
        if not isinstance(post.nms, Hard) or post.vote is not None:
            raise InputError("post: only hard NMS without voting has fixed shapes; set post.nms and post.vote")
        self.detector, self.post, self.iou = detector, post, post.nms.iou

    def forward(self, image: Tensor, size: Tensor) -> Candidates:
        """Of `image` uint8 [1, 3, H, W], padded at the right and bottom, with valid height and width `size` [1, 2]."""
        boxes, scores, labels = self.candidates(_batch(image, size))
        kept = grouped_nms(boxes, scores, labels, self.classes, self.iou, self.post.score_threshold)
        scores, places = best(kept, scores, self.post.per_image)
        real = scores > self.post.score_threshold
        boxes = boxes[places] * real.unsqueeze(1)
        return boxes, scores.clamp(min=0), torch.where(real, labels[places], -1)

    def detect(self, image: Tensor, size: Tensor) -> Candidates:
        """The same as the detector itself does it."""
        found = self.detector.detect(_batch(image, size), self.post)
        return found.boxes[0], found.scores[0], found.labels[0]

    classes: int

    @abstractmethod
    def candidates(self, batch: Batch) -> Candidates:
        """What NMS chooses from."""


def _batch(image: Tensor, size: Tensor) -> Batch:
    nothing = torch.zeros(1, 1, 4), torch.full((1, 1), -1)
    return Batch(image, size, size, torch.zeros(1, dtype=torch.int64), *nothing)


class StaticDense(Static):
    """RetinaNet and detectors like it."""

    detector: DenseDetector
    anchors: Tensor

    def __init__(self, detector: DenseDetector, post: PostProcess, frame: tuple[int, int]) -> None:
        super().__init__(detector, post)
        logits, _, maps = detector(torch.zeros(1, 3, *frame))
        settings = detector.settings
        self.classes = logits.shape[2] - settings.classification.background
        anchors = settings.anchors.grid(maps, detector.neck.strides, frame, logits.device)
        self.register_buffer("anchors", anchors, persistent=False)

    def candidates(self, batch: Batch) -> Candidates:
        """The best pairs of anchor and class of each level."""
        logits, offsets, maps = self.detector(self.detector.normalised(batch))
        settings = self.detector.settings
        cells = [rows * columns * count for (rows, columns), count in zip(maps, self.detector.per_cell, strict=True)]
        levels = settings.classification.scores(logits).split_with_sizes(cells, dim=1)
        boxes, found, labels = best_pairs(levels, offsets, self.anchors, settings.coder, self.post)
        return clip(boxes, batch.sizes)[0], found[0], labels[0]


class StaticTwoStage(Static):
    """Faster R-CNN. The RoIs are as many as a test allows: those that NMS left no proposal for find nothing."""

    detector: TwoStageDetector
    anchors: Tensor

    def __init__(self, detector: TwoStageDetector, post: PostProcess, frame: tuple[int, int]) -> None:
        super().__init__(detector, post)
        levels = detector.levels(torch.zeros(1, 3, *frame))
        rpn = detector.settings.rpn
        maps = tuple((level.shape[2], level.shape[3]) for level in levels)
        anchors = rpn.anchors.grid(maps, detector.rpn.anchor_generator.strides, frame, levels[0].device)
        self.register_buffer("anchors", anchors, persistent=False)
        counts = rpn.anchors.per_cell(len(maps))
        self.cells = [rows * columns * count for (rows, columns), count in zip(maps, counts, strict=True)]
        self.classes = detector.roi_heads.box_predictor.cls_score.out_features - 1

    def candidates(self, batch: Batch) -> Candidates:
        """Every pair of proposal and class."""
        detector = self.detector
        levels = detector.levels(detector.normalised(batch))
        proposals, real = self.proposals(levels, batch.sizes)
        pooled = pool(detector.roi_heads.box_roi_pool, levels, proposals)
        logits, deltas = detector.roi_heads.box_predictor(detector.head(pooled, [len(proposals)]))
        boxes = clip(detector.roi_heads.decode(deltas, [proposals]).flatten(0, 1).unsqueeze(0), batch.sizes)[0]
        scores = logits.softmax(1)[:, 1:] * real.unsqueeze(1)
        labels = torch.arange(self.classes).expand_as(scores).flatten()
        sides = (boxes[:, 2:] - boxes[:, :2]).amin(1)
        return boxes, scores.flatten().masked_fill(sides < SMALLEST, NOTHING), labels

    def proposals(self, levels: list[Tensor], size: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [P, 4] and which of them are proposals: the best of each level, after NMS the best of all."""
        rpn, kept = self.detector.rpn, self.detector.settings.rpn.test
        objectness, deltas = concat_box_prediction_layers(*rpn.head(levels))
        decoded = rpn.box_coder.decode(deltas, [self.anchors]).squeeze(1)
        ranked = [part.topk(min(kept.before_nms, len(part))) for part in objectness.squeeze(1).split(self.cells)]
        starts = [sum(self.cells[:level]) for level in range(len(self.cells))]
        places = torch.cat([part.indices + start for part, start in zip(ranked, starts, strict=True)])
        owners = torch.cat([torch.full_like(part.indices, level) for level, part in enumerate(ranked)])
        boxes = clip(decoded[places].unsqueeze(0), size)[0]
        sides = (boxes[:, 2:] - boxes[:, :2]).amin(1)
        scores = torch.cat([part.values for part in ranked]).sigmoid().masked_fill(sides < rpn.min_size, NOTHING)
        survivors = grouped_nms(boxes, scores, owners, len(ranked), rpn.nms_thresh, NOTHING / 2)
        scores, order = best(survivors, scores, kept.after_nms)
        return boxes[order], scores > NOTHING / 2


def pool(align: RoiAlign, levels: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """[P, C, S, S] of boxes [P, 4], each from the level that suits its size; all are pooled from all levels."""
    rois, size = torch.cat((boxes.new_zeros(len(boxes), 1), boxes), dim=1), align.size
    kernel: Any = torch.ops.torchvision.roi_align
    every = [
        kernel(level, rois, 1 / stride, size, size, align.sampling, align.aligned)
        for level, stride in zip(levels, align.strides, strict=False)
    ]
    pooled: Tensor = every[0]
    if len(every) > 1:
        wanted: Tensor = align.level_of([boxes]).view(-1, 1, 1, 1)
        for position, other in enumerate(every[1:], 1):
            pooled = torch.where(wanted == position, other, pooled)
    return pooled


def static(detector: Detector, post: PostProcess, frame: tuple[int, int]) -> Static:
    """The detector for one picture in a `frame` (height, width), in evaluation mode. InputError for a detector without
    such a form, or with a part that says (`no_export`) why it has none."""
    for module in detector.modules():
        reason = getattr(module, "no_export", None)
        if reason is not None:
            raise InputError(f"export: {type(module).__name__} {reason}")
    with torch.no_grad():
        if isinstance(detector, DenseDetector):
            return StaticDense(detector.eval(), post, frame).eval()
        if isinstance(detector, TwoStageDetector):
            return StaticTwoStage(detector.eval(), post, frame).eval()
    raise InputError(
        f"export: {type(detector).__name__} has no form of fixed shapes; export a RetinaNet or Faster R-CNN"
    )
