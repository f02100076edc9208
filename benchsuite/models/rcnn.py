"""Faster R-CNN: Ren, He, Girshick, Sun, NIPS 2015, arXiv 1506.01497; on a feature pyramid (Lin et al., CVPR 2017,
arXiv 1612.03144) or with the residual network's last stage as its head (C4: He et al., CVPR 2016, arXiv 1512.03385).

    Faster R-CNN, sec. 3.1      Rpn            (rcnn_parts)
    Fast R-CNN, sec. 2          Roi            (rcnn_parts)
    FPN, sec. 4.1, 4.2          FasterRcnn     two-layer head on P2–P5; proposals from P6 too
    ResNet, appendix A          FasterRcnnC4   proposals from C4; stage 5 is the head of every RoI

Shapes: B images, N anchors of all levels together, A anchors in a cell, K classes (in predictions, 0 is the
background), R RoIs of all images together, C channels, S side of a pooled RoI.

Protocol for modules of a C4 head (`backbone.stages[4]`, also after edits): a submodule with an attribute
`rois_per_image` (initially None) gets there, before every pass, a list of ints: how many of the pass's samples
[R, C, H, W] belong to each image, in order; their sum is R. A count may be 0, and R too. Elsewhere in the backbone the
attribute stays None: there, samples are images.
"""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from typing_extensions import override

from benchsuite.data.batch import Batch
from benchsuite.errors import InputError
from benchsuite.models.anchors import Anchors, PyramidAnchors
from benchsuite.models.boxes import clip
from benchsuite.models.detector import Backbone, Detector, Features, Model
from benchsuite.models.fpn import Neck, PooledFpn, alike
from benchsuite.models.losses import BoxLoss, SmoothL1
from benchsuite.models.normalise import Normalise
from benchsuite.models.postprocess import Candidates, PostProcess
from benchsuite.models.rcnn_parts import SMALLEST, ProposalNetwork, Proposals, Roi, RoiHeads, Rpn, shortest, with_image
from benchsuite.models.resnet import ResNet, ResNetFeatures


class FasterRcnn(Model):
    """On a pyramid: RoIs are pooled from the levels of the backbone's maps (P2–P5), each by its size, and seen by two
    layers of `hidden` units; what the neck adds (P6) serves proposals alone. Defaults: torchvision's."""

    backbone: Backbone = ResNet(levels=(2, 3, 4, 5))
    neck: Neck = PooledFpn()
    rpn: Rpn = Rpn()
    roi: Roi = Roi()
    hidden: PositiveInt = 1024

    def build(self, num_classes: int) -> "FpnDetector":
        """Build it on torch's default device, weights drawn from the global generator. InputError where the neck's
        levels do not halve."""
        return FpnDetector(self, num_classes)


class C4Rpn(Rpn):
    """Proposals from C4 alone: anchors of sides 32 to 512 in every cell, more of them kept (Detectron)."""

    anchors: Anchors = PyramidAnchors(scales=(2.0, 4.0, 8.0, 16.0, 32.0), base=1.0)
    train: Proposals = Proposals(before_nms=12_000, after_nms=2000)
    test: Proposals = Proposals(before_nms=6000, after_nms=1000)


class C4Roi(Roi):
    """RoIs for a residual stage, which halves them; box loss of Fast R-CNN (Detectron)."""

    size: PositiveInt = 14
    sampling: NonNegativeInt = 0
    bbox_regression: BoxLoss = SmoothL1(beta=1.0)


class FasterRcnnC4(Model):
    """On C4: stage 5 of the ResNet, its edits and pretrained weights included, sees every RoI; the mean over its cells
    is classified. Defaults: Detectron's."""

    backbone: ResNet = ResNet(levels=(4, 5))
    rpn: C4Rpn = C4Rpn()
    roi: C4Roi = C4Roi()

    @model_validator(mode="after")
    def _splits(self) -> Self:
        if self.backbone.levels != (4, 5):
            found = list(self.backbone.levels)
            raise ValueError(f"backbone.levels {found}: C4 gives proposals, stage 5 is the head; write [4, 5]")
        return self

    def build(self, num_classes: int) -> "C4Detector":
        """Build it on torch's default device, weights drawn from the global generator."""
        return C4Detector(self, num_classes)


class TwoStageDetector(Detector):
    """What both share. The mode decides, as in torchvision: `losses` in training mode, the rest in evaluation mode."""

    rpn: ProposalNetwork
    roi_heads: RoiHeads

    def __init__(self, settings: FasterRcnn | FasterRcnnC4, features: Features) -> None:
        super().__init__()
        self.normalised = Normalise(features.mean, features.std)
        self.backbone = features
        self.settings = settings

    @abstractmethod
    def levels(self, images: Tensor) -> list[Tensor]:
        """Maps [B, C, H_l, W_l] of normalised images [B, 3, H, W], those that RoIs are pooled from first."""

    @abstractmethod
    def head(self, pooled: Tensor, counts: list[int]) -> Tensor:
        """What is classified, [R, F], of pooled RoIs [R, C, S, S], of which each image has `counts`."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Of anchors and RoIs drawn from torch's global generator, each over their number, in float32."""
        real = batch.labels >= 0
        targets = [
            {"boxes": boxes[mask], "labels": labels[mask] + 1}
            for boxes, labels, mask in zip(batch.boxes, batch.labels, real, strict=True)
        ]
        levels, proposals, first = self._propose(batch, targets)
        proposals, matches, labels, offsets = self.roi_heads.select_training_samples(proposals, targets)
        predicted = self._classify(levels, *with_image(proposals), [len(each) for each in proposals])
        classification, bbox_regression = self.roi_heads.losses(*predicted, labels, offsets)
        return {
            "objectness": first["loss_objectness"],
            "proposal_regression": first["loss_rpn_box_reg"],
            "classification": classification,
            "bbox_regression": bbox_regression,
            **self.further_losses(batch, levels, proposals, matches, labels),
        }

    def further_losses(
        self,
        batch: Batch,
        levels: list[Tensor],
        proposals: list[Tensor],
        matches: list[Tensor],
        labels: list[Tensor],
    ) -> dict[str, Tensor]:
        """Losses of what a detector finds beside boxes. Of each image: the drawn proposals [R_i, 4], which of its real
        boxes each matches [R_i] (0 where it has none), and its class [R_i], 0 for the background."""
        return {}

    def candidates(self, batch: Batch, post: PostProcess) -> Candidates:
        """Every pair of proposal and class: `post.per_level`, of dense detectors, does not count."""
        images = self.images(batch)
        return self.candidates_of(images, self.levels(images), batch.sizes)

    def candidates_of(self, images: Tensor, levels: list[Tensor], sizes: Tensor) -> Candidates:
        """The same of normalised images [B, 3, H, W] with valid areas `sizes` [B, 2], and their levels."""
        proposals, real = self.rpn.propose(images, levels, sizes)
        if torch.compiler.is_exporting():  # an exporter cannot follow RoIs whose number hangs on what is seen
            places, counts = _everywhere(real), [real.shape[1]] * len(real)
        else:
            places, counts = real.nonzero(as_tuple=True), real.sum(1).tolist()
        rois = proposals[places]
        logits, deltas = self._classify(levels, rois, places[0], counts)
        found = logits.softmax(1)[:, 1:] * real[places].unsqueeze(1)
        shape = *real.shape, found.shape[1]
        scores = found.new_zeros(shape).index_put(places, found).flatten(1)
        decoded = found.new_zeros(*shape, 4).index_put(places, self.roi_heads.decode(deltas, rois))
        boxes = clip(decoded.flatten(1, 2), sizes)
        labels = torch.arange(shape[2], device=scores.device).expand(shape).flatten(1)
        return Candidates(boxes, scores, labels.masked_fill(shortest(boxes) < SMALLEST, -1))

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Objectness [B, A, H_l, W_l] and offsets [B, 4 A, H_l, W_l] of each level, logits [R, K + 1] and offsets
        [R, 4 (K + 1)] of RoIs, for normalised images [B, 3, H, W].

        The costs of an image with as many proposals as a test allows (`rpn.test.after_nms`). Which boxes they are is
        known from real images only, and the same for costs: pooled RoIs are zeros here.
        """
        levels = self.levels(images)
        objectness, offsets = self.rpn.head(levels)
        count, size = self.settings.rpn.test.after_nms, self.settings.roi.size
        pooled = levels[0].new_zeros(len(images) * count, levels[0].shape[1], size, size)
        logits, deltas = self.roi_heads.box_predictor(self.head(pooled, [count] * len(images)))
        return objectness, offsets, logits, deltas

    @override
    def static_parts(self) -> list[nn.Module]:
        return [part for part in (self.backbone, getattr(self, "neck", None), self.rpn.head) if part is not None]

    @override
    def imagined(self, images: Tensor) -> Tensor:
        levels = self.levels(images)
        objectness, offsets = self.rpn.head(levels)
        logits, deltas = self.roi_heads.box_predictor(self.head(self.imagined_rois(levels), self._drawn(images)))
        found = *objectness, *offsets, logits, deltas
        return torch.stack([each.float().sum() for each in found]).sum()

    def imagined_rois(self, levels: list[Tensor]) -> Tensor:
        """As many pooled RoIs [R, C, S, S] as a step learns from."""
        side, count = self.settings.roi.size, sum(self._drawn(levels[0]))
        return levels[0].new_empty(count, levels[0].shape[1], side, side).requires_grad_()

    def _drawn(self, images: Tensor) -> list[int]:
        return [self.settings.roi.batch] * len(images)

    @override
    def anchor_count(self, images: Tensor) -> int:
        levels = self.levels(images)
        counts = self.settings.rpn.anchors.per_cell(len(levels))
        return sum(level.shape[-2] * level.shape[-1] * count for level, count in zip(levels, counts, strict=True))

    def _propose(
        self, batch: Batch, targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
        """While it trains: the levels, the proposals [P_i, 4] of each image, and the losses of the first stage."""
        images = self.images(batch)
        levels = self.levels(images)
        sizes = [(height, width) for height, width in batch.sizes.tolist()]
        proposals, losses = self.rpn(ImageList(images, sizes), dict(enumerate(levels)), targets)
        return levels, proposals, losses

    def _classify(
        self, levels: Sequence[Tensor], rois: Tensor, images: Tensor, counts: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Logits [R, K + 1] and deltas [R, 4 (K + 1)] of boxes [R, 4] of images [R], `counts` of each, in float32."""
        align = self.roi_heads.box_roi_pool
        pooled = align(levels[: len(align.strides)], rois, images)
        logits, deltas = self.roi_heads.box_predictor(self.head(pooled, counts))
        return logits.float(), deltas.float()


def _everywhere(real: Tensor) -> tuple[Tensor, ...]:
    """Rows and columns of all places of a matrix, in order."""
    rows, columns = (torch.arange(size, device=real.device) for size in real.shape)
    return torch.cartesian_prod(rows, columns).unbind(1)


class FpnDetector(TwoStageDetector):
    """Built from `FasterRcnn` for K = `num_classes` classes."""

    def __init__(self, settings: FasterRcnn, num_classes: int) -> None:
        features: Any = settings.backbone.build()
        super().__init__(settings, features)
        self.neck = settings.neck.build(features.channels, features.strides)
        strides = self.neck.strides
        if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
            raise InputError(f"model: levels at strides {list(strides)}; RoIs need each twice the one before")
        channels = alike("proposals and RoIs", self.neck.channels)
        self.rpn = settings.rpn.build(channels, strides)
        head = TwoMLPHead(channels * settings.roi.size**2, settings.hidden)
        self.roi_heads = settings.roi.build(strides[: len(features.strides)], head, settings.hidden, num_classes)

    def levels(self, images: Tensor) -> list[Tensor]:
        """P2–P6."""
        levels: list[Tensor] = self.neck(self.backbone(images))
        return levels

    def head(self, pooled: Tensor, counts: list[int]) -> Tensor:
        """Two fully connected layers."""
        features: Tensor = self.roi_heads.box_head(pooled)
        return features


class C4Detector(TwoStageDetector):
    """Built from `FasterRcnnC4` for K = `num_classes` classes."""

    backbone: ResNetFeatures

    def __init__(self, settings: FasterRcnnC4, num_classes: int) -> None:
        features = settings.backbone.build()
        super().__init__(settings, features)
        (channels, width), (stride, _) = features.channels, features.strides
        self.rpn = settings.rpn.build(channels, (stride,))
        self.roi_heads = settings.roi.build((stride,), None, width, num_classes)

    def levels(self, images: Tensor) -> list[Tensor]:
        """C4."""
        *trunk, _ = self.backbone.stages
        for stage in trunk:
            images = stage(images)
        return [images]

    def head(self, pooled: Tensor, counts: list[int]) -> Tensor:
        """Stage 5, which stays the backbone's, and the mean over its cells."""
        stage: Any = self.backbone.stages[-1]
        for module in stage.modules():
            if hasattr(module, "rois_per_image"):
                module.rois_per_image = counts
        features: Tensor = stage(pooled)
        return features.mean((2, 3))

    @override
    def static_parts(self) -> list[nn.Module]:
        *trunk, _ = self.backbone.stages
        return [*trunk, self.rpn.head]
