"""assd.py against loops written from equations 1 to 3, its parameter counts, gradients, and the baseline without it."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchsuite.data.batch import Batch
from benchsuite.errors import InputError
from benchsuite.models.default_boxes import DefaultBoxes
from benchsuite.models.resnet import ResNet
from benchsuite.models.ssd import SSD, Extra, Extras
from benchsuite.papers import assd
from benchsuite.papers.assd import WAYS, Attention, AttentionUnit, Fusion, Neck, attended, best_way

CHANNELS_513 = (512, 1024, 2048, 1024, 512, 256, 256)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def unit(channels: int = 16, **changes: Any) -> AttentionUnit:
    torch.manual_seed(0)
    built = AttentionUnit(channels, Attention(**changes))
    for weight in built.parameters():
        nn.init.normal_(weight, std=0.5)
    return built


def naive(built: AttentionUnit, x: Tensor) -> tuple[Tensor, Tensor]:
    """x' and ā of one map [C, H, W], position by position: eq. 1 and 2."""
    height, width = x.shape[1:]
    positions = [x[:, i, j] for i in range(height) for j in range(width)]
    w_q, w_k, w_v = (layer.weight[:, :, 0, 0] for layer in (built.query, built.key, built.value))
    attention = torch.zeros(len(positions), len(positions))
    refined = torch.zeros_like(x)
    for i, at in enumerate(positions):
        scores = [math.exp(float((w_q @ at) @ (w_k @ other))) for other in positions]
        for j, score in enumerate(scores):
            attention[i, j] = score / sum(scores)
        gathered = sum(attention[i, j] * (w_v @ other) for j, other in enumerate(positions))
        refined[:, i // width, i % width] = at + gathered
    return refined, attention


@pytest.mark.parametrize("way", ["auto", *WAYS])
def test_unit_is_the_papers_equations(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assd, "CHUNK", 5)
    built = unit(way=way)
    x = torch.randn(2, 16, 3, 4)
    with torch.no_grad():
        found = built(x)
        for image in range(2):
            refined, attention = naive(built, x[image])
            torch.testing.assert_close(found[image], refined, rtol=1e-4, atol=1e-5)
            rows = built.attention_rows(x, torch.tensor([0, 7, 11]))[image]
            torch.testing.assert_close(rows, attention[[0, 7, 11]], rtol=1e-4, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 6), st.integers(1, 8), st.integers(0, 99))
def test_the_ways_agree(images: int, positions: int, reduced: int, times: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(images, positions, width, generator=generator) for width in (reduced, reduced, reduced * times)
    )
    wanted = WAYS["explicit"](q, k, v)
    for way in WAYS:
        torch.testing.assert_close(attended(q, k, v, way), wanted, rtol=1e-5, atol=1e-5)  # type: ignore[arg-type]


def test_the_ways_agree_at_full_size_in_gradients_too() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 64, 33, 33)
    found = []
    for way in WAYS:
        built = unit(64, way=way)
        for weight in built.parameters():
            weight.data *= 0.2
        here = x.clone().requires_grad_()
        out = built(here)
        found.append((out, *torch.autograd.grad(out.square().mean(), (here, *built.parameters()))))
    for other in found[1:]:
        for mine, first in zip(other, found[0], strict=True):
            torch.testing.assert_close(mine, first, rtol=1e-4, atol=1e-5)


def test_channels_last_maps_give_the_same() -> None:
    x, built = torch.randn(2, 16, 6, 5), unit()
    torch.testing.assert_close(built(x.contiguous(memory_format=torch.channels_last)), built(x))


def test_rows_of_attention_sum_to_one() -> None:
    x, built = 3 * torch.randn(2, 16, 9, 9), unit()
    rows = built.attention_rows(x, torch.arange(81))
    assert rows.shape == (2, 81, 81)
    assert ((rows.sum(-1) - 1).abs() <= 1e-5).all()


def test_reduces_to_the_identity_and_to_the_mean() -> None:
    """W_v = 0 changes nothing; W_q = 0 looks everywhere alike."""
    x, built = torch.randn(2, 16, 5, 4), unit()
    value = built.value.weight.data.clone()
    built.value.weight.data.zero_()
    assert torch.equal(built(x), x)
    built.value.weight.data, built.query.weight.data = value, torch.zeros_like(built.query.weight)
    torch.testing.assert_close(built(x), x + built.value(x).mean((2, 3), keepdim=True))


@given(st.permutations(range(12)))
@settings(max_examples=10, deadline=None)
def test_positions_may_be_shuffled(order: list[int]) -> None:
    x, built = torch.randn(1, 16, 3, 4, generator=torch.Generator().manual_seed(1)), unit()
    shuffled = x.flatten(2)[:, :, order].view(x.shape)
    torch.testing.assert_close(built(shuffled), built(x).flatten(2)[:, :, order].view(x.shape))


def test_parameters_of_the_units() -> None:
    with torch.device("meta"):
        units = Attention().build(CHANNELS_513)
        six = Attention().build(CHANNELS_513[:-1])
    assert [parameters(each) for each in units] == [327_680, 1_310_720, 5_242_880, 1_310_720, 327_680, 81_920, 81_920]
    assert (parameters(units), parameters(six)) == (8_683_520, 8_601_600)


def test_the_kernel_is_taken_where_it_takes_the_widths() -> None:
    q, v = torch.empty(1, 9, 64), torch.empty(1, 9, 512)
    assert best_way("cuda", q, v) == "fused" and best_way("cpu", q, v) == "chunked"
    assert best_way("cuda", q.bfloat16(), v) == "fused"
    assert best_way("cuda", q[..., :5], v[..., :40]) == "chunked", "rows of 20 bytes"
    assert best_way("cuda", q[..., :4].bfloat16(), v) == "chunked"


def test_some_levels_only() -> None:
    units = Attention(levels=(1, 3)).build((16, 32, 64))
    assert [type(each).__name__ for each in units] == ["AttentionUnit", "Identity", "AttentionUnit"]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"levels": (1, 8)}, r"levels 1 to 3 and no 8; leave it out"),
        ({"way": "heads", "reduction": 5}, r"heads of 3 do not divide 16 channels; choose another"),
    ],
)
def test_bad_attention_is_one_line(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told) as raised:
        Attention(**wrong).build((16, 32, 64))[0](torch.randn(1, 16, 2, 2))
    assert "\n" not in str(raised.value)


def test_fusion_takes_three_levels() -> None:
    with pytest.raises(InputError, match=r"takes three levels, and the neck makes 2; leave it out"):
        Fusion().build((16, 32))


def test_bad_settings() -> None:
    every: list[dict[str, Any]] = [{"levels": []}, {"levels": [0]}, {"way": "quick"}, {"reduction": 0}]
    for wrong in every:
        with pytest.raises(ValidationError):
            Attention.model_validate(wrong)


def test_fusion_is_equation_3() -> None:
    torch.manual_seed(0)
    channels = (4, 6, 8)
    built: Any = Fusion(width=3).build(channels).eval()
    nn.init.normal_(built.norm.weight)
    nn.init.normal_(built.norm.running_mean)
    levels = [torch.randn(2, c, s, s + 1) for c, s in zip(channels, (7, 4, 2), strict=True)]
    with torch.no_grad():
        found = built(levels)
        maps = [conv(level) for conv, level in zip(built.projections, levels, strict=True)]
        for image in range(2):
            for row in range(7):
                for column in range(8):
                    cell = torch.cat([corner_aligned(x[image], row / 6, column / 7) for x in maps])
                    normed = (cell - built.norm.running_mean) / (built.norm.running_var + 1e-5).sqrt()
                    normed = normed * built.norm.weight + built.norm.bias
                    wanted = (built.mix.weight[:, :, 0, 0] @ normed + built.mix.bias).relu()
                    torch.testing.assert_close(found[image, :, row, column], wanted, rtol=1e-4, atol=1e-5)


def corner_aligned(x: Tensor, down: float, across: float) -> Tensor:
    """x [C, H, W] between its four nearest cells, at fractions of the way from its first cell to its last."""
    y, z = down * (x.shape[1] - 1), across * (x.shape[2] - 1)
    top, left = min(int(y), x.shape[1] - 2), min(int(z), x.shape[2] - 2)
    v, u = y - top, z - left
    upper = (1 - u) * x[:, top, left] + u * x[:, top, left + 1]
    lower = (1 - u) * x[:, top + 1, left] + u * x[:, top + 1, left + 1]
    return (1 - v) * upper + v * lower


def test_fusion_without_aligned_corners() -> None:
    built = Fusion(width=2, align_corners=False).build((2, 2, 2)).eval()
    levels = [torch.randn(1, 2, s, s) for s in (8, 4, 2)]
    maps = [conv(level) for conv, level in zip(built.projections, levels, strict=True)]
    together = torch.cat([interpolate(x, size=(8, 8), mode="bilinear") for x in maps], dim=1)
    torch.testing.assert_close(built(levels), built.mix(built.norm(together)).relu())


def test_parameters_of_fusion() -> None:
    """1,313,536 on the ResNet's maps, 920,320 on conv4_3, fc7 and conv8_2."""
    with torch.device("meta"):
        assert parameters(Fusion().build((512, 1024, 2048))) == 1_313_536
        assert parameters(Fusion().build((512, 1024, 512))) == 920_320


BOXES = DefaultBoxes(scales=(0.1, 0.2, 0.4, 0.6, 0.8, 1), ratios=((2,), (2, 3), (2, 3), (2,), (2,)))
BLOCKS = Extras(blocks=(Extra(squeeze=8, channels=16), Extra(squeeze=8, channels=16)))
NECKS = {
    "base": Neck(of=BLOCKS),
    "fusion": Neck(of=BLOCKS, fusion=Fusion(width=8)),
    "att": Neck(of=BLOCKS, attention=Attention()),
    "both": Neck(of=BLOCKS, fusion=Fusion(width=8), attention=Attention()),
}


def small(neck: str) -> Any:
    """Maps of 13, 7, 4, 2 and 1 cells a side at an input of 97."""
    torch.manual_seed(0)
    return SSD(backbone=ResNet(depth=18), neck=NECKS[neck], anchors=BOXES).build(3)


def batch(images: int = 2) -> Batch:
    sizes = torch.tensor([[97, 97]] * images)
    anchors = BOXES.make(((13, 13), (7, 7), (4, 4), (2, 2), (1, 1)), (), (97, 97))
    boxes = anchors[[300, 676 + 147, 970 + 33, 1066 + 4, 1082]].repeat(images, 1, 1)  # one of every level
    pixels = torch.randint(0, 256, (images, 3, 97, 97), dtype=torch.uint8)
    return Batch(pixels, sizes, sizes, torch.arange(images), boxes, torch.tensor([[0, 1, 2, 0, 1]] * images))


def test_neither_is_the_baseline() -> None:
    ours, seen = small("base").eval(), batch()
    torch.manual_seed(0)
    plain = SSD(backbone=ResNet(depth=18), neck=BLOCKS, anchors=BOXES).build(3).eval()
    wanted, found = (each(each.normalised(seen)) for each in (plain, ours))
    assert torch.equal(wanted[0], found[0]) and torch.equal(wanted[1], found[1])


def test_a_seed_gives_all_rows_the_same_start() -> None:
    """What fusion and attention add is all that differs."""
    base = small("base").state_dict()
    for other in ("fusion", "att", "both"):
        state = small(other).state_dict()
        assert {name for name in state if name not in base} and base.keys() <= state.keys()
        assert all(torch.equal(state[name], base[name]) for name in base)


def test_fusion_and_extras_read_unattended_maps() -> None:
    detector = small("both").eval()
    neck = detector.neck
    maps = detector.backbone(detector.normalised(batch()))
    plain = neck.of(maps)
    wanted = [
        neck.attention[0](neck.fusion(plain[:3])),
        *(u(x) for u, x in zip(neck.attention[1:], plain[1:], strict=True)),
    ]
    for mine, theirs in zip(neck(maps), wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_gradients_reach_all_but_the_queries_and_keys_of_a_single_cell() -> None:
    """One position attends to itself whatever its query and key are: exactly two tensors without a gradient."""
    detector = small("both").train()
    loss: Any = sum(detector.losses(batch()).values())
    loss.backward()
    still = [name for name, value in detector.named_parameters() if value.grad is None or not value.grad.any()]
    assert still == ["neck.attention.4.query.weight", "neck.attention.4.key.weight"]


def test_a_step_lowers_the_loss() -> None:
    detector, seen = small("both").train(), batch()
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.002)
    losses = []
    for _ in range(6):
        loss: Any = sum(detector.losses(seen).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_mixed_precision_stays_near() -> None:
    detector, seen = small("both").eval(), batch()
    images = detector.normalised(seen)
    with torch.no_grad():
        wanted = detector(images)[0]
        with torch.autocast("cpu", torch.bfloat16):
            found = detector(images)[0]
    assert torch.isfinite(found).all()
    assert float((found.float() - wanted).abs().mean()) < 0.05 * float(wanted.abs().mean())
