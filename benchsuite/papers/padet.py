"""PADet: Tang, Liu, Li and Hu, "PosNeg-Balanced Anchors with Aligned Features for Single-Shot Object Detection",
arXiv 1908.03295.

    sec. 3, fig. 3         padet_decoder.py; the anchors: SCALES, RATIOS and models/default_boxes.py
    sec. 3 "… Matching"    models/matcher.py OneToOne, padet_matching.py
    sec. 3.1               Scoring (APM_C), Adjustment (APM_R), Apm; the θ-rule: padet_matching.py drop
    sec. 3.2, fig. 5       Implicit, Explicit, Disentangled; padet_alignment.py Fam
    sec. 3.3               LevelHead, PADet, PADetDetector (loss, inference)
    fig. 1, 2, 4           padet_matching.py Counts, padet_balance.py, padet_maps.py

Shapes: B images, K classes, A anchors in a cell, N anchors of all levels together, P_i a map of the decoder
[B, C, H, W]. Of the APM: p [B, N] an anchor's chance to be positive, x [B, N, 4] its adjustment (dx, dy, dw, dh), X_l
and X_s [B, 2A, H, W] the dx, dy and the dw, dh of x as maps. Of the head: c [B, N, K + 1] classes, the first the
background, t [B, N, 4] the box.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, model_validator
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from typing_extensions import override

from benchsuite.data.batch import Batch
from benchsuite.models.anchors import Anchors
from benchsuite.models.boxes import BoxCoder, clip
from benchsuite.models.default_boxes import DefaultBoxes
from benchsuite.models.dense import best_pairs, by_anchor
from benchsuite.models.detector import Backbone, Detector, Model
from benchsuite.models.fpn import Neck
from benchsuite.models.losses import BoxLoss, ClassLoss, SmoothL1, Softmax
from benchsuite.models.matcher import IGNORED, Assignment, OneToOne
from benchsuite.models.normalise import Normalise
from benchsuite.models.postprocess import Candidates, PostProcess
from benchsuite.models.vgg import Vgg
from benchsuite.papers.padet_alignment import KERNEL, DisentangledOffsets, ExplicitOffsets, Fam, ImplicitOffsets, Read
from benchsuite.papers.padet_decoder import EncoderDecoder, cbr, msra
from benchsuite.papers.padet_matching import Counts, Matched, drop, match
from benchsuite.settings import Part, Settings, Switch

SCALES = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
RATIOS = ((2.0, 3.0),) * 4 + ((2.0,),) * 2
"""Anchors for 384×384: six ratios on D_1 … D_4, four on D_5 and D_6 (sec. 3). choice: the scales are SSD's for COCO,
the second 1 is its geometric mean of two scales, nothing is clipped."""


def predictor(in_channels: int, channels: int) -> nn.Conv2d:
    """The 3×3 convolution that predicts something at every cell."""
    return msra(nn.Conv2d(in_channels, channels, 3, padding=1))


# Section 3.1: the Anchor Promotion Module


class Scoring(Settings):
    """APM_C: every anchor's chance to be positive. `threshold` is θ: what falls below it is no detection, and as a
    negative not learnt from.

    choice: p starts at `prior`, ½, where θ drops nothing yet; RetinaNet's 0.01 would drop half of all from the start.
    """

    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.01
    prior: Annotated[float, Field(gt=0, lt=1)] = 0.5


class Adjustment(Settings):
    """APM_R: every anchor is moved and reshaped before it is matched again."""


class Apm(nn.Module):
    """What the APM says of the anchors of one level: logits of p [B, A, H, W], and x [B, 4A, H, W]."""

    def __init__(self, channels: int, anchors: int, scoring: Scoring | None, adjustment: Adjustment | None) -> None:
        super().__init__()
        self.score = None
        if scoring is not None:
            self.score = predictor(channels, anchors)
            nn.init.constant_(self.score.get_parameter("bias"), math.log(scoring.prior / (1 - scoring.prior)))
        self.adjust = None if adjustment is None else predictor(channels, 4 * anchors)

    @override
    def forward(self, level: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Of P_i; None for the branch that is absent."""
        return None if self.score is None else self.score(level), None if self.adjust is None else self.adjust(level)


# Section 3.2: the Feature Alignment Module


class Offsets(Part):
    """Slot: what the offsets ΔD of the deformable convolution are learnt from (fig. 5), shared by a cell's anchors.

    choice: its convolutions start at 0, so that the FAM starts as an ordinary one; or from N(0, `std`²).
    """

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.papers",)
    guided: ClassVar[bool] = True
    std: NonNegativeFloat = 0.0

    @abstractmethod
    def build(self, channels: int, anchors: int) -> nn.Module:
        """What maps features [B, C, H, W] and x [B, 4A, H, W] to offsets [B, 2K, H, W]: dy, dx of each point of the
        kernel, row by row, in cells."""

    def conv(self, in_channels: int, out_channels: int, kernel: int) -> nn.Conv2d:
        """F or G, which keeps the map's size."""
        # The generator is put back, so that a seed gives all rows of a table the same weights in the same layers.
        with torch.random.fork_rng(devices=()):
            conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
            nn.init.normal_(conv.weight, std=self.std)
        nn.init.zeros_(conv.get_parameter("bias"))
        return conv


class Implicit(Offsets):
    """(a) ΔD = F(X): a 3×3 convolution of the features themselves, as in Deformable ConvNets."""

    guided: ClassVar[bool] = False

    @override
    def build(self, channels: int, anchors: int) -> ImplicitOffsets:
        return ImplicitOffsets(self.conv(channels, 2 * KERNEL, 3))


class Guided(Offsets):
    """From what the APM makes of the anchors. choice: 1×1 convolutions with bias (as Guided Anchoring has them), and
    gradients pass (`detach` stops them before the APM)."""

    kernel: Literal[1, 3] = 1
    detach: bool = False


class Explicit(Guided):
    """(b) ΔD = F(X_l), F(X_s) or F(X_l; X_s): one convolution of one part of x, or of both."""

    of: Read = "both"

    @override
    def build(self, channels: int, anchors: int) -> ExplicitOffsets:
        read = (4 if self.of == "both" else 2) * anchors
        return ExplicitOffsets(self.conv(read, 2 * KERNEL, self.kernel), self.of, self.detach)


class Disentangled(Guided):
    """(c) ΔD = c + Δs = F(X_l) + G(X_s): where the kernel is, and its points about there."""

    @override
    def build(self, channels: int, anchors: int) -> DisentangledOffsets:
        location = self.conv(2 * anchors, 2, self.kernel)
        return DisentangledOffsets(location, self.conv(2 * anchors, 2 * KERNEL, self.kernel), self.detach)


# Section 3.3: detection head, loss, inference


class LevelHead(nn.Module):
    """CBR3, the FAM (or what stands in its place), and two sibling predictors, for one level."""

    def __init__(self, settings: "PADet", aligned: bool, channels: int, anchors: int, outputs: int) -> None:
        super().__init__()
        self.cbr = cbr(3, channels, channels)
        alignment = settings.alignment if aligned else None
        self.fam = None
        if alignment is not None or settings.unaligned == "conv":
            self.fam = Fam(channels, None if alignment is None else alignment.build(channels, anchors))
        self.cls_logits = predictor(channels, anchors * outputs)
        self.bbox_regression = predictor(channels, anchors * 4)

    @override
    def forward(self, level: Tensor, adjusted: Tensor | None) -> tuple[Tensor, Tensor]:
        """c [B, A(K + 1), H, W] and t [B, 4A, H, W] of P_i and x [B, 4A, H, W]."""
        features = self.cbr(level)
        if self.fam is not None:
            features = self.fam(features, adjusted)
        return self.cls_logits(features), self.bbox_regression(features)


@dataclass(frozen=True)
class Predictions:
    """p's logits [B, N], x [B, N, 4], c's logits [B, N, K + 1] and t [B, N, 4], and the (H, W) of each level. Without
    APM_C there is no p, without APM_R no x."""

    p: Tensor | None
    x: Tensor | None
    c: Tensor
    t: Tensor
    maps: tuple[tuple[int, int], ...]


class PADet(Model):
    """The whole detector; without `scoring`, `adjustment` and `alignment` it is the baseline.

    unaligned         what stands where the FAM does not. choice: the same convolution without offsets, so that rows of
                      Tables 1 and 2 differ in offsets only; "identity" leaves it out
    unaligned_levels  how many of the coarsest levels have no FAM (sec. 3.3)
    apm_shared        levels with as many anchors share an APM. choice: none does, as none shares a detection head
    """

    backbone: Backbone = Vgg(levels=("conv4", "conv5"))
    neck: Neck = EncoderDecoder()
    anchors: Anchors = DefaultBoxes(scales=SCALES, ratios=RATIOS)
    coder: BoxCoder = BoxCoder(variances=(0.1, 0.1, 0.2, 0.2))
    assignment: Assignment = OneToOne(positive=0.5, negative=0.3, strict=True)
    scoring: Scoring | None = None
    adjustment: Adjustment | None = None
    alignment: Offsets | None = None
    unaligned: Literal["conv", "identity"] = "conv"
    unaligned_levels: Annotated[int, Field(ge=0)] = 2
    apm_shared: Switch = None
    classification: ClassLoss = Softmax()
    bbox_regression: BoxLoss = SmoothL1(beta=1.0)

    @model_validator(mode="after")
    def _guided(self) -> Self:
        if self.alignment is not None and self.alignment.guided and self.adjustment is None:
            raise ValueError(
                f"alignment {self.alignment.kind()} reads what APM_R predicts, and there is none; "
                "set `adjustment: {}` or take padet.Implicit"
            )
        return self

    @override
    def build(self, num_classes: int) -> "PADetDetector":
        return PADetDetector(self, num_classes)


class PADetDetector(Detector):
    """Built from `PADet` for K = `num_classes` classes."""

    def __init__(self, settings: PADet, num_classes: int) -> None:
        super().__init__()
        backbone: Any = settings.backbone.build()
        self.settings, self.outputs = settings, num_classes + settings.classification.background
        self.normalised = Normalise(backbone.mean, backbone.std)
        self.backbone = backbone
        self.neck = settings.neck.build(backbone.channels, backbone.strides)
        self.per_cell = settings.anchors.per_cell(len(self.neck.strides))
        levels = list(zip(self.neck.channels, self.per_cell, strict=True))
        aligned = len(levels) - settings.unaligned_levels
        self.heads = nn.ModuleList(
            LevelHead(settings, level < aligned, width, count, self.outputs)
            for level, (width, count) in enumerate(levels)
        )
        # Last, as rows differ in it: they keep the same weights before it.
        apms = [Apm(width, count, settings.scoring, settings.adjustment) for width, count in levels]
        of_count = dict(zip(self.per_cell, apms, strict=True))
        self.apms = nn.ModuleList([of_count[count] for count in self.per_cell] if settings.apm_shared else apms)
        self.counts = Counts()

    @override
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """L(p, x, c, t) of sec. 3.3, its four terms by name, in float32."""
        found, anchors = self.predict(batch)
        return self.losses_of(found, anchors, batch.boxes, batch.labels)

    def losses_of(self, found: Predictions, anchors: Tensor, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The losses of predictions at initial anchors [N, 4] for boxes [B, M, 4] and labels [B, M]."""
        model = self.settings
        before = after = match(model.assignment, anchors, boxes, labels)
        losses = {}
        # (1 / N_apm) (L_b(p, [y ≥ 1]) + [y ≥ 1] L_r(x, g))
        if found.p is not None:
            counted = before.matches != IGNORED
            positive = (before.matches >= 0).float()
            losses["apm_classification"] = (
                binary_cross_entropy_with_logits(found.p, positive, counted.float(), reduction="sum") / before.divisor
            )
        if found.x is not None:
            losses["apm_bbox_regression"] = self._box_loss(found.x, before)
            # No gradient reaches x through the anchors that it makes.
            after = match(model.assignment, model.coder.decode(found.x.detach(), anchors), boxes, labels)
        # (1 / N_d) (L_cls(c, y) + [y ≥ 1] L_r(t, g)): the same rules, now for promoted anchors
        targets = after.targets()
        if found.p is not None and model.scoring is not None:
            targets = drop(targets, found.p.sigmoid(), model.scoring.threshold)
        self.counts(before, after, targets)
        losses["classification"] = model.classification.sum(found.c, targets) / after.divisor
        losses["bbox_regression"] = self._box_loss(found.t, after)
        return losses

    def _box_loss(self, offsets: Tensor, matched: Matched) -> Tensor:
        wanted = self.settings.coder.encode(matched.boxes, matched.anchors)
        predicted = offsets[matched.images, matched.places]
        return self.settings.bbox_regression.sum(predicted, wanted) / matched.divisor

    @override
    def candidates(self, batch: Batch, post: PostProcess) -> Candidates:
        """Every promoted anchor whose p reaches θ, refined, with every class."""
        found, anchors = self.predict(batch)
        model = self.settings
        scores = model.classification.scores(found.c)
        if found.p is not None and model.scoring is not None:
            scores = scores * (found.p.sigmoid() >= model.scoring.threshold).unsqueeze(-1)
        promoted = anchors if found.x is None else model.coder.decode(found.x, anchors)
        levels = scores.split_with_sizes(self.cells(found.maps), dim=1)
        best = best_pairs(levels, found.t, promoted, model.coder, post)
        return replace(best, boxes=clip(best.boxes, batch.sizes))

    def cells(self, maps: Sequence[tuple[int, int]]) -> list[int]:
        """Anchors of each level whose map has (H, W) cells."""
        return [height * width * count for (height, width), count in zip(maps, self.per_cell, strict=True)]

    @override
    def forward(self, images: Tensor) -> Predictions:
        """Of normalised images [B, 3, H, W]."""
        levels = self.neck(self.backbone(images))
        p, x, c, t = [], [], [], []
        for level, apm, head in zip(levels, self.apms, self.heads, strict=True):
            score, adjusted = apm(level)
            logits, offsets = head(level, adjusted)
            c.append(by_anchor(logits, self.outputs))
            t.append(by_anchor(offsets, 4))
            p += [] if score is None else [by_anchor(score, 1).squeeze(-1)]
            x += [] if adjusted is None else [by_anchor(adjusted, 4)]
        maps = tuple((level.shape[-2], level.shape[-1]) for level in levels)
        return Predictions(joined(p) if p else None, joined(x) if x else None, joined(c), joined(t), maps)

    @override
    def static_parts(self) -> list[nn.Module]:
        return [*super().static_parts(), *self.apms, *self.heads]

    @override
    def imagined(self, images: Tensor) -> Tensor:
        found: Predictions = self(images)
        loss = self.settings.classification.sum(found.c, torch.zeros_like(found.c[..., 0], dtype=torch.long))
        if found.p is not None:
            loss = loss + binary_cross_entropy_with_logits(found.p, torch.zeros_like(found.p), reduction="sum")
        return torch.stack([loss, *(each.sum() for each in (found.t, found.x) if each is not None)]).sum()

    @override
    def anchor_count(self, images: Tensor) -> int:
        found: Predictions = self(images)
        return found.t.shape[1]

    def predict(self, batch: Batch) -> tuple[Predictions, Tensor]:
        """For a batch: predictions and the initial anchors [N, 4]."""
        found: Predictions = self(self.images(batch))
        frame = batch.images.shape[-2], batch.images.shape[-1]
        return found, self.settings.anchors.grid(found.maps, self.neck.strides, frame, found.t.device)


def joined(levels: list[Tensor]) -> Tensor:
    """Predictions [B, N_i, …] of each level as one [B, N, …], in float32."""
    return torch.cat(levels, dim=1).float()
