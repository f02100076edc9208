"""From scored candidate boxes to detections: NMS or Soft-NMS, box voting, the best of each image.

Whole batches at once: candidates are padded tensors, and images and classes are groups of one flat list.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torchvision.ops import batched_nms

from benchsuite.data.batch import Detections
from benchsuite.models.boxes import iou
from benchsuite.models.soft_nms import segments, soft_nms
from benchsuite.settings import Part, Settings

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Nms(Part):
    """Slot: what is done about several boxes on one object."""

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.models", "benchsuite.papers")

    @abstractmethod
    def suppress(self, boxes: Tensor, scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Within each group, a class of an image; boxes [N, 4] xyxy, scores [N], groups int64 [N].

        Returns indices int64 [K] of the kept boxes, in any order, and their new scores [K].
        """


class Hard(Nms):
    """A box that overlaps a better one of its class by more than `iou` is dropped."""

    iou: Fraction = 0.5

    def suppress(self, boxes: Tensor, scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Torchvision's NMS; scores stay as they are."""
        # In double: torchvision may shift each group's boxes apart, and a thousand groups leave floats no fractions.
        dense = torch.unique(groups, return_inverse=True)[1]
        kept = batched_nms(boxes.double(), scores.double(), dense, self.iou)
        return kept, scores[kept]


class Soft(Nms):
    """Soft-NMS (Bodla et al., arXiv 1704.04503): overlap with a picked box lowers the score, by exp(−IoU²/`sigma`) or,
    linear, by 1 − IoU where IoU > `iou`. What falls below `floor` is dropped."""

    method: Literal["gaussian", "linear"] = "gaussian"
    sigma: Positive = 0.5
    iou: Fraction = 0.3
    floor: Positive = 0.001

    def suppress(self, boxes: Tensor, scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Exact Soft-NMS of all groups at once."""
        return soft_nms(boxes, scores, groups, self.decay, self.floor)

    def decay(self, iou: Tensor) -> Tensor:
        """The factor for each IoU; `iou` may be overwritten."""
        if self.method == "gaussian":
            return iou.square_().mul_(-1 / self.sigma).exp_()
        return (1 - iou).masked_fill_(iou <= self.iou, 1)


class Voting(Settings):
    """Box voting (Gidaris and Komodakis, ICCV 2015; HAR-Net section IV-B): a detection moves to the mean
    R = Σ pᵢRᵢ / Σ pᵢ of the candidates of its class that overlap it by at least `iou`, weighted by their scores before
    suppression. Detections choose by falling score, and each candidate votes once.

    choice: `score` "decayed" leaves the suppressed score; "max" (the equation p̃ = max pᵢ) and "mean" replace it by that
    of the votes. Voting looks at the detections that are returned, the best after suppression.
    """

    iou: Fraction = 0.6
    score: Literal["decayed", "max", "mean"] = "decayed"

    def apply(self, found: Detections, boxes: Tensor, scores: Tensor, labels: Tensor) -> Detections:
        """Vote on `found` (B images, D each) with the candidates [B, N, 4], [B, N], [B, N]; label −1 is padding."""
        alike = (found.labels.unsqueeze(2) == labels.unsqueeze(1)) & (labels >= 0).unsqueeze(1)
        allowed = (iou(found.boxes, boxes) >= self.iou) & alike
        voted, choice = allowed.max(1)  # the first detection, so the best, that a candidate may vote for
        weights = scores * voted
        total = torch.zeros_like(found.scores).scatter_add_(1, choice, weights)
        mean = torch.zeros_like(found.boxes).scatter_add_(
            1, choice.unsqueeze(2).expand_as(boxes), boxes * weights.unsqueeze(2)
        ) / total.clamp(min=torch.finfo(total.dtype).tiny).unsqueeze(2)
        moved = total > 0
        new = Detections(torch.where(moved.unsqueeze(2), mean, found.boxes), found.scores, found.labels)
        if self.score == "decayed":
            return new
        if self.score == "max":
            value = torch.zeros_like(found.scores).scatter_reduce_(1, choice, weights, "amax")
        else:
            value = total / torch.zeros_like(total).scatter_add_(1, choice, voted.to(total)).clamp(min=1)
        ranked, order = torch.where(moved, value, found.scores).sort(stable=True, dim=1, descending=True)
        return Detections(
            new.boxes.gather(1, order.unsqueeze(2).expand_as(new.boxes)), ranked, new.labels.gather(1, order)
        )


class PostProcess(Settings):
    """How candidates become detections. Defaults: RetinaNet (Detectron): score above 0.05, the 1000 best candidates of
    each level, NMS at 0.5, 100 detections an image.

    per_level  best (anchor, class) pairs of each level of a dense detector's, before suppression; None: all
    per_class  best candidates of each class of an image, before suppression; None: all
    per_image  detections of an image, after it
    """

    score_threshold: Fraction = 0.05
    per_level: Count | None = 1000
    per_class: Count | None = None
    nms: Nms = Hard()
    vote: Voting | None = None
    per_image: Count = 100


@dataclass(frozen=True)
class Candidates:
    """What the detections of B images are chosen from: N boxes each, how many hangs on the images' size alone.

    boxes  [B, N, 4] xyxy in pixels of the batch's resized images, cut at their edges
    scores [B, N]
    labels int64 [B, N]  0-based class, -1 for padding
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def select(candidates: Candidates, post: PostProcess) -> Detections:
    """The detections: exactly `post.per_image` rows an image, sorted by falling score, padded. Candidates at or below
    the score threshold are as padding."""
    boxes, scores = candidates.boxes.float(), candidates.scores.float()
    labels = torch.where(scores > post.score_threshold, candidates.labels, -1)
    images, places = (labels >= 0).nonzero(as_tuple=True)
    groups = images << 32 | labels[images, places]  # one number for each pair of image and class
    if post.per_class is not None:
        order, rank = segments(scores[images, places], groups)
        best = order[rank < post.per_class].sort().values
        images, places, groups = images[best], places[best], groups[best]
    chosen, classes = boxes[images, places], labels[images, places]
    kept, values = post.nms.suppress(chosen, scores[images, places], groups)
    order, rank = segments(values, images[kept])
    best = rank < post.per_image
    kept, values = kept[order[best]], values[order[best]]
    cells = images[kept], rank[best]
    shape = len(boxes), post.per_image
    found = Detections(
        boxes.new_zeros(*shape, 4).index_put_(cells, chosen[kept]),
        scores.new_zeros(shape).index_put_(cells, values),
        labels.new_full(shape, -1).index_put_(cells, classes[kept]),
    )
    return found if post.vote is None else post.vote.apply(found, boxes, scores, labels)
