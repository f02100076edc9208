"""Entropy pooling, its range, and the maximum behind a low-pass filter; cat.spec 1 and 7."""

import math
from itertools import product
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from benchsuite.papers.cat_pooling import Over, blurred_maxima, entropy, gaussian, min_max

OVERS: tuple[Over, ...] = get_args(Over)
TAPS = gaussian(5, 1.1)


def blurred_max(x: Tensor, taps: Tensor, over: Over) -> Tensor:
    (pooled,) = blurred_maxima(x, taps, (over,))
    return pooled


def laid_out(values: Tensor, over: Over) -> Tensor:
    """Values [N] as what is pooled: an image of one channel, or of one position."""
    return values.view(1, 1, 1, -1) if over == "positions" else values.view(1, -1, 1, 1)


def memory_formats(x: Tensor) -> list[Tensor]:
    return [x, x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)]


@pytest.mark.parametrize("over", OVERS)
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        *((torch.full((n,), 0.37), math.log(n)) for n in (49, 196, 784, 3136, 256, 2048)),
        (torch.tensor([0.0, 1e4, 0.0, 0.0]), 0.0),
        (torch.tensor([1e4, 0.0, 1e4]), 0.6931),
        (torch.tensor([4.0, 2.0, 1.0, 1.0]).log(), 1.2130),
    ],
)
def test_known_entropies(values: Tensor, expected: float, over: Over) -> None:
    found = entropy(laid_out(values, over), over)
    assert found.shape == (1, 1, 1, 1)
    assert found.item() == pytest.approx(expected, abs=5e-5)


def test_uniform_maps_give_the_printed_numbers() -> None:
    found = [entropy(torch.zeros(1, 1, n, n), "positions").item() for n in (7, 14, 28, 56)]
    assert found == pytest.approx([3.8918, 5.2781, 6.6644, 8.0507], abs=5e-5)
    found = [entropy(torch.zeros(1, n, 1, 1), "channels").item() for n in (256, 2048)]
    assert found == pytest.approx([5.5452, 7.6246], abs=5e-5)


@pytest.mark.parametrize("spread", [0.1, 0.3])
def test_entropy_of_noise(spread: float) -> None:
    torch.manual_seed(0)
    found = entropy(spread * torch.randn(4, 8, 64, 64), "positions")
    assert (math.log(4096) - found).mean().item() == pytest.approx(spread**2 / 2, rel=0.05)


def naive_entropy(x: Tensor, over: Over) -> Tensor:
    """Eqs. 3 and 6 in double precision, one distribution after the other."""
    images, channels, height, width = x.shape
    if over == "positions":
        found = [[_of(x[b, c].flatten()) for c in range(channels)] for b in range(images)]
        return torch.tensor(found, dtype=torch.double).view(images, channels, 1, 1)
    found = [[_of(x[b, :, i, j]) for i, j in product(range(height), range(width))] for b in range(images)]
    return torch.tensor(found, dtype=torch.double).view(images, 1, height, width)


def _of(values: Tensor) -> float:
    p = values.double().softmax(0)
    return -sum(each * math.log(each) for each in p.tolist() if each > 0)


@pytest.mark.parametrize("over", OVERS)
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_entropy_equals_the_equation(over: Over, offset: float) -> None:
    torch.manual_seed(0)
    x = 3 * torch.randn(2, 6, 5, 3) + offset
    for each in memory_formats(x):
        torch.testing.assert_close(entropy(each, over).double(), naive_entropy(x, over), rtol=0, atol=2e-6)


@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40),
    shift=st.sampled_from([0.0, 1e3, -1e5]),
    over=st.sampled_from(OVERS),
)
@settings(deadline=None)
def test_entropy_lies_between_0_and_log_n(values: list[float], shift: float, over: Over) -> None:
    x = laid_out(torch.tensor(values), over).requires_grad_()
    found = entropy(x + shift, over)
    assert 0 <= found.item() <= math.log(len(values)) + 1e-5
    (slope,) = torch.autograd.grad(found.sum(), x)
    assert torch.isfinite(slope).all() and abs(slope.sum().item()) < 1e-5  # a shift changes nothing


@pytest.mark.parametrize("over", OVERS)
def test_gradients(over: Over) -> None:
    torch.manual_seed(0)
    for x in memory_formats(torch.randn(2, 3, 5, 4, dtype=torch.double)):
        leaf = x.detach().requires_grad_()
        assert gradcheck(lambda x: entropy(x, over), (leaf,))
        assert gradcheck(lambda x: blurred_max(x, TAPS, over), (leaf,))
        assert gradcheck(lambda x: blurred_maxima(x, TAPS, OVERS), (leaf,))


@pytest.mark.parametrize("over", OVERS)
def test_bfloat16_is_pooled_in_float32(over: Over) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 32, 8, 8).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = entropy(x, over)
    assert found.dtype is torch.float
    assert torch.equal(found, entropy(x.float(), over))
    (slope,) = torch.autograd.grad(found.square().sum(), x)
    assert slope.dtype is torch.bfloat16 and slope.any()


def test_entropy_keeps_only_its_input_and_small_maps() -> None:
    kept: list[Tensor] = []
    x = torch.randn(1, 16, 32, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        found = entropy(x, "positions") + blurred_max(x, TAPS, "positions")
    large = {tensor.data_ptr() for tensor in kept if tensor.numel() >= x.numel()}
    assert found.shape == (1, 16, 1, 1) and large == {x.data_ptr()}


def test_range_of_each_image() -> None:
    torch.manual_seed(0)
    pooled = torch.randn(3, 1, 4, 5)
    found = min_max(pooled)
    assert found.amin((1, 2, 3)).tolist() == [0, 0, 0] and found.amax((1, 2, 3)).tolist() == [1, 1, 1]
    assert torch.equal(min_max(pooled[1:2]), found[1:2])
    assert not min_max(torch.full((2, 7, 1, 1), 3.25)).any()


def test_taps() -> None:
    assert TAPS.tolist() == pytest.approx([0.07077, 0.24446, 0.36955, 0.24446, 0.07077], abs=5e-6)
    impulse = torch.zeros(1, 1, 9, 9)
    impulse[0, 0, 4, 4] = 1
    assert blurred_max(impulse, TAPS, "positions").item() == pytest.approx(0.36955, abs=5e-6)
    assert blurred_max(impulse, TAPS, "channels")[0, 0, 4, 4].item() == pytest.approx(0.13656, abs=5e-6)


def naive_blur(x: Tensor, dim: int) -> Tensor:
    """Tap by tap, the edges repeated."""
    size = x.shape[dim]
    out = torch.zeros_like(x)
    for place in range(size):
        for tap, weight in enumerate(TAPS.tolist()):
            out.select(dim, place).add_(weight * x.select(dim, min(max(place + tap - 2, 0), size - 1)))
    return out


@pytest.mark.parametrize("size", [(9, 7), (1, 1), (2, 3), (1, 8)])
def test_maxima_behind_the_filter(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, *size)
    rows = naive_blur(x, 2)
    for each in memory_formats(x):
        for leaf in (each, each.detach().requires_grad_()):  # the two ways of finding a maximum
            torch.testing.assert_close(blurred_max(leaf, TAPS, "positions"), rows.amax((2, 3), keepdim=True))
            torch.testing.assert_close(blurred_max(leaf, TAPS, "channels"), naive_blur(rows, 3).amax(1, keepdim=True))


@pytest.mark.parametrize("over", OVERS)
def test_a_map_of_one_value_stays_as_it_is(over: Over) -> None:
    torch.testing.assert_close(blurred_max(torch.full((1, 3, 4, 4), 2.5), TAPS, over).amax(), torch.tensor(2.5))


def test_no_image_is_fine() -> None:
    x: Any = torch.randn(0, 8, 7, 7, requires_grad=True)
    for over in OVERS:
        torch.autograd.grad((entropy(x, over) + blurred_max(x, TAPS, over)).sum(), x)
