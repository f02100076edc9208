"""Section III-C: aligned attention; har-net.spec 7.2, 7.8."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import conv2d

from benchsuite.errors import InputError
from benchsuite.loops.solver import factors
from benchsuite.models.fpn import Fpn
from benchsuite.models.retinanet import RetinaNet
from benchsuite.papers.harnet import AlignedAttention, AlignedLevels, AlignedNeck

CHANNELS, STRIDES = (8, 16, 24), (8, 16, 32)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def settings(align: Sequence[int] = (4, 5), **changes: Any) -> AlignedNeck:
    small = {"channels": 16, "groups": 4, "of": Fpn(channels=8)} | changes
    return AlignedNeck.model_validate({"align": tuple(align), **small})


def unit(**changes: Any) -> AlignedAttention:
    torch.manual_seed(0)
    return AlignedAttention(settings(**changes), 8)


def neck(align: Sequence[int] = (4, 5)) -> AlignedLevels:
    torch.manual_seed(0)
    return settings(align).build(CHANNELS, STRIDES)


def maps() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, width, size, size + 2).relu() for width, size in zip(CHANNELS, (12, 6, 3), strict=True)]


@pytest.mark.parametrize(
    ("align", "added"),
    [((5,), 1_809_480), ((4,), 1_283_144), ((3,), 1_019_976), ((4, 5), 3_092_624), ((3, 4, 5), 4_112_600)],
)
def test_parameters_of_table_3(align: tuple[int, ...], added: int) -> None:
    with torch.device("meta"):
        model = RetinaNet(neck=AlignedNeck.model_validate({"align": align})).build(80)
    assert parameters(model) - 37_387_832 == added


def test_the_last_norm_starts_at_a_tenth() -> None:
    built = unit()
    assert built.expand_norm.weight.eq(0.1).all() and not built.expand_norm.bias.any()
    assert built.offsets.out_channels == 72 and built.offsets.bias is not None
    assert not built.offsets.weight.any() and not built.offsets.bias.any()
    assert [built.reduce.bias, built.deform.bias, built.expand.bias] == [None] * 3


def test_adds_to_what_the_backbone_gives() -> None:
    x = maps()[0]
    assert (unit()(x) >= x).all()
    assert not torch.equal(unit()(x), x)


def test_is_the_identity_where_the_last_scale_is_0() -> None:
    built, x = unit(), maps()[0]
    nn.init.zeros_(built.expand_norm.weight)
    assert torch.equal(built(x), x)


def test_equals_the_formula_with_an_ordinary_convolution_at_its_start() -> None:
    """The offsets are 0, so the deformable convolution is an ordinary one."""
    built, x = unit(), maps()[0]
    hidden = built.reduce_norm(conv2d(x, built.reduce.weight)).clamp(min=0)
    aligned = built.deform_norm(conv2d(hidden, built.deform.weight, padding=1)).clamp(min=0)
    expected = x + built.expand_norm(conv2d(aligned, built.expand.weight)).clamp(min=0)
    torch.testing.assert_close(built(x), expected, rtol=1e-4, atol=1e-5)


def test_offsets_move_where_the_convolution_looks() -> None:
    """All taps moved by whole cells: the convolution of the shifted map, by group of input channels."""
    built = unit()
    hidden = torch.randn(1, 16, 9, 9)
    offsets = torch.zeros(1, 4, 9, 2, 9, 9)
    offsets[:, 2, :, 0], offsets[:, 2, :, 1] = 1.0, -2.0  # group 2 looks one row below, two columns to the left
    moved = hidden.clone()
    moved[:, 8:12] = 0
    moved[:, 8:12, :-1, 2:] = hidden[:, 8:12, 1:, :-2]
    ours = built.deform(hidden, offsets.view(1, 72, 9, 9))
    expected = conv2d(moved, built.deform.weight, padding=1)
    torch.testing.assert_close(ours[..., 2:-2, 3:-3], expected[..., 2:-2, 3:-3], rtol=1e-4, atol=1e-5)


def test_everything_learns_from_the_start() -> None:
    built = unit()
    (built(maps()[0]) * torch.randn(2, 8, 12, 14)).sum().backward()
    still = [name for name, value in built.named_parameters() if value.grad is None or not value.grad.any()]
    assert not still


@pytest.mark.parametrize("align", [(3,), (4, 5), (5, 3)])
def test_only_the_chosen_levels_are_aligned(align: tuple[int, ...]) -> None:
    built, given = neck(align), maps()
    assert set(built.units) == {f"C{level}" for level in align}
    aligned = [built.units[n](x) if n in built.units else x for n, x in zip(("C3", "C4", "C5"), given, strict=True)]
    for level, expected in zip(built(given), built.of(aligned), strict=True):
        assert torch.equal(level, expected)
    assert built.strides == (8, 16, 32, 64, 128) and built.channels == (8,) * 5


def test_p6_is_made_of_the_aligned_c5() -> None:
    built, given = neck((5,)), maps()
    assert torch.equal(built(given)[3], built.of.get_submodule("fpn.extra_blocks.p6")(built.units["C5"](given[2])))


def test_a_seed_gives_other_layers_the_same_weights() -> None:
    def built(neck: Any) -> dict[str, Tensor]:
        torch.manual_seed(5)
        return RetinaNet(neck=neck).build(2).state_dict()

    with_it, without = built(AlignedNeck(align=(5,))), built(Fpn())
    for name, value in without.items():
        assert torch.equal(with_it[name.replace("neck.", "neck.of.")], value), name


def test_offsets_learn_at_a_tenth_of_the_rate() -> None:
    rates = factors(neck((5,)), "lr_factor")
    slow = {name for name, factor in rates.items() if factor != 1}
    assert slow == {"units.C5.offsets.weight", "units.C5.offsets.bias"}
    assert {rates[name] for name in slow} == {0.1}


def test_observe() -> None:
    built = unit()
    assert built.observe() == {}
    nn.init.constant_(built.offsets.get_parameter("bias"), -2.0)
    built(maps()[0])
    assert built.observe() == {"offset": 2.0}


def test_runs_in_mixed_precision() -> None:
    built, x = unit().to(memory_format=torch.channels_last), maps()[0]
    with torch.autocast("cpu", torch.bfloat16):
        out = built(x.contiguous(memory_format=torch.channels_last))
    out.float().sum().backward()
    assert out.isfinite().all()


def test_a_level_that_the_backbone_lacks_is_named() -> None:
    with pytest.raises(InputError, match=r"^neck.align: the backbone gives C3, C4, C5 and no C2; leave it out$"):
        neck((2, 5))


def test_groups_that_do_not_fit_the_backbone_are_named() -> None:
    with pytest.raises(InputError, match=r"^neck.groups 4 does not divide 6 channels; choose a divisor$"):
        settings((5,)).build((6,), (32,))


@pytest.mark.parametrize(
    "wrong",
    [
        {"align": ()},
        {"align": (6,)},
        {},
        {"align": (5,), "gamma": 0},
        {"align": (5,), "groups": 30},
        {"align": (5,), "channels": 66, "groups": 33},
        {"align": (5,), "of": {"kind": "resnet.ResNet"}},
    ],
)
def test_refuses(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AlignedNeck.model_validate(wrong)
