"""Losses of dense detectors on padded batches. B images, A anchors, K classes, P foreground anchors in the batch."""

from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import smooth_l1_loss, softplus

from benchsuite.models.matcher import IGNORED
from benchsuite.settings import Settings


class FocalLoss(Settings):
    """-α_t (1 - p_t)^γ ln p_t on sigmoids (RetinaNet, eq. 5)."""

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.25
    gamma: NonNegativeFloat = 2.0

    def sum(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Summed over anchors and classes, scalar.

        logits [..., K]; targets int64 [...]: class of a foreground anchor, BACKGROUND, or IGNORED (does not count).
        """
        total: Tensor = _Focal.apply(logits.flatten(0, -2), targets.flatten(), self.alpha, self.gamma)
        return total


class SmoothL1(Settings):
    """x² / 2β for |x| < β, else |x| - β/2 (Fast R-CNN, eq. 3; β as in Detectron); |x| where β is 0."""

    beta: NonNegativeFloat = 0.11

    def sum(self, offsets: Tensor, targets: Tensor) -> Tensor:
        """Summed over offsets [P, 4] and their targets [P, 4], scalar."""
        return smooth_l1_loss(offsets, targets, beta=self.beta, reduction="sum")


class _Focal(torch.autograd.Function):
    """Nearly every target of a dense detector is 0, so every element is first counted as a negative, without a target
    tensor; then the few elements that are not are put right. The gradient is made in the same pass over the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
        with_gradient = ctx.needs_input_grad[0]
        total, gradient = _negatives(logits, 1 - alpha, gamma, with_gradient)

        ignored = torch.nonzero(targets == IGNORED).squeeze(1)
        total -= _negatives(logits[ignored], 1 - alpha, gamma, False)[0]

        anchors = torch.nonzero(targets >= 0).squeeze(1)
        classes = targets[anchors]
        positives = logits[anchors, classes]
        total -= _negatives(positives, 1 - alpha, gamma, False)[0]
        # the loss of a positive with logit x is the loss of a negative with logit -x
        loss, slope = _negatives(-positives, alpha, gamma, with_gradient)
        total += loss
        if gradient is not None and slope is not None:
            gradient[ignored] = 0
            gradient[anchors, classes] = -slope
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * scale, None, None, None


def _negatives(logits: Tensor, weight: float, gamma: float, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Sum of weight · p^γ · s, where p = sigmoid(x) and s = softplus(x) = -ln(1 - p), and its derivative
    weight · p^γ (γ (1 - p) s + p)."""
    p = logits.sigmoid()
    # the default threshold of 20 would cost 2e-9
    s = softplus(logits, threshold=40)
    modulation = p.pow(gamma).mul_(weight)
    total = (modulation * s).sum()
    if not with_gradient:
        return total, None
    return total, s.addcmul_(s, p, value=-1).mul_(gamma).add_(p).mul_(modulation)
