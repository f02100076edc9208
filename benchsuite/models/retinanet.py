"""RetinaNet: Lin, Goyal, Girshick, He, Dollár, "Focal Loss for Dense Object Detection", ICCV 2017, arXiv 1708.02002.

    sec. 4 "Anchors"          PyramidAnchors, Matcher
    sec. 4 "… Subnet"         Head
    sec. 3.2, eq. 5           FocalLoss
    sec. 4.1                  RetinaNetDetector (inference, initialisation)

Shapes: B images, N anchors of all levels together, A anchors in a cell, K classes, M boxes in an image.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from benchsuite.data.batch import Batch, Detections
from benchsuite.models.anchors import PyramidAnchors
from benchsuite.models.boxes import clip, decode, encode
from benchsuite.models.detector import Backbone, Detector, Model
from benchsuite.models.fpn import Fpn, Neck
from benchsuite.models.losses import FocalLoss, SmoothL1
from benchsuite.models.matcher import Matcher
from benchsuite.models.normalise import Normalise
from benchsuite.models.postprocess import PostProcess, select
from benchsuite.models.resnet import ResNet
from benchsuite.settings import Part


class DenseHead(Part):
    """Slot: settings of what predicts classes and boxes at every cell of a pyramid. What it builds maps a list of maps
    to cls_logits [B, N, K] and bbox_regression [B, N, 4], level by level, row by row, anchor by anchor. A head with R
    pairs of predictors gives [R · B, …] while it trains, pair by pair, and their mean else."""

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.models", "benchsuite.papers")

    @abstractmethod
    def build(self, in_channels: int, strides: Sequence[int], anchors: int, num_classes: int) -> nn.Module:
        """Build it for maps of `in_channels`, one a stride, with `anchors` anchors in a cell."""


class Head(DenseHead):
    """Two towers of `depth` 3×3 convolutions with ReLU, for classes and for boxes, shared by all levels.

    `prior` is the probability that every anchor starts with for every class.
    """

    channels: PositiveInt = 256
    depth: PositiveInt = 4
    prior: Annotated[float, Field(gt=0, lt=1)] = 0.01

    def build(self, in_channels: int, strides: Sequence[int], anchors: int, num_classes: int) -> "RetinaNetHead":
        """Build it; the same layers serve every stride."""
        return RetinaNetHead(self, in_channels, anchors, num_classes)


class RetinaNetHead(nn.Module):
    """Towers and predictors; a paper's head changes `towers`."""

    def __init__(self, settings: Head, in_channels: int, anchors: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.cls_tower = tower(in_channels, settings.channels, settings.depth)
        self.box_tower = tower(in_channels, settings.channels, settings.depth)
        self.cls_logits, self.bbox_regression = predictors(settings, anchors, num_classes)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """cls_logits [B, N, K] and bbox_regression [B, N, 4] of maps [B, C, H_l, W_l]."""
        return predictions(*self.towers(levels), self.cls_logits, self.bbox_regression, self.num_classes)

    def towers(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """What the class and the box predictor see of each level."""
        return [self.cls_tower(level) for level in levels], [self.box_tower(level) for level in levels]


def conv3x3(in_channels: int, out_channels: int, dilation: int = 1, bias: float = 0.0) -> nn.Conv2d:
    """A 3×3 convolution that keeps the map's size, weights from N(0, 0.01²) (RetinaNet, sec. 4.1)."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=dilation, dilation=dilation)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.constant_(conv.get_parameter("bias"), bias)
    return conv


def tower(in_channels: int, channels: int, depth: int) -> nn.Sequential:
    """`depth` times 3×3 convolution and ReLU."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [conv3x3(in_channels, channels), nn.ReLU(inplace=True)]
        in_channels = channels
    return nn.Sequential(*layers)


def predictors(settings: Head, anchors: int, num_classes: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The convolutions that predict classes and boxes."""
    bias = -math.log((1 - settings.prior) / settings.prior)
    cls_logits = conv3x3(settings.channels, anchors * num_classes, bias=bias)
    return cls_logits, conv3x3(settings.channels, anchors * 4)


def predictions(
    cls_levels: list[Tensor], box_levels: list[Tensor], cls_logits: nn.Module, bbox_regression: nn.Module, classes: int
) -> tuple[Tensor, Tensor]:
    """What a pair of predictors makes of all levels: [B, N, K] and [B, N, 4]."""
    logits = [by_anchor(cls_logits(level), classes) for level in cls_levels]
    offsets = [by_anchor(bbox_regression(level), 4) for level in box_levels]
    return torch.cat(logits, dim=1), torch.cat(offsets, dim=1)


def by_anchor(predicted: Tensor, size: int) -> Tensor:
    """[B, A · size, H, W] to [B, H · W · A, size]; a view where the map is channels_last."""
    return predicted.permute(0, 2, 3, 1).reshape(len(predicted), -1, size)


class RetinaNet(Model):
    """A dense detector: backbone, neck, head, anchors, and how it learns."""

    backbone: Backbone = ResNet()
    neck: Neck = Fpn()
    head: DenseHead = Head()
    anchors: PyramidAnchors = PyramidAnchors()
    matcher: Matcher = Matcher()
    classification: FocalLoss = FocalLoss()
    bbox_regression: SmoothL1 = SmoothL1()

    def build(self, num_classes: int) -> "RetinaNetDetector":
        """Build it on torch's default device, weights drawn from the global generator."""
        return RetinaNetDetector(self, num_classes)


class RetinaNetDetector(Detector):
    """Built from `RetinaNet` for K = `num_classes` classes."""

    def __init__(self, settings: RetinaNet, num_classes: int) -> None:
        super().__init__()
        backbone: Any = settings.backbone.build()
        self.normalised = Normalise(backbone.mean, backbone.std)
        self.backbone = backbone
        self.neck = settings.neck.build(backbone.channels, backbone.strides)
        self.head = settings.head.build(self.neck.channels, self.neck.strides, settings.anchors.per_cell, num_classes)
        self.anchors = settings.anchors
        self.matcher = settings.matcher
        self.classification = settings.classification
        self.box_loss = settings.bbox_regression

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Focal loss and box loss, each divided by the foreground anchors of the batch, in float32."""
        cls_logits, bbox_regression, anchors, _ = self._predict(batch)
        pairs = len(cls_logits) // len(batch.boxes)  # of predictors: the mean of their losses
        boxes, labels = batch.boxes.repeat(pairs, 1, 1), batch.labels.repeat(pairs, 1)
        return self.losses_of(cls_logits, bbox_regression, anchors, boxes, labels)

    def losses_of(
        self, cls_logits: Tensor, bbox_regression: Tensor, anchors: Tensor, boxes: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Losses of predictions [B, N, K] and [B, N, 4] at anchors [N, 4] for boxes [B, M, 4] and labels [B, M]."""
        matches = self.matcher.match(anchors, boxes, labels)
        images, positions = torch.nonzero(matches >= 0, as_tuple=True)
        rows = matches[images, positions]
        targets = matches.index_put((images, positions), labels[images, rows])
        offsets = encode(boxes[images, rows], anchors[positions])
        foreground = max(1, len(images))
        return {
            "classification": self.classification.sum(cls_logits, targets) / foreground,
            "bbox_regression": self.box_loss.sum(bbox_regression[images, positions], offsets) / foreground,
        }

    def detect(self, batch: Batch, post: PostProcess) -> Detections:
        """The best detections of every image; candidates are (anchor, class) pairs whose score is above the threshold,
        at most `post.candidates` a level (RetinaNet, sec. 4.1 "Inference")."""
        cls_logits, bbox_regression, anchors, cells = self._predict(batch)
        boxes, logits, labels = candidates(
            cls_logits.split_with_sizes(cells, dim=1), bbox_regression, anchors, post.candidates
        )
        return select(clip(boxes, batch.sizes), logits.sigmoid(), labels, post)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, tuple[tuple[int, int], ...]]:
        """cls_logits [B, N, K], bbox_regression [B, N, 4] and the (H_l, W_l) of each level, for normalised images
        [B, 3, H, W]."""
        levels = self.neck(self.backbone(images))
        return *self.head(levels), tuple((level.shape[-2], level.shape[-1]) for level in levels)

    def anchor_count(self, images: Tensor) -> int:
        """N for normalised images."""
        count: int = self(images)[1].shape[1]
        return count

    def _predict(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        """cls_logits [B, N, K], bbox_regression [B, N, 4], anchors [N, 4], and how many anchors each level has."""
        cls_logits, bbox_regression, maps = self(self.normalised(batch))
        anchors = self.anchors.grid(maps, self.neck.strides, cls_logits.device)
        cells = [height * width * self.anchors.per_cell for height, width in maps]
        return cls_logits.float(), bbox_regression.float(), anchors, cells


def candidates(
    scores: Sequence[Tensor], bbox_regression: Tensor, anchors: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` best (anchor, class) pairs of each level: boxes [B, M, 4], scores [B, M], labels [B, M].

    `scores` [B, N_l, K] of each level are logits or probabilities; offsets [B, N, 4] and anchors [N, 4] are of all."""
    found = []
    start = 0
    for level in scores:
        best, positions, labels = _best_pairs(level, count)
        found.append((best, positions + start, labels))
        start += level.shape[1]
    best, positions, labels = (torch.cat(part, dim=1) for part in zip(*found, strict=True))
    offsets = bbox_regression.gather(1, positions.unsqueeze(-1).expand(-1, -1, 4))
    return decode(offsets, anchors[positions]), best, labels


def _best_pairs(logits: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` best (anchor, class) pairs of each image, from logits [B, N, K]: logits, anchors, classes [B, count].

    The best pairs lie among the `count` anchors with the best best class, which spares sorting all N · K.
    """
    count_anchors = min(count, logits.shape[1])
    anchors = logits.amax(dim=2).topk(count_anchors, dim=1).indices
    rows = logits.gather(1, anchors.unsqueeze(-1).expand(-1, -1, logits.shape[2])).flatten(1)
    best, pairs = rows.topk(min(count, rows.shape[1]), dim=1)
    return best, anchors.gather(1, pairs // logits.shape[2]), pairs % logits.shape[2]
