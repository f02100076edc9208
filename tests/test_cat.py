"""CAT's module and every switch of it; cat.spec 1, 2, 6 and 7."""

from itertools import pairwise
from statistics import mean
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import conv2d

from benchsuite.loops.solver import factors as factors_of
from benchsuite.loops.train import observe, watched
from benchsuite.models.resnet import ResNet
from benchsuite.papers.cat import Cat, CatUnit, ChannelMap, Factors, SpatialMap
from benchsuite.papers.cat_pooling import blurred_maxima, entropy, gaussian

ROWS: dict[str, dict[str, Any]] = {
    "spatial": {"branch": "s", "interior": "one"},
    "channel": {"branch": "c", "interior": "one"},
    "channel + spatial": {"branch": "cs", "interior": "one"},
    "spatial + channel": {"branch": "sc", "interior": "one"},
    "exterior": {"interior": "one"},
    "exterior & interior": {},
}
"""Table 6; each but the last also without ent."""
SWITCHES: list[dict[str, Any]] = [
    *ROWS.values(),
    {"branch": "cs"},
    {"interior_softmax": True},
    {"combine": "alg1"},
    {"inner_sigmoid": True},
    {"ent_range": "signed"},
    {"fuse": "concat"},
    {"branch": "s", "fuse": "concat"},
    {"ops": ("avg",)},
    {"ops": ("max", "ent"), "interior": "one"},
    {"sigma": 0.8},
]


def unit(channels: int = 64, stirred: bool = False, **switches: Any) -> CatUnit:
    """A unit from seed 0; `stirred`: with factors that are all different."""
    torch.manual_seed(0)
    built = Cat.model_validate(switches).unit(channels)
    for module in built.modules():
        if stirred and isinstance(module, Factors):
            nn.init.normal_(module.raw)
    return built


def maps(shape: tuple[int, int, int, int] = (2, 64, 6, 5), seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(shape)


def channel_map(of: CatUnit) -> ChannelMap:
    assert of.channel is not None
    return of.channel


def spatial_map(of: CatUnit) -> SpatialMap:
    assert of.spatial is not None
    return of.spatial


def test_shapes() -> None:
    built, x = unit(), maps((2, 64, 8, 8))
    assert [tuple(raw.shape) for raw in built.raw(x, built.maps)] == [(2, 64, 1, 1), (2, 1, 8, 8)]
    assert built(x).shape == x.shape


# --- against the equations


def ranged(pooled: list[float], signed: bool) -> list[float]:
    """Eq. 4."""
    low, span = min(pooled), max(max(pooled) - min(pooled), 1e-6)
    return [(2 if signed else 1) * (value - low) / span - signed for value in pooled]


def factor(settings: Cat, of: nn.Module | None, place: int) -> float:
    if of is None:
        return 1.0
    assert isinstance(of, Factors)
    raw = of.raw.detach().softmax(0) if settings.interior_softmax else of.raw.detach()
    return raw[place].item()


def naive_channel(settings: Cat, of: ChannelMap, image: Tensor) -> Tensor:
    """C'_A of an image [C, H, W], eqs. 2 to 5, [C]."""
    taps = gaussian(5, settings.sigma)
    pools = {
        "avg": [channel.mean().item() for channel in image],
        "max": blurred_maxima(image[None], taps, ("positions",))[0].flatten().tolist(),
        "ent": ranged(entropy(image[None], "positions").flatten().tolist(), settings.ent_range == "signed"),
    }
    first, _, second = of.mlp
    assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
    raw = torch.zeros(len(image))
    for place, op in enumerate(settings.ops):
        hidden = (first.weight @ torch.tensor(pools[op])).clamp(min=0)
        raw += factor(settings, of.factors, place) * (second.weight @ hidden)
    return raw


def naive_spatial(settings: Cat, of: SpatialMap, image: Tensor) -> Tensor:
    """S'_A of an image [C, H, W], eqs. 4, 6 and 7, [H, W]."""
    taps = gaussian(5, settings.sigma)
    height, width = image.shape[1:]
    pooled = entropy(image[None], "channels").flatten().tolist()
    pools = {
        "avg": -image.mean(0),
        "max": blurred_maxima(image[None], taps, ("channels",))[0][0, 0],
        "ent": torch.tensor(ranged(pooled, settings.ent_range == "signed")).view(height, width),
    }
    raw = torch.zeros(1, 1, height, width)
    for place, op in enumerate(settings.ops):
        kernel = of.conv.weight[:, place : place + 1] if settings.fuse == "concat" else of.conv.weight
        weight = 1.0 if settings.fuse == "concat" else factor(settings, of.factors, place)
        raw += conv2d(weight * pools[op][None, None], kernel, padding=3)
    return raw[0, 0].sigmoid() if settings.inner_sigmoid else raw[0, 0]


def naive(settings: Cat, of: CatUnit, image: Tensor) -> Tensor:
    """F_A of an image F [C, H, W]."""
    if settings.branch != "parallel":
        for name in settings.branch:
            if name == "c":
                image = image * naive_channel(settings, channel_map(of), image).sigmoid()[:, None, None]
            else:
                image = image * naive_spatial(settings, spatial_map(of), image).sigmoid()
        return image
    assert of.exterior is not None
    c_w, s_w = of.exterior.raw.detach().softmax(0)
    channel = naive_channel(settings, channel_map(of), image)[:, None, None]
    spatial = naive_spatial(settings, spatial_map(of), image)
    if settings.combine == "alg1":
        return image * (c_w * channel.sigmoid() + s_w * spatial.sigmoid())
    return image * (channel * c_w).sigmoid() + image * (spatial * s_w).sigmoid()


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_equals_the_equations(switches: dict[str, Any]) -> None:
    built, x = unit(stirred=True, **switches), maps()
    with torch.no_grad():
        expected = torch.stack([naive(Cat.model_validate(switches), built, image) for image in x])
        for each in (x, x.contiguous(memory_format=torch.channels_last)):
            torch.testing.assert_close(built(each), expected, rtol=1e-5, atol=1e-5)


# --- how it starts


@given(seed=st.integers(0, 99), side=st.integers(1, 9), scale=st.sampled_from([1e-3, 1.0, 1e4]))
@settings(deadline=None, max_examples=20)
def test_starts_as_the_identity_bit_for_bit(seed: int, side: int, scale: float) -> None:
    x = scale * maps((2, 64, side, 4), seed)
    assert torch.equal(unit()(x), x)
    assert torch.equal(unit()(x.bfloat16()), x.bfloat16())


def test_resnet_50_starts_as_without() -> None:
    images = maps((1, 3, 64, 64))
    torch.manual_seed(0)
    plain = ResNet(levels=(3, 5)).build().eval()
    torch.manual_seed(0)
    attending = ResNet(levels=(3, 5), edits=(Cat(),)).build().eval()
    with torch.no_grad():
        for with_it, without in zip(attending(images), plain(images), strict=True):
            assert torch.equal(with_it, without)


@pytest.mark.parametrize(("switches", "gain"), [({"inner_sigmoid": True}, 1.0622), ({"combine": "alg1"}, 0.5)])
def test_other_starts(switches: dict[str, Any], gain: float) -> None:
    x = maps()
    torch.testing.assert_close(unit(**switches)(x), gain * x, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ops", [("avg", "max"), ("avg", "max", "ent")], ids=str)
@pytest.mark.parametrize(
    ("row", "gain"),
    [
        ("spatial", 0.5), ("channel", 0.5), ("channel + spatial", 0.25), ("spatial + channel", 0.25),
        ("exterior", 1.0), ("exterior & interior", 1.0),
    ],
)  # fmt: skip
def test_gain_at_the_start(row: str, gain: float, ops: tuple[str, ...]) -> None:
    """The projection of F_A on F for maps from N(0, 1), the mean over first weights: how the rows of table 6 begin. It
    spreads with those of the 7×7 convolution."""
    x, found = maps((2, 64, 14, 14)), []
    for seed in range(12):
        torch.manual_seed(seed)
        with torch.no_grad():
            attended = Cat.model_validate(ROWS[row] | {"ops": ops}).unit(64)(x)
        found.append(((attended * x).sum() / x.square().sum()).item())
    assert mean(found) == pytest.approx(gain, abs=0.05)
    if row.startswith("exterior"):
        assert 0.8 < min(found) <= max(found) < 1.2


# --- learning


def gradients(built: CatUnit, x: Tensor, slope: Tensor) -> dict[str, float]:
    built.zero_grad()
    built(x).backward(slope)
    return {name: parameter.grad.abs().max().item() for name, parameter in built.named_parameters()
            if parameter.grad is not None}  # fmt: skip


def test_only_interior_factors_learn_in_the_first_step_and_all_in_the_second() -> None:
    built, x, slope = unit(), maps(), maps(seed=2)
    first = gradients(built, x, slope)
    learning = {name for name, size in first.items() if size}
    assert set(first) == {name for name, _ in built.named_parameters()}
    assert learning == {"channel.factors.raw", "spatial.factors.raw"}
    grads = {name: parameter.grad for name, parameter in built.named_parameters()}
    # ∂C_α = ⅛ Σ g F MLP(avg), ∂S_α = ⅛ Σ g F Conv(−avg): σ'(0) = ¼, C_w = S_w = ½
    by_channel, by_position = grads["channel.factors.raw"], grads["spatial.factors.raw"]
    assert by_channel is not None and by_position is not None
    channel, spatial = channel_map(built), spatial_map(built)
    mapped = channel.mlp(x.mean((2, 3)))[:, :, None, None]
    assert by_channel[0].item() == pytest.approx((slope * x * mapped).sum().item() / 8, rel=1e-4)
    averaged = spatial.conv(-x.mean(1, keepdim=True))
    assert by_position[0].item() == pytest.approx((slope * x * averaged).sum().item() / 8, rel=1e-4)

    torch.optim.SGD(built.parameters(), lr=0.1).step()
    assert all(gradients(built, x, slope).values())


@pytest.mark.parametrize("switches", [each for each in SWITCHES if each], ids=str)
def test_everything_learns_with_other_factors(switches: dict[str, Any]) -> None:
    found = gradients(unit(stirred=True, **switches), maps(), maps(seed=2))
    assert all(found.values())


def test_gradient_of_the_input() -> None:
    built, x = unit(4, stirred=True).double(), maps((2, 4, 3, 4)).double().requires_grad_()
    slope = maps((2, 4, 3, 4), seed=3).double()
    (found,) = torch.autograd.grad((built(x) * slope).sum(), x)
    step = 1e-3
    for place in [(0, 0, 0, 0), (1, 3, 2, 3), (0, 2, 1, 2)]:
        moved = torch.zeros_like(x)
        moved[place] = step
        with torch.no_grad():
            difference = ((built(x + moved) - built(x - moved)) * slope).sum() / (2 * step)
        assert found[place].item() == pytest.approx(difference.item(), rel=2e-3, abs=1e-4)


def test_factors_know_no_weight_decay() -> None:
    built = unit()
    decays = factors_of(built, "decay_factor")
    assert {name for name, decay in decays.items() if decay == 0} == {
        "exterior.raw", "channel.factors.raw", "spatial.factors.raw"
    }  # fmt: skip
    assert sum(built.get_parameter(name).numel() for name, decay in decays.items() if decay == 0) == 8


def test_the_log_gets_every_factor() -> None:
    built = unit(stirred=True)
    found = observe(watched(built))
    assert list(found) == [
        "channel.factors.C_alpha", "channel.factors.C_beta", "channel.factors.C_gamma",
        "spatial.factors.S_alpha", "spatial.factors.S_beta", "spatial.factors.S_gamma",
        "exterior.C_w", "exterior.S_w",
    ]  # fmt: skip
    assert all(isinstance(value, torch.Tensor) for value in found.values())  # nobody waits
    assert found["exterior.C_w"] + found["exterior.S_w"] == pytest.approx(1)
    assert found["spatial.factors.S_gamma"] == built.get_parameter("spatial.factors.raw")[2].item()
    assert list(observe(watched(unit(interior="one", ops=("avg", "max"))))) == ["exterior.C_w", "exterior.S_w"]
    assert not observe(watched(unit(branch="cs", interior="one")))


# --- all inputs


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("x", [maps((2, 64, 1, 1)), torch.zeros(2, 64, 5, 5), torch.full((2, 64, 4, 3), 3.5)],
                         ids=["1×1", "zero", "constant"])  # fmt: skip
def test_finite(x: Tensor, switches: dict[str, Any]) -> None:
    built, leaf = unit(stirred=True, **switches), x.clone().requires_grad_()
    found = built(leaf)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert leaf.grad is not None and torch.isfinite(leaf.grad).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in built.parameters())


@pytest.mark.parametrize("x", [torch.zeros(2, 64, 5, 5), torch.full((2, 64, 4, 3), 3.5)], ids=["zero", "constant"])
def test_entropy_says_nothing_of_constant_maps(x: Tensor) -> None:
    built = unit()
    assert not channel_map(built).pooled(x, x, "ent").any()
    assert not spatial_map(built).pooled(x, x, "ent").any()


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_images_do_not_know_of_each_other(switches: dict[str, Any]) -> None:
    built, x = unit(stirred=True, **switches), maps((3, 64, 6, 5))
    with torch.no_grad():
        alone = torch.cat([built(image) for image in x.split(1)])
        torch.testing.assert_close(built(x), alone, rtol=1e-6, atol=1e-6)


def test_bfloat16_under_autocast() -> None:
    built, x = unit(stirred=True), maps((2, 64, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        found = built(x.bfloat16().requires_grad_())
        pooled = channel_map(built).pooled(x.bfloat16(), x, "ent")
    assert found.dtype is torch.bfloat16 and pooled.dtype is torch.float
    with torch.no_grad():
        torch.testing.assert_close(found.float(), built(x.bfloat16().float()), rtol=0.02, atol=0.02)
    found.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype is torch.float and p.grad.any() for p in built.parameters())


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_parameters_of_a_unit(switches: dict[str, Any]) -> None:
    chosen = Cat.model_validate(switches)
    channel, spatial = chosen.branch in ("parallel", "c", "cs", "sc"), chosen.branch != "c"
    learned, concat = chosen.interior == "learned", chosen.fuse == "concat"
    for channels in (8, 24, 256):
        expected = 2 * channels * max(1, channels // 16) * channel + 49 * spatial * (len(chosen.ops) if concat else 1)
        expected += len(chosen.ops) * learned * (channel + (spatial and not concat)) + 2 * (chosen.branch == "parallel")
        assert sum(p.numel() for p in unit(channels, **switches).parameters()) == expected


def test_nothing_is_zero_that_must_not_be() -> None:
    built = unit()
    assert all(p.any() for name, p in built.named_parameters() if not name.endswith("raw"))
    assert not any(name.endswith("bias") for name, _ in built.named_parameters())


def test_settings_are_kept_apart_in_keys() -> None:
    from benchsuite.settings import canonical, content_key

    keys = [content_key(canonical(Cat.model_validate(each))) for each in SWITCHES]
    assert all(first != second for first, second in pairwise(sorted(keys)))
    assert content_key(canonical(Cat())) == content_key(canonical(Cat(interior_softmax=None, inner_sigmoid=None)))


@pytest.mark.parametrize(
    ("switches", "told"),
    [
        ({"ops": []}, "at least 1 item"),
        ({"ops": ["ent", "avg"]}, r"write each once, in the order \['avg', 'max', 'ent'\]"),
        ({"ops": ["avg", "avg"]}, "write each once"),
        ({"ops": ["median"]}, "'avg', 'max' or 'ent'"),
        ({"interior": "one", "interior_softmax": True}, "has no factors to normalise"),
        ({"branch": "cs", "combine": "alg1"}, "alg1 needs both maps"),
        ({"branch": "c", "inner_sigmoid": True}, "has no spatial map"),
        ({"branch": "c", "fuse": "concat"}, "has no spatial map"),
        ({"sigma": 0}, "greater than 0"),
    ],
)
def test_refuses(switches: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Cat.model_validate(switches)
