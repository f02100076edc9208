"""POD's scale decomposition (section 3.2) and weight cuts (3.3) in numbers; pod.spec 3, 5, 9."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from pod_cases import TABLE3, channels
from torch import Tensor, nn

from benchsuite.errors import InputError
from benchsuite.papers.pod import FdConv, cells_of, deform, mix
from benchsuite.papers.pod_decompose import Dilations, SubConv, decompose, decompose_all

CHANNELS = {name: count for name, count in channels().items() if name in TABLE3["C50"]}
scale = st.floats(0, 12)


def parts(d_h: float, d_w: float, channels: int = 1000) -> list[tuple[int, tuple[int, int], tuple[int, int]]]:
    return [(part.channels, part.dilation, part.kernel) for part in decompose(d_h, d_w, channels)]


@pytest.mark.parametrize(
    ("d", "expected"),
    [
        ((1.7, 2.9), [(200, (1, 2), (3, 3)), (800, (2, 3), (3, 3))]),
        ((2.02, 1.7), [(300, (2, 1), (3, 3)), (700, (2, 2), (3, 3))]),
        ((1.98, 1.7), [(300, (2, 1), (3, 3)), (700, (2, 2), (3, 3))]),
        ((0.46, 0.89), [(325, (0, 0), (1, 1)), (675, (1, 1), (3, 3))]),
        ((0.46, 1.7), [(420, (0, 1), (1, 3)), (580, (1, 2), (3, 3))]),
        ((0.97, 0.46), [(540, (1, 0), (3, 1)), (460, (1, 1), (3, 3))]),
        ((0.02, 1.7), [(300, (0, 1), (1, 3)), (700, (0, 2), (1, 3))]),
        ((2.02, 0.98), [(1000, (2, 1), (3, 3))]),
    ],
)
def test_the_papers_cases(d: tuple[float, float], expected: list[object]) -> None:
    assert parts(*d) == expected


@pytest.mark.parametrize(
    ("detector", "expected"),
    [
        ("C50", {"R31": (15, 113), "R34": (91, 37), "R41": (154, 102), "R46": (150, 106), "R51": (374, 138),
                 "R53": (251, 261)}),
        ("F50", {"R31": (12, 116), "R34": (106, 22), "R41": (52, 204), "R46": (154, 102), "R51": (166, 346),
                 "R53": (131, 381)}),
        ("N50", {"R31": (8, 120), "R34": (106, 22), "R41": (45, 211), "R46": (137, 119), "R51": (113, 399),
                 "R53": (184, 328)}),
    ],
)  # fmt: skip
def test_channels_from_table_3(detector: str, expected: dict[str, tuple[int, int]]) -> None:
    plan = decompose_all(TABLE3[detector], CHANNELS)
    assert {name: tuple(part.channels for part in layer) for name, layer in plan.layers.items()} == expected


def test_kernels_from_table_3() -> None:
    plans = {name: decompose_all(scales, CHANNELS).layers for name, scales in TABLE3.items()}
    assert [part.dilation for part in plans["C50"]["R46"]] == [(8, 9), (9, 10)]
    assert plans["C50"]["R31"][0].kernel == (1, 3)
    assert plans["N50"]["R31"][0].kernel == (1, 3)
    for detector, names in (("F50", ("R31", "R41", "R51")), ("N50", ("R41", "R51"))):
        assert {plans[detector][name][0].kernel for name in names} == {(1, 1)}


def test_identical_scales_of_the_two_splits_move_ten_channels() -> None:
    assert [part.channels for part in decompose(8.44, 9.31, 256)] == [160, 96]
    assert [part.channels for part in decompose(8.49, 9.34, 256)] == [150, 106]


def test_ten_channels() -> None:
    assert [part.channels for part in decompose(1.7, 2.9, 10)] == [2, 8]


@given(scale, scale, st.integers(1, 512))
@example(0.95, 0.5, 128)
@example(2.05, 2.0, 64)
@example(1.0500011, 3.0, 64)
def test_channels_and_mean_dilations(d_h: float, d_w: float, channels: int) -> None:
    """All channels are given out, and their mean dilations sum to d_h + d_w as far as both directions are split and
    channels are whole."""
    found = decompose(d_h, d_w, channels)
    assert sum(part.channels for part in found) == channels
    for axis, d in enumerate((d_h, d_w)):
        assert all(part.dilation[axis] in (math.floor(d), math.floor(d) + 1) for part in found)
    snapped = [abs(d - math.floor(d + 0.5)) <= 0.05 + 1e-6 for d in (d_h, d_w)]
    if not any(snapped):
        total = sum(part.channels * sum(part.dilation) for part in found) / channels
        assert total == pytest.approx(d_h + d_w, abs=1 / channels + 1e-9)


@given(st.integers(0, 12), st.integers(0, 12), st.floats(-0.05, 0.05), st.floats(-0.05, 0.05))
def test_close_to_whole_is_one_convolution(h: int, w: int, above: float, beside: float) -> None:
    found = decompose(max(0, h + above), max(0, w + beside), 32)
    assert [(part.channels, part.dilation) for part in found] == [(32, (h, w))]


# --- density of connection: the response to a unit impulse in every input channel with all weights 1


def density_of_fd(d: tuple[float, float], side: int = 9) -> Tensor:
    conv = nn.Conv2d(1, 1000, 3, padding=1, bias=False).double()
    fd = FdConv(conv, decompose(*d, 1000))
    for part in fd.parts:
        nn.init.ones_(part.get_parameter("weight"))
    return fd(impulse(side))[0].mean(0)


def density_of_gsl(d: tuple[float, float], side: int = 9) -> Tensor:
    scales = torch.tensor([d], dtype=torch.double)
    weight = torch.ones(1, 1, 3, 3, dtype=torch.double)
    return mix(impulse(side), weight, scales, (1, 1), cells_of(scales))[0, 0]


def impulse(side: int) -> Tensor:
    x = torch.zeros(1, 1, side, side, dtype=torch.double)
    x[0, 0, side // 2, side // 2] = 1
    return x


@pytest.mark.parametrize("d", [(2.0, 1.7), (1.3, 1.0), (3.4, 2.0), (1.0, 2.5), (2.0, 3.0)])
def test_density_is_kept_where_one_direction_is_whole(d: tuple[float, float]) -> None:
    torch.testing.assert_close(density_of_fd(d), density_of_gsl(d), rtol=0, atol=1e-12)


def test_density_at_2_by_1_7() -> None:
    density = density_of_fd((2, 1.7))[4]
    torch.testing.assert_close(
        density, torch.tensor([0, 0, 0.7, 0.3, 1, 0.3, 0.7, 0, 0], dtype=torch.double), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(("d", "gap"), [((1.7, 2.9), 0.391), ((1.3, 1.3), 0.373)])
def test_density_of_two_fractions_keeps_its_total(d: tuple[float, float], gap: float) -> None:
    fd, gsl = density_of_fd(d), density_of_gsl(d)
    assert fd.sum().item() == pytest.approx(9) and gsl.sum().item() == pytest.approx(9)
    assert ((fd - gsl).abs().sum() / 9).item() == pytest.approx(gap, abs=5e-4)
    axes = torch.allclose(fd[4], gsl[4]) and torch.allclose(fd[:, 4], gsl[:, 4])
    assert axes == (d[0] % 1 == pytest.approx(d[1] % 1)), "axis taps agree where the fractions do"


def test_density_below_1_is_not_kept() -> None:
    fd, gsl = density_of_fd((0.46, 0.89)), density_of_gsl((0.46, 0.89))
    assert gsl.sum().item() == pytest.approx(9) and fd.sum().item() == pytest.approx(6.4)
    assert gsl[4, 4].item() == pytest.approx(2.5376) and fd[4, 4].item() == pytest.approx(1)


def test_one_fraction_is_the_mean_of_its_two_convolutions() -> None:
    x, weight = torch.randn(2, 3, 8, 9).double(), torch.randn(4, 3, 3, 3).double()
    low, high = (nn.functional.conv2d(x, weight, padding=(2, b), dilation=(2, b)) for b in (1, 2))
    found = deform(x, weight, torch.tensor([[2.0, 1.7]], dtype=torch.double), (1, 1))
    torch.testing.assert_close(found, 0.3 * low + 0.7 * high)


# --- bad input, files


@pytest.mark.parametrize("bad", [(math.nan, 1.0), (1.0, -0.5), (math.inf, 1.0)])
def test_refuses_scales_that_are_none(bad: tuple[float, float]) -> None:
    with pytest.raises(InputError) as raised:
        decompose_all({"R31": (1.0, 1.0), "R32": bad}, {"R31": 8, "R32": 8})
    assert str(raised.value).startswith("R32: has the scale (") and "\n" not in str(raised.value)


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = decompose_all(TABLE3["F50"], CHANNELS)
    plan.save(tmp_path / "dilations.json")
    assert Dilations.load(tmp_path / "dilations.json") == plan
    assert plan.layers["R51"] == (SubConv(channels=166, dilation=(0, 0)), SubConv(channels=346, dilation=(1, 1)))


@pytest.mark.parametrize(
    "content", ["{", '{"layers": {"R31": []}}', json.dumps({"layers": {"R31": [{"channels": 0, "dilation": [1, 1]}]}}),
                '{"layers": {"R31": [{"channels": 3, "dilation": [1, -1]}]}}'],
)  # fmt: skip
def test_refuses_what_is_no_plan(content: str, tmp_path: Path) -> None:
    file = tmp_path / "dilations.json"
    file.write_text(content)
    with pytest.raises(InputError) as raised:
        Dilations.load(file)
    assert "dilations.json: has no dilations" in str(raised.value) and "\n" not in str(raised.value)


def test_decomposing_loads_no_torch() -> None:
    code = "import sys, benchsuite.papers.pod_decompose; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
