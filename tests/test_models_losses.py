import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.ssd import SSD
from torchvision.ops import sigmoid_focal_loss

from benchsuite.models.losses import FocalLoss, SmoothL1, Softmax
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


# --- softmax and hard negatives


def naive_softmax(logits: Tensor, targets: Tensor, mining: float | None) -> float:
    """Image by image, anchor by anchor."""
    total = 0.0
    for image, wanted in zip(logits.tolist(), targets.tolist(), strict=True):
        positives, negatives = [], []
        for row, target in zip(image, wanted, strict=True):
            loss = math.log(sum(math.exp(x) for x in row)) - row[target + 1 if target >= 0 else 0]
            if target != IGNORED:
                (positives if target >= 0 else negatives).append(loss)
        count = len(negatives) if mining is None else math.ceil(mining * len(positives))
        total += sum(positives) + sum(sorted(negatives, reverse=True)[:count])
    return total


@given(st.integers(0, 10_000), st.sampled_from([None, 1.0, 3.0, 0.5]))
def test_hard_negatives_equal_a_loop_over_images(seed: int, mining: float | None) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 12, 4, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.randint(-2, 3, (3, 12), generator=generator)
    targets[0] = targets[0].clamp(max=BACKGROUND)  # no foreground, so no negatives either
    targets[1, :9] = 2  # fewer negatives than it may have
    ours = Softmax(mining=mining).sum(logits, targets)
    assert ours.item() == pytest.approx(naive_softmax(logits.detach(), targets, mining))
    (gradient,) = torch.autograd.grad(ours, logits)
    assert not gradient[targets == IGNORED].any() and gradient[targets >= 0].abs().sum(-1).all()
    assert mining is None or not gradient[0].any()


@given(st.integers(0, 1000))
def test_hard_negatives_equal_torchvisions_ssd(seed: int) -> None:
    """Its own `compute_loss`, on sparse matches: where too few negatives are left it counts positives twice."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(2, 20, 2, generator=generator)
    anchors = torch.cat((corners, corners + 0.1 + torch.rand(2, 20, 2, generator=generator)), dim=2)[0]
    matches = torch.full((2, 20), -1)
    matches[:, ::5] = torch.randint(-1, 2, (2, 4), generator=generator)
    truth = [{"boxes": anchors[i : i + 2] * 1.1, "labels": torch.tensor([1 + i, 3])} for i in range(2)]
    logits, offsets = torch.randn(2, 20, 5, generator=generator), torch.randn(2, 20, 4, generator=generator)
    reference = SSD.__new__(SSD)
    nn.Module.__init__(reference)
    reference.box_coder, reference.neg_to_pos_ratio = BoxCoder((10.0, 10.0, 5.0, 5.0)), 3
    expected = reference.compute_loss(
        truth, {"bbox_regression": offsets, "cls_logits": logits}, [anchors] * 2, list(matches)
    )
    labels = torch.stack([each["labels"] - 1 for each in truth])
    targets = torch.where(matches >= 0, labels.gather(1, matches.clamp(min=0)), matches)
    count = max(1, int((matches >= 0).sum()))
    torch.testing.assert_close(Softmax(mining=3).sum(logits, targets) / count, expected["classification"])


def test_softmax_of_ssd() -> None:
    """assd.spec 6: with zero logits and three negatives for each positive, the loss is 4 ln 21."""
    targets = torch.full((1, 40), BACKGROUND)
    targets[0, :5] = 7
    loss = Softmax(mining=3).sum(torch.zeros(1, 40, 21), targets) / 5
    assert loss.item() == pytest.approx(4 * math.log(21))
    assert Softmax().scores(torch.zeros(2, 21)).tolist() == [pytest.approx([1 / 21] * 20)] * 2


def test_smooth_l1_meets_at_beta() -> None:
    beta = SmoothL1().beta
    x = torch.tensor([[0.0, beta / 2, beta, 1.0]])
    expected = 0 + beta / 8 + beta / 2 + (1 - beta / 2)
    assert SmoothL1().sum(x, torch.zeros_like(x)).item() == pytest.approx(expected)


@pytest.mark.parametrize("wrong", [{"alpha": 1.1}, {"gamma": -1}, {"delta": 1}])
def test_refuses(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        FocalLoss.model_validate(wrong)
