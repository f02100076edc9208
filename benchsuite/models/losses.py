"""Losses of dense detectors on padded batches. B images, N anchors, K classes, P foreground anchors in the batch."""

from abc import abstractmethod
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy, smooth_l1_loss, softplus
from typing_extensions import override

from benchsuite.models.matcher import BACKGROUND, IGNORED
from benchsuite.settings import Part

PART = 2**18
"""Logits that are worked on together on a CPU: a megabyte of float32."""


class ClassLoss(Part):
    """Slot: how classes are learnt, and read from logits. `background`: logits have a column for it, the first."""

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.models", "benchsuite.papers")
    background: ClassVar[bool]

    @abstractmethod
    def sum(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Summed over images, anchors and classes, scalar.

        logits [B, N, K], or [B, N, K + 1] with background; targets int64 [B, N]: class 0 … K - 1 of a foreground
        anchor, BACKGROUND, or IGNORED (does not count).
        """

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor:
        """Probabilities [..., K] of the foreground classes."""


class FocalLoss(ClassLoss):
    """-α_t (1 - p_t)^γ ln p_t on sigmoids (RetinaNet, eq. 5)."""

    background: ClassVar[bool] = False

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.25
    gamma: NonNegativeFloat = 2.0

    def sum(self, logits: Tensor, targets: Tensor) -> Tensor:
        """In one pass over the logits."""
        total: Tensor = _Focal.apply(logits.flatten(0, -2), targets.flatten(), self.alpha, self.gamma)
        return total

    @override
    def scores(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()


class Softmax(ClassLoss):
    """-ln p of the wanted class, the background being one (SSD, Liu et al., ECCV 2016, eq. 3).

    With `mining`, only that many times as many background anchors count as there are foreground anchors, in each image:
    those with the highest losses (sec. 2.2 "Hard negative mining"; 3 there). So an image without any counts none.
    """

    background: ClassVar[bool] = True
    mining: PositiveFloat | None = None

    def sum(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Anchors that do not count are left out."""
        # column 0 is the background, so that BACKGROUND is 0 and IGNORED is -1
        losses = cross_entropy(logits.flatten(0, 1), targets.flatten() + 1, ignore_index=IGNORED + 1, reduction="none")
        losses = losses.view(targets.shape)
        if self.mining is None:
            return losses.sum()
        foreground = targets >= 0
        wanted = foreground.sum(1, keepdim=True) * self.mining
        hardest = losses.masked_fill(targets != BACKGROUND, 0).sort(dim=1, descending=True, stable=True).values
        rank = torch.arange(targets.shape[1], device=targets.device)
        return losses.masked_fill(~foreground, 0).sum() + hardest.masked_fill(rank >= wanted, 0).sum()

    def scores(self, logits: Tensor) -> Tensor:
        """Of all classes and the background together, less the background's."""
        return logits.softmax(-1)[..., 1:]


class BoxLoss(Part):
    """Slot: how far offsets are from where they should be."""

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.models", "benchsuite.papers")

    @abstractmethod
    def sum(self, offsets: Tensor, targets: Tensor) -> Tensor:
        """Summed over offsets [P, 4] and their targets [P, 4], scalar. Rows that are zero in both, those of anchors
        that are no foreground, count nothing."""


class SmoothL1(BoxLoss):
    """x² / 2β for |x| < β, else |x| - β/2 (Fast R-CNN, eq. 3; β as in Detectron); |x| where β is 0."""

    beta: NonNegativeFloat = 0.11

    @override
    def sum(self, offsets: Tensor, targets: Tensor) -> Tensor:
        return smooth_l1_loss(offsets, targets, beta=self.beta, reduction="sum")


class _Focal(torch.autograd.Function):
    """Nearly every target of a dense detector is 0, so every element is first counted as a negative, without a target
    tensor; then one element an anchor is put right. The gradient is made in the same pass over the logits. All shapes
    are known beforehand, so that nobody waits for a GPU to count positives."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
        with_gradient = ctx.needs_input_grad[0]
        counted = (targets != IGNORED).to(logits.dtype).unsqueeze(1)
        total, gradient = _negatives(logits, (1 - alpha) * counted, gamma, with_gradient)

        foreground = (targets >= 0).unsqueeze(1)
        classes = targets.clamp(min=0).unsqueeze(1)  # of background the first one, which stays as it is
        wanted, weight = logits.gather(1, classes), foreground.to(logits.dtype)
        # the loss of a positive with logit x is the loss of a negative with logit -x
        loss, slope = _negatives(-wanted, alpha * weight, gamma, with_gradient)
        total += loss - _negatives(wanted, (1 - alpha) * weight, gamma, False)[0]
        if gradient is not None and slope is not None:
            gradient.scatter_(1, classes, torch.where(foreground, -slope, gradient.gather(1, classes)))
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * scale, None, None, None


def _negatives(logits: Tensor, weight: Tensor, gamma: float, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Sum of weight · p^γ · s, where p = sigmoid(x) and s = softplus(x) = -ln(1 - p), and its derivative
    weight · p^γ (γ (1 - p) s + p); logits [N, K], weight [N, 1].

    On a CPU part by part: what lies in between then stays in its cache, and the logits are read once.
    """
    gradient = torch.empty_like(logits) if with_gradient else None
    rows = max(1, PART // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    parts = (torch.split(each, rows) for each in (logits, weight, logits if gradient is None else gradient))
    totals = [_negatives_of_part(x, w, gamma, out if with_gradient else None) for x, w, out in zip(*parts, strict=True)]
    return torch.stack(totals).sum(), gradient


def _negatives_of_part(logits: Tensor, weight: Tensor, gamma: float, gradient: Tensor | None) -> Tensor:
    """The sum; the derivative is written into `gradient`, where there is one."""
    p = logits.sigmoid()
    # the default threshold of 20 would cost 2e-9
    s = softplus(logits, threshold=40)
    modulation = p.pow(gamma).mul_(weight)
    total = (modulation * s).sum()
    if gradient is not None:
        torch.mul(s.addcmul_(s, p, value=-1).mul_(gamma).add_(p), modulation, out=gradient)
    return total
