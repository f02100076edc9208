"""Section III-B: CLGN, SE, CLSE; har-net.spec 7.2, 7.6, 7.7, 7.9."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import group_norm

from benchsuite.models.cross_level import CrossLevelGroupNorm, cross_level_group_norm
from benchsuite.models.retinanet import RetinaNet
from benchsuite.papers.harnet import CLGN, CLSE, SE, ChannelAttention, HarHead, Head

STRIDES = (8, 16, 32, 64, 128)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def levels(channels: int = 16, seed: int = 1, images: int = 2) -> list[Tensor]:
    """Five levels of odd sizes."""
    torch.manual_seed(seed)
    return [torch.randn(images, channels, height, height + 2) for height in (25, 13, 7, 4, 2)]


def norm(channels: int = 16, **settings: Any) -> CrossLevelGroupNorm:
    torch.manual_seed(2)
    built = CLGN(groups=4, **settings).build(channels, 1.0)
    nn.init.uniform_(built.weight, 0.5, 1.5)
    nn.init.normal_(built.bias)
    return built


def head(channels: int = 16, **settings: Any) -> HarHead:
    torch.manual_seed(0)
    return Head(channels=channels, **settings).build((channels,) * len(STRIDES), STRIDES, (6,) * len(STRIDES), 4)


def stirred(module: nn.Module) -> Any:
    """Weights large enough for gates that differ from channel to channel."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.3)
    return module


@pytest.mark.parametrize(
    ("settings", "added"),
    [
        ({"channel": SE()}, 84_640),
        ({"channel": CLSE()}, 98_880),
        ({"clgn": CLGN(), "channel": CLSE()}, 101_952),
        ({"clgn": CLGN()}, 4_096),
        ({"extra_conv": True}, 1_180_160),
    ],
)
def test_parameters_of_table_2(settings: dict[str, Any], added: int) -> None:
    with torch.device("meta"):
        assert parameters(RetinaNet(head=Head(**settings)).build(80)) - 37_387_832 == added


def test_parameters_of_a_block() -> None:
    with torch.device("meta"):
        assert [parameters(gate) for gate in SE().build(256, 5).gates] == [8_464] * 5
        assert parameters(CLSE().build(256, 5)) == 49_440


# --- CLGN


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("images", [1, 2])
def test_clgn_is_group_norm_of_the_concatenated_levels(images: int, channels_last: bool) -> None:
    module, maps = norm(), levels(images=images)
    whole = group_norm(torch.cat([level.flatten(2) for level in maps], dim=2), 4, module.weight, module.bias)
    if channels_last:
        maps = [level.contiguous(memory_format=torch.channels_last) for level in maps]
    for level, normed, part in zip(
        maps, module(maps), whole.split_with_sizes([x[0, 0].numel() for x in maps], 2), strict=True
    ):
        torch.testing.assert_close(normed, part.view_as(level), rtol=1e-5, atol=1e-5)


def naive(maps: Sequence[Tensor], module: CrossLevelGroupNorm, centred: bool) -> list[Tensor]:
    """The equation, image by image and group by group, in double precision."""
    out = [torch.empty_like(level, dtype=torch.double) for level in maps]
    size = maps[0].shape[1] // module.groups
    for image in range(len(maps[0])):
        for group in range(module.groups):
            rows = slice(group * size, (group + 1) * size)
            values = torch.cat([level[image, rows].double().flatten() for level in maps])
            mean = values.mean() if centred else 0.0
            deviation = ((values - mean).square().mean() + 1e-5).sqrt()
            for level, result in zip(maps, out, strict=True):
                for channel in range(group * size, (group + 1) * size):
                    normed = (level[image, channel].double() - mean) / deviation
                    result[image, channel] = module.weight[channel].double() * normed + module.bias[channel].double()
    return out


@pytest.mark.parametrize("l2", [False, True])
def test_clgn_equals_the_equation(l2: bool) -> None:
    module, maps = norm(l2=l2), [2 * level + 0.7 for level in levels()]
    for normed, expected in zip(module(maps), naive(maps, module, centred=not l2), strict=True):
        torch.testing.assert_close(normed.double(), expected, rtol=1e-5, atol=1e-5)


@given(order=st.permutations(range(5)))
def test_clgn_does_not_know_the_order_of_levels(order: list[int]) -> None:
    module, maps = norm(), levels()
    straight, turned = module(maps), module([maps[place] for place in order])
    for place, level in zip(order, turned, strict=True):
        torch.testing.assert_close(level, straight[place], rtol=1e-5, atol=1e-5)


def test_clgn_couples_the_levels() -> None:
    module, maps = norm(), levels()
    before, after = module(maps)[4], module([5 * maps[0], *maps[1:]])[4]
    assert not torch.allclose(before, after, atol=0.1)
    apart = [group_norm(level, 4, module.weight, module.bias) for level in maps]
    assert not torch.allclose(before, apart[4], atol=0.1)


@given(scale=st.floats(0.5, 20), shift=st.floats(-3, 3))
def test_clgn_is_invariant_to_joint_scale_and_shift(scale: float, shift: float) -> None:
    module, maps = norm(), levels()
    moved = module([scale * level + shift for level in maps])
    for one, other in zip(module(maps), moved, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_clgn_is_the_same_in_training_and_of_each_image_alone() -> None:
    module, maps = norm(), levels()
    trained, tested = module.train()(maps), module.eval()(maps)
    alone = module([level[:1] for level in maps])
    for one, other, first in zip(trained, tested, alone, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one[:1], first, rtol=1e-5, atol=1e-5)
    assert not list(module.buffers())


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("channels_last", [False, True])
def test_gradient_of_clgn(centred: bool, channels_last: bool) -> None:
    torch.manual_seed(3)
    maps = [torch.randn(2, 4, side, side, dtype=torch.double) for side in (3, 2)]
    if channels_last:
        maps = [level.contiguous(memory_format=torch.channels_last) for level in maps]
    inputs = [value.requires_grad_() for value in (*maps, torch.rand(4).double(), torch.randn(4).double())]

    def outcome(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(cross_level_group_norm(values[:2], 2, values[2], values[3], centred=centred))

    if centred:  # the mean square is taken in single precision
        assert torch.autograd.gradcheck(outcome, inputs)
    else:
        torch.stack([out.square().sum() for out in outcome(*inputs)]).sum().backward()  # type: ignore[no-untyped-call]
        assert all(value.grad is not None and value.grad.any() for value in inputs)


def test_clgn_stands_after_every_convolution_but_the_gated_one() -> None:
    assert len(head(clgn=CLGN(groups=4)).cls_attention.norms) == 4
    assert len(head(clgn=CLGN(groups=4), channel=CLSE()).cls_attention.norms) == 3
    assert len(head(clgn=CLGN(groups=4), channel=CLSE(), extra_conv=True).cls_attention.norms) == 4
    assert len(head(channel=CLSE()).cls_attention.norms) == 0


def test_tower_with_clgn_equals_the_formula() -> None:
    attended, maps = head(clgn=CLGN(groups=4), channel=CLSE()), levels()
    for task, (tower, attention) in {
        0: (attended.cls_tower, attended.cls_attention),
        1: (attended.box_tower, attended.box_attention),
    }.items():
        x = maps
        for number in range(4):
            x = [tower[2 * number](level) for level in x]
            if number < 3:
                x = attention.norms[number](x)
            x = [level.clamp(min=0) for level in x]
        for ours, expected in zip(attended.attended(maps)[task], x, strict=True):
            torch.testing.assert_close(ours, expected)


def test_last_gamma_is_the_last_ones() -> None:
    norms = head(clgn=CLGN(groups=4, last_gamma=0.1)).cls_attention.norms
    assert [built.get_parameter("weight")[0].item() for built in norms] == pytest.approx([1, 1, 1, 0.1])


# --- SE and CLSE


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_clse_equals_the_formula(pool: Any) -> None:
    gates, maps = stirred(CLSE(hidden=5, pool=pool).build(16, 5)), levels()
    first, second = gates.gate[0], gates.gate[2]
    for image in range(2):
        pooled = [[row.max() if pool == "max" else row.mean() for row in level[image]] for level in maps]
        z = torch.tensor([value for level in pooled for value in level])
        hidden = (first.weight @ z + first.bias).clamp(min=0)
        expected = 1 / (1 + (-(second.weight @ hidden + second.bias)).exp())
        for gate in gates(maps):
            assert gate.shape == (2, 16, 1, 1)
            torch.testing.assert_close(gate[image, :, 0, 0], expected)


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_se_equals_the_formula(pool: Any) -> None:
    gates, maps = stirred(SE(reduction=4, pool=pool).build(16, 5)), levels()
    for level, gate, block in zip(maps, gates(maps), gates.gates, strict=True):
        z = level.amax((2, 3)) if pool == "max" else level.mean((2, 3))
        hidden = (z @ block[0].weight.T + block[0].bias).clamp(min=0)
        torch.testing.assert_close(gate[..., 0, 0], torch.sigmoid(hidden @ block[2].weight.T + block[2].bias))


def test_clse_sees_all_levels_and_se_only_its_own() -> None:
    maps = levels()
    changed = [maps[0] + 1, *maps[1:]]
    across, apart = stirred(CLSE().build(16, 5)), stirred(SE().build(16, 5))
    assert not torch.equal(across(maps)[4], across(changed)[4])
    assert torch.equal(apart(maps)[4], apart(changed)[4])
    assert not torch.equal(apart(maps)[0], apart(changed)[0])


@pytest.mark.parametrize("channel", [SE(reduction=4), CLSE()])
def test_weights_are_between_0_and_1_and_of_each_task_alone(channel: ChannelAttention) -> None:
    attended, maps = stirred(head(channel=channel)), levels()
    for task, tower in (("cls", attended.cls_tower), ("box", attended.box_tower)):
        gates = attended.get_submodule(f"{task}_attention.channel")(maps)
        assert all(gate.min() > 0 and gate.max() < 1 for gate in gates)
        plain = [tower(level) for level in maps]
        weights = attended.get_submodule(f"{task}_attention.channel")(plain)
        ours = attended.towers(maps)[("cls", "box").index(task)]
        for level, weight, result in zip(plain, weights, ours, strict=True):
            torch.testing.assert_close(result, weight * level)
    ids = [{id(p) for p in attended.get_submodule(f"{task}_attention").parameters()} for task in ("cls", "box")]
    assert not ids[0] & ids[1]


def test_one_weight_of_clse_scales_all_levels_of_a_task() -> None:
    attended, maps = stirred(head(channel=CLSE())), levels()
    weights = []
    for task in (0, 1):
        plain = attended.attended(maps)[task]
        gates = attended.get_submodule(("cls", "box")[task] + "_attention.channel")(plain)
        for gate, level, result in zip(gates, plain, attended.towers(maps)[task], strict=True):
            assert torch.equal(gate, gates[0])
            torch.testing.assert_close(result, gates[0] * level)
        weights.append(gates[0])
    assert not torch.allclose(*weights)


@pytest.mark.parametrize("channel", [SE(reduction=4), CLSE()])
def test_weights_are_a_half_where_the_last_layer_is_zero(channel: ChannelAttention) -> None:
    gates = channel.build(16, 5)
    for layer in gates.modules():
        if isinstance(layer, nn.Sequential):
            for value in layer[2].parameters():
                nn.init.zeros_(value)
    assert all((gate == 0.5).all() for gate in gates(levels()))


@pytest.mark.parametrize("settings", [
    {"channel": SE(reduction=1)}, {"channel": CLSE()}, {"clgn": CLGN(groups=4), "channel": CLSE()},
])  # fmt: skip
def test_everything_learns(settings: dict[str, Any]) -> None:
    attended = head(**settings)
    cls_logits, bbox_regression = attended(levels())
    (cls_logits.square().sum() + bbox_regression.square().sum()).backward()
    still = [name for name, value in attended.named_parameters() if value.grad is None or not value.grad.any()]
    assert not still


@pytest.mark.parametrize("settings", [{"channel": CLSE()}, {"clgn": CLGN(groups=4)}, {"channel": SE(reduction=4)}])
def test_a_seed_gives_the_baselines_layers_the_same_weights(settings: dict[str, Any]) -> None:
    plain, attended = head().state_dict(), head(**settings).state_dict()
    assert all(torch.equal(attended[name], value) for name, value in plain.items())


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        (CLGN, {"groups": 0}),
        (CLGN, {"norm": 1}),
        (CLSE, {"pool": "sum"}),
        (CLSE, {"hidden": 0}),
        (SE, {"reduction": 0}),
        (Head, {"channels": 24, "clgn": {"groups": 16}}),
        (Head, {"channel": {"kind": "harnet.CLGN"}}),
        (Head, {"channel": {"kind": "fpn.Fpn"}}),
        (Head, {"dual_predictors": True}),
    ],
)
def test_refuses(part: Any, wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        part.model_validate(wrong)


@pytest.mark.parametrize("offset", [0.0, 3.0, 30.0])
def test_clgn_is_as_exact_as_group_norm_of_channels_last_maps(offset: float) -> None:
    torch.manual_seed(0)
    x = (torch.randn(2, 32, 40, 40) + offset).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.ones(32), torch.zeros(32)
    exact = nn.functional.group_norm(x.double(), 4, weight.double(), bias.double())
    ours = (cross_level_group_norm([x], 4, weight, bias)[0] - exact).abs().max()
    theirs = (nn.functional.group_norm(x, 4, weight, bias) - exact).abs().max()
    assert ours < 4 * theirs + 1e-6
