import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from benchsuite.models.losses import FocalLoss, SmoothL1
from benchsuite.models.matcher import BACKGROUND, IGNORED

PRIOR = -math.log(99)


def focal(logit: float, target: int) -> float:
    return FocalLoss().sum(torch.tensor([[float(logit)]]), torch.tensor([target])).item()


def test_values_of_har_net() -> None:
    assert focal(0, 0) == pytest.approx(0.0433217, abs=1e-7)
    assert focal(0, BACKGROUND) == pytest.approx(0.1299651, abs=1e-7)
    assert pytest.approx(-4.59512, abs=1e-5) == PRIOR
    assert focal(PRIOR, 0) == pytest.approx(1.128382, abs=1e-6)
    assert focal(PRIOR, BACKGROUND) == pytest.approx(7.5377e-7, abs=1e-11)
    assert focal(0, IGNORED) == 0


def reference(logits: Tensor, targets: Tensor, settings: FocalLoss) -> Tensor:
    counted = targets != IGNORED
    wanted = torch.nn.functional.one_hot((targets + 1).clamp(min=0), logits.shape[-1] + 1)[..., 1:].to(logits)
    loss: Tensor = sigmoid_focal_loss(logits[counted], wanted[counted], settings.alpha, settings.gamma, "sum")
    return loss


@given(st.integers(0, 10_000), st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.7]), st.floats(0.1, 5))
def test_equals_torchvision_with_gradient(seed: int, alpha: float, gamma: float, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    settings = FocalLoss(alpha=alpha, gamma=gamma)
    logits = (torch.randn(2, 7, 5, generator=generator, dtype=torch.float64) * spread).requires_grad_()
    targets = torch.randint(-2, 5, (2, 7), generator=generator)
    ours, theirs = settings.sum(logits, targets), reference(logits, targets, settings)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(ours * 3, logits)
    (expected,) = torch.autograd.grad(theirs * 3, logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_single_precision() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 1000, 80) - 4.6, torch.randint(-2, 80, (4, 1000))
    ours, exact = FocalLoss().sum(logits, targets), reference(logits.double(), targets, FocalLoss())
    assert ours.item() == pytest.approx(exact.item(), rel=1e-6)


def test_stays_finite() -> None:
    logits = torch.tensor([[1e4, -1e4], [1e4, -1e4]], requires_grad=True)
    loss = FocalLoss().sum(logits, torch.tensor([1, BACKGROUND]))
    torch.autograd.backward(loss)
    assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


def test_no_gradient_where_nobody_wants_one() -> None:
    assert not FocalLoss().sum(torch.zeros(3, 2), torch.tensor([0, 1, -1])).requires_grad


def test_smooth_l1_meets_at_beta() -> None:
    beta = SmoothL1().beta
    x = torch.tensor([[0.0, beta / 2, beta, 1.0]])
    expected = 0 + beta / 8 + beta / 2 + (1 - beta / 2)
    assert SmoothL1().sum(x, torch.zeros_like(x)).item() == pytest.approx(expected)


@pytest.mark.parametrize("wrong", [{"alpha": 1.1}, {"gamma": -1}, {"delta": 1}])
def test_refuses(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        FocalLoss.model_validate(wrong)
