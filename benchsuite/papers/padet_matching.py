"""Positive and negative anchors of PADet (arXiv 1908.03295, section 3.1): matched before and after promotion, the
θ-rule, and the counts of its figures 1 and 2.

Shapes: B images, N anchors, M boxes in an image, P positive anchors of the whole batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from benchsuite.models.boxes import iou
from benchsuite.models.matcher import BACKGROUND, IGNORED, Assignment
from benchsuite.models.together import normaliser

FIRST, WIDTH, BINS = 0.5, 0.05, 10
"""Positives are counted by IoU from .5 on, in so many bins of so much."""


@dataclass(frozen=True)
class Matched:
    """What the anchors of a batch answer for.

    matches  int64 [B, N]  the row of the image's boxes, BACKGROUND or IGNORED
    images   int64 [P]     where the positives are: image …
    places   int64 [P]     … and anchor
    anchors  [P, 4]        the positives
    boxes    [P, 4]        the truth of each
    labels   int64 [P]     its class
    divisor  N_apm or N_d: the positives of the batch, at least 1
    """

    matches: Tensor
    images: Tensor
    places: Tensor
    anchors: Tensor
    boxes: Tensor
    labels: Tensor
    divisor: Tensor | int

    @property
    def overlaps(self) -> Tensor:
        """IoU [P] of each positive with its truth."""
        return iou(self.boxes.unsqueeze(1), self.anchors.unsqueeze(1)).flatten()

    def targets(self) -> Tensor:
        """int64 [B, N]: class of a positive, BACKGROUND, IGNORED."""
        return self.matches.index_put((self.images, self.places), self.labels)


@torch.no_grad()
def match(assignment: Assignment, anchors: Tensor, boxes: Tensor, labels: Tensor) -> Matched:
    """Match anchors [N, 4], or [B, N, 4] where each image has its own, with boxes [B, M, 4] and labels [B, M]."""
    matches = assignment.match(anchors, boxes, labels)
    images, places = torch.nonzero(matches >= 0, as_tuple=True)
    rows = matches[images, places]
    positives = anchors[places] if anchors.ndim == 2 else anchors[images, places]
    divisor = normaliser(len(images))
    return Matched(matches, images, places, positives, boxes[images, rows], labels[images, rows], divisor)


def drop(targets: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """The θ-rule: targets [B, N] in which negatives whose chance to be positive, `scores` [B, N], is below θ are
    ignored. Positives never are."""
    return targets.masked_fill((targets == BACKGROUND) & (scores < threshold), IGNORED)


class Counts(nn.Module):
    """Anchors by what is learnt from them, means over the images of the last batch."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: dict[str, Tensor] = {}

    @override
    @torch.no_grad()
    def forward(self, before: Matched, after: Matched, targets: Tensor) -> None:
        """`before` promotion and `after` it; the targets [B, N] of the detection module: `after` less what θ drops."""
        images = len(targets)
        dropped = (targets == IGNORED) & (after.matches == BACKGROUND)
        self.counted = {
            **_named("before", before, before.matches, images),
            **_named("after", after, targets, images),
            "after_dropped": dropped.sum() / images,
        }
        self.counted["after_ignored"] = self.counted["after_ignored"] - self.counted["after_dropped"]

    def observe(self) -> dict[str, Tensor]:
        """`before_` and `after_`: `positives`, `negatives`, `ignored` (between the two IoU thresholds), `iou_50` …
        `iou_95` (positives with an IoU from there to the next); `after_dropped`: negatives that θ takes out."""
        return self.counted


def _named(name: str, matched: Matched, targets: Tensor, images: int) -> dict[str, Tensor]:
    # A truth's best anchor is positive even below .5, and no bin is for it. The last bin holds IoU 1 as well.
    bins = ((matched.overlaps - FIRST) / WIDTH).floor().clamp(max=BINS - 1)
    counts = (bins.unsqueeze(1) == torch.arange(BINS, device=bins.device)).sum(0) / images
    kinds = {"positives": targets >= 0, "negatives": targets == BACKGROUND, "ignored": targets == IGNORED}
    return {f"{name}_{kind}": chosen.sum() / images for kind, chosen in kinds.items()} | {
        f"{name}_iou_{50 + 5 * place}": count for place, count in enumerate(counts)
    }
