"""Precision of cross-level group normalisation, in both memory formats and on both ways to its sums."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import group_norm

from benchsuite.models import cross_level
from benchsuite.models.cross_level import cross_level_group_norm

SIZES = (40, 64), (20, 32), (10, 16), (5, 8)
IMAGES, CHANNELS, GROUPS = 3, 32, 4
FORMATS = pytest.mark.parametrize("form", [torch.channels_last, torch.contiguous_format], ids=["last", "contiguous"])


@pytest.fixture(params=["cpu", "elsewhere"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a CPU adds up, and how other devices do."""
    if request.param == "elsewhere":
        monkeypatch.setattr(cross_level, "_on_cpu", lambda level: False)
    way: str = request.param
    return way


def case(ratio: float, form: torch.memory_format, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], ...]:
    """Levels whose groups have means of `ratio` times their spread, slopes, and weight and bias."""
    torch.manual_seed(0)
    sign = torch.tensor([1.0, -1.0, 0.5, -0.5]).repeat_interleave(CHANNELS // GROUPS)[None, :, None, None]
    levels = [torch.randn(IMAGES, CHANNELS, *size) + ratio * sign for size in SIZES]
    slopes = [torch.randn_like(level) for level in levels]
    levels, slopes = ([x.to(dtype).contiguous(memory_format=form) for x in maps] for maps in (levels, slopes))
    return levels, slopes, [torch.rand(CHANNELS) + 0.5, torch.randn(CHANNELS)]


def exact(levels: Sequence[Tensor], weight: Tensor, bias: Tensor) -> list[Tensor]:
    """One group norm of the levels side by side, in float64."""
    whole = group_norm(torch.cat([level.flatten(2) for level in levels], dim=2), GROUPS, weight, bias)
    parts = whole.split([level[0, 0].numel() for level in levels], dim=2)
    return [part.view_as(level) for part, level in zip(parts, levels, strict=True)]


def relative_errors(levels: list[Tensor], slopes: list[Tensor], affine: list[Tensor]) -> list[float]:
    """Of the outputs, and of the gradients of levels, weight and bias: the largest error over the largest value."""
    ours = [x.detach().requires_grad_() for x in (*levels, *affine)]
    double = [x.detach().double().requires_grad_() for x in ours]
    out = cross_level_group_norm(ours[:-2], GROUPS, *ours[-2:])
    expected = exact(double[:-2], *double[-2:])
    found = [*out, *torch.autograd.grad(out, ours, slopes)]
    right = [*expected, *torch.autograd.grad(expected, double, [slope.double() for slope in slopes])]
    pairs = zip(found, right, strict=True)
    return [float((one.detach() - other.detach()).abs().max() / other.detach().abs().max()) for one, other in pairs]


@FORMATS
@pytest.mark.parametrize("ratio", [0, 10, 100])
def test_means_large_against_the_spread_cost_no_digits(ratio: float, form: torch.memory_format, way: str) -> None:
    assert max(relative_errors(*case(ratio, form))) <= 1e-5


@FORMATS
def test_bfloat16_is_added_up_in_float32(form: torch.memory_format, way: str) -> None:
    """Only inputs and outputs are rounded to 8 bits."""
    levels, slopes, affine = case(3, form, torch.bfloat16)
    assert max(relative_errors(levels, slopes, affine)) < 0.005
    out = cross_level_group_norm(levels, GROUPS, *affine)
    assert {level.dtype for level in out} == {torch.bfloat16}
    assert all(level.is_contiguous(memory_format=form) for level in out)
    weight = affine[0].requires_grad_()
    (gradient,) = torch.autograd.grad(cross_level_group_norm(levels, GROUPS, weight, affine[1]), weight, slopes)
    assert gradient.dtype is torch.float32


def test_both_ways_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    levels, _, affine = case(1, torch.channels_last)
    here = cross_level_group_norm(levels, GROUPS, *affine)
    monkeypatch.setattr(cross_level, "_on_cpu", lambda level: False)
    for one, other in zip(here, cross_level_group_norm(levels, GROUPS, *affine), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_parts_of_maps_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with maps of more numbers than a part."""
    monkeypatch.setattr(cross_level, "PART", 1000)
    for form in (torch.channels_last, torch.contiguous_format):
        assert max(relative_errors(*case(10, form))) <= 1e-5


@FORMATS
def test_maps_of_one_value_are_their_bias(form: torch.memory_format, way: str) -> None:
    levels = [torch.full((2, CHANNELS, *size), 7.0).contiguous(memory_format=form) for size in SIZES]
    bias = torch.randn(CHANNELS)
    for level in cross_level_group_norm(levels, GROUPS, torch.ones(CHANNELS), bias):
        torch.testing.assert_close(level, bias[None, :, None, None].expand_as(level), rtol=0, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
@FORMATS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu(form: torch.memory_format, dtype: torch.dtype) -> None:
    cases = [[x.cuda() for x in values] for values in case(10, form, dtype)]
    assert max(relative_errors(*cases)) <= (1e-5 if dtype is torch.float32 else 0.005)
