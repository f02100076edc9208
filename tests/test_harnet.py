import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from benchsuite.models import retinanet
from benchsuite.models.retinanet import RetinaNet
from benchsuite.papers.harnet import HarHead, Head, SpatialAttention, SpatialGates

STRIDES = (8, 16, 32, 64, 128)
SETTINGS = {
    "1-1-1": SpatialAttention(dilations=(1, 1, 1), channels=32),
    "1-2-5": SpatialAttention(dilations=(1, 2, 5), channels=32),
    "5-2-1": SpatialAttention(dilations=(5, 2, 1), channels=32),
    "1-2-5-2-1": SpatialAttention(dilations=(1, 2, 5, 2, 1), channels=16),
}
FIELDS = {"1-1-1": 7, "1-2-5": 17, "5-2-1": 17, "1-2-5-2-1": 23}


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def head(spatial: SpatialAttention | None, channels: int = 16) -> HarHead:
    torch.manual_seed(0)
    return Head(spatial=spatial, channels=channels).build((channels,) * len(STRIDES), STRIDES, (6,) * len(STRIDES), 4)


def stirred(gates: SpatialGates) -> SpatialGates:
    """Weights large enough for masks that differ from place to place."""
    for module in gates.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.normal_(module.get_parameter("bias"), std=0.1)
    return gates


def levels(channels: int = 16) -> list[Tensor]:
    """Five levels of odd sizes."""
    torch.manual_seed(1)
    return [torch.randn(2, channels, height, height + 2) for height in (25, 13, 7, 4, 2)]


@pytest.mark.parametrize("name", SETTINGS)
def test_parameters_of_table_1(name: str) -> None:
    with torch.device("meta"):
        baseline = RetinaNet().build(80)
        model = RetinaNet(head=Head(spatial=SETTINGS[name])).build(80)
        gates = SETTINGS[name].build(256, STRIDES)
    added, per_level = (219_925, 43_985) if name == "1-2-5-2-1" else (416_485, 83_297)
    assert parameters(baseline) == 37_387_832
    assert parameters(model) - parameters(baseline) == added
    assert [parameters(gate) for gate in gates.gates] == [per_level] * 5


@pytest.mark.parametrize("name", SETTINGS)
def test_receptive_field_has_no_holes(name: str) -> None:
    (gate,) = SETTINGS[name].build(3, (8,)).gates
    for parameter in gate.parameters():
        nn.init.constant_(parameter, 1e-3)
    image = torch.ones(1, 3, 41, 41, requires_grad=True)
    gate(image)[0, 0, 20, 20].backward()
    assert image.grad is not None
    seen = image.grad[0, 0] != 0
    side = FIELDS[name]
    assert side == 1 + 2 * sum(SETTINGS[name].dilations)
    assert seen.sum() == side**2
    assert seen[20 - side // 2 : 21 + side // 2, 20 - side // 2 : 21 + side // 2].all()


@pytest.mark.parametrize(
    ("rates", "expected"), [((1, 1, 1), 1), ((1, 2, 5), 2), ((5, 2, 1), 3), ((1, 2, 5, 2, 1), 3), ((1, 2, 9), 5)]
)
def test_hybrid_dilated_convolution_rule(rates: tuple[int, ...], expected: int) -> None:
    """M₂ of Wang et al. (reference 41 of the paper) must not exceed the kernel's 3."""
    distance = rates[-1]
    for rate in rates[-2:0:-1]:
        distance = max(distance - 2 * rate, 2 * rate - distance, rate)
    assert distance == expected


@pytest.mark.parametrize("name", SETTINGS)
def test_mask_equals_the_formula(name: str) -> None:
    settings = SETTINGS[name]
    torch.manual_seed(2)
    gates = stirred(settings.build(8, STRIDES))
    for gate, level, mask in zip(gates.gates, levels(8), gates(levels(8)), strict=True):
        x = level
        convolutions = [layer for layer in gate.children() if isinstance(layer, nn.Conv2d)]
        for number, (convolution, rate) in enumerate(zip(convolutions, settings.dilations, strict=True)):
            if number:
                x = x.clamp(min=0)
            x = dilated(x, convolution.weight, convolution.get_parameter("bias"), rate)
        torch.testing.assert_close(mask, 1 / (1 + (-x).exp()))
        assert mask.shape == (2, 1, *level.shape[2:])
        assert mask.min() > 0 and mask.max() < 1 and mask.std() > 0.01


def dilated(x: Tensor, weight: Tensor, bias: Tensor, rate: int) -> Tensor:
    """A 3×3 convolution as nine shifted sums: output (i, j) sees input (i + r(u - 1), j + r(v - 1))."""
    height, width = x.shape[2:]
    padded = torch.zeros(*x.shape[:2], height + 2 * rate, width + 2 * rate)
    padded[:, :, rate : rate + height, rate : rate + width] = x
    total = bias.view(1, -1, 1, 1).expand(len(x), -1, height, width)
    for u in range(3):
        for v in range(3):
            shifted = padded[:, :, u * rate : u * rate + height, v * rate : v * rate + width]
            total = total + torch.einsum("bchw,oc->bohw", shifted, weight[:, :, u, v])
    return total


def test_one_mask_scales_both_tasks_after_the_last_relu() -> None:
    attended = head(SETTINGS["1-2-5-2-1"])
    assert attended.spatial is not None
    stirred(attended.spatial)
    masks = attended.spatial(levels())
    cls_levels, box_levels = attended.towers(levels())
    for level, mask, cls_level, box_level in zip(levels(), masks, cls_levels, box_levels, strict=True):
        torch.testing.assert_close(cls_level, mask * attended.cls_tower(level))
        torch.testing.assert_close(box_level, mask * attended.box_tower(level))


def test_mask_is_a_half_where_the_last_layer_is_zero() -> None:
    attended = head(SETTINGS["1-1-1"])
    assert attended.spatial is not None
    for gate in attended.spatial.gates:
        for parameter in gate.get_submodule("4").parameters():
            nn.init.zeros_(parameter)
    assert all((mask == 0.5).all() for mask in attended.spatial(levels()))


def test_without_attention_it_is_retinanets_head() -> None:
    torch.manual_seed(0)
    plain = retinanet.Head(channels=16).build((16,) * len(STRIDES), STRIDES, (6,) * len(STRIDES), 4)
    reduced, attended = head(None), head(SETTINGS["1-2-5"])
    assert list(reduced.state_dict()) == list(plain.state_dict())
    for ours, theirs in zip(reduced(levels()), plain(levels()), strict=True):
        assert torch.equal(ours, theirs)
    # one seed gives the layers that all rows have the same weights
    assert all(torch.equal(attended.state_dict()[name], value) for name, value in plain.state_dict().items())


def test_levels_have_masks_of_their_own_and_all_learn() -> None:
    attended = head(SETTINGS["1-2-5-2-1"])
    cls_logits, bbox_regression = attended(levels())
    (cls_logits.square().sum() + bbox_regression.square().sum()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in attended.parameters())
    assert isinstance(attended.spatial, SpatialGates)
    assert len({id(parameter) for parameter in attended.spatial.parameters()}) == 5 * 5 * 2


@pytest.mark.parametrize("init", ["normal", "he"])
def test_initial_weights(init: str) -> None:
    settings = SpatialAttention.model_validate({"dilations": (1, 2, 5), "channels": 32, "init": init})
    first, second, last = (m for m in settings.build(256, (8,)).modules() if isinstance(m, nn.Conv2d))
    hidden = {"normal": (0.01, 0.01), "he": ((2 / (9 * 256)) ** 0.5, (2 / (9 * 32)) ** 0.5)}[init]
    expected = (*hidden, 0.01)
    assert [module.weight.std().item() for module in (first, second, last)] == pytest.approx(expected, rel=0.15)
    assert not any(module.get_parameter("bias").any() for module in (first, second, last))


def test_observe() -> None:
    gates = SETTINGS["1-1-1"].build(8, STRIDES)
    assert gates.observe() == {}
    masks = gates(levels(8))
    assert gates.observe() == pytest.approx({f"mask_P{3 + i}": mask.mean().item() for i, mask in enumerate(masks)})


@pytest.mark.parametrize(
    "wrong",
    [
        {"dilations": (1, 0, 1), "channels": 16},
        {"dilations": (1, -2), "channels": 16},
        {"dilations": (1,), "channels": 16},
        {"dilations": (1, 2), "channels": 0},
        {"dilations": (1, 2)},
        {"dilations": (1, 2), "channels": 16, "init": "xavier"},
        {"dilations": (1, 2), "channels": 16, "rates": (1,)},
    ],
)
def test_refuses(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SpatialAttention.model_validate(wrong)
