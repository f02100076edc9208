"""Section III-D and IV-B: all attention together; har-net.spec 7.1 to 7.3, 7.6, 7.10, 7.16."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import conv2d

from benchsuite.data.batch import Batch
from benchsuite.models.dense import DenseDetector
from benchsuite.models.fpn import Fpn
from benchsuite.models.postprocess import PostProcess
from benchsuite.models.retinanet import RetinaNet
from benchsuite.papers.harnet import CLGN, CLSE, AlignedNeck, HarHead, Head, SpatialAttention

STRIDES = (8, 16, 32, 64, 128)
AA = AlignedNeck(align=(4, 5))
CA = Head(clgn=CLGN(), channel=CLSE())
SA = SpatialAttention(dilations=(1, 2, 5, 2, 1), channels=16)
HA = Head(clgn=CLGN(), spatial=SA, extra_conv=True, channel=CLSE())
BACKBONES = {
    "r50": ({"kind": "resnet.ResNet"}, (37_387_832, 40_582_408, 41_983_517)),
    "r101": ({"kind": "resnet.ResNet", "depth": 101}, (56_379_960, 59_574_536, 60_975_645)),
    "se-r50": ({"kind": "timm_backbone.Timm", "name": "legacy_seresnet50"}, (39_918_824, 43_113_400, 44_514_509)),
    "se-r101": ({"kind": "timm_backbone.Timm", "name": "legacy_seresnet101"}, (61_157_672, 64_352_248, 65_753_357)),
    "se-rx50": (
        {"kind": "timm_backbone.Timm", "name": "legacy_seresnext50_32x4d"},
        (39_390_696, 42_585_272, 43_986_381),
    ),
    "se-rx101": (
        {"kind": "timm_backbone.Timm", "name": "legacy_seresnext101_32x4d"},
        (60_786_216, 63_980_792, 65_381_901),
    ),
}


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def small(**changes: Any) -> Head:
    settings = {
        "channels": 16, "clgn": {"groups": 4}, "spatial": {"dilations": (1, 2, 1), "channels": 8},
        "extra_conv": True, "channel": {"kind": "harnet.CLSE"},
    }  # fmt: skip
    return Head.model_validate(settings | changes)


def built(**changes: Any) -> HarHead:
    torch.manual_seed(0)
    return small(**changes).build((16,) * len(STRIDES), STRIDES, (6,) * len(STRIDES), 4)


def levels() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, 16, height, height + 2) for height in (25, 13, 7, 4, 2)]


@pytest.mark.parametrize("name", BACKBONES)
def test_totals_of_table_4(name: str) -> None:
    backbone, totals = BACKBONES[name]
    with torch.device("meta"):
        rows = [{}, {"neck": AA, "head": CA}, {"neck": AA, "head": HA}]
        found = [parameters(RetinaNet.model_validate({"backbone": backbone, **row}).build(80)) for row in rows]
    assert tuple(found) == totals
    assert (found[1] - found[0], found[2] - found[0], found[2] - found[1]) == (3_194_576, 4_595_685, 1_401_109)


def test_parameters_of_the_second_predictors() -> None:
    with torch.device("meta"):
        one, two = (
            parameters(head.build((256,) * len(STRIDES), STRIDES, (6,) * len(STRIDES), 80))
            for head in (HA, HA.model_copy(update={"dual_predictors": True}))
        )
    assert two - one == 1_161_720


def test_hybrid_equals_the_sections_order() -> None:
    head, maps = built(), levels()
    assert head.spatial is not None
    masks = head.spatial(maps)
    for task, tower, attention in (
        (0, head.cls_tower, head.cls_attention),
        (1, head.box_tower, head.box_attention),
    ):
        x = maps
        for number in range(4):
            x = [tower[2 * number](level) for level in x]
            x = [level.clamp(min=0) for level in attention.norms[number](x)]
        x = [mask * level for mask, level in zip(masks, x, strict=True)]
        extra = attention.extra_conv
        assert extra is not None and attention.channel is not None
        x = [conv2d(level, extra.weight, extra.bias, padding=1).clamp(min=0) for level in x]
        x = [weight * level for weight, level in zip(attention.channel(x), x, strict=True)]
        for ours, expected in zip(head.towers(maps)[task], x, strict=True):
            torch.testing.assert_close(ours, expected)


def test_zeroed_gates_quarter_what_the_predictors_see() -> None:
    head, maps = built(), levels()
    assert head.spatial is not None
    plain = built(spatial=None, channel=None)
    plain.load_state_dict({n: v for n, v in head.state_dict().items() if n in plain.state_dict()})
    for gate in (*head.spatial.gates, head.cls_attention.channel, head.box_attention.channel):
        assert isinstance(gate, nn.Module)
        last = [layer for layer in gate.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))][-1]
        for value in last.parameters():
            nn.init.zeros_(value)
    for ours, theirs in zip(head.towers(maps), plain.towers(maps), strict=True):
        for level, ungated in zip(ours, theirs, strict=True):
            torch.testing.assert_close(level, 0.25 * ungated)


@pytest.mark.parametrize("dual", [None, True])
def test_everything_learns(dual: bool | None) -> None:
    head = built(dual_predictors=dual)
    cls_logits, bbox_regression = head(levels())
    (cls_logits.square().sum() + bbox_regression.square().sum()).backward()
    still = [name for name, value in head.named_parameters() if value.grad is None or not value.grad.any()]
    assert not still


def test_main_is_the_baselines_head() -> None:
    main = small(dual_predictors=True).main
    assert main == Head(channels=16)
    state = main.build((16,) * len(STRIDES), STRIDES, (6,) * len(STRIDES), 4).state_dict()
    assert not [name for name in state if "attention" in name or "spatial" in name or "early" in name]
    assert state.keys() <= built().state_dict().keys()


# --- two pairs of predictors


def test_two_pairs_give_the_mean_when_tested_and_both_when_trained() -> None:
    head, maps = built(dual_predictors=True), levels()
    cls_logits, bbox_regression = head.train()(maps)
    one = built(dual_predictors=None)
    one.load_state_dict({n: v for n, v in head.state_dict().items() if not n.startswith("early")})
    late = one(maps)
    mean = head.eval()(maps)
    for both, its_mean, its_late in zip((cls_logits, bbox_regression), mean, late, strict=True):
        assert both.shape[0] == 4 and its_mean.shape[0] == 2
        torch.testing.assert_close(both[2:], its_late)
        torch.testing.assert_close((both[:2] + both[2:]) / 2, its_mean)


def detector(head: Head) -> DenseDetector:
    torch.manual_seed(0)
    settings = {"backbone": {"kind": "resnet.ResNet", "depth": 18}, "neck": {"kind": "fpn.Fpn", "channels": 16}}
    return RetinaNet.model_validate({**settings, "head": head}).build(4)


def a_batch() -> Batch:
    torch.manual_seed(2)
    corners = torch.rand(2, 2, 2) * 30
    sizes = torch.tensor([[64, 64], [50, 64]])
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    boxes = torch.cat((corners, corners + 30), dim=-1)
    return Batch(images, sizes, sizes, torch.arange(2), boxes, torch.randint(4, (2, 2)))


def test_losses_of_two_pairs_are_the_mean_of_both() -> None:
    model, batch = detector(small(dual_predictors=True)), a_batch()
    model.train()
    ours = model.losses(batch)
    cls_logits, bbox_regression, maps = model(model.normalised(batch))
    anchors = model.settings.anchors.grid(maps, model.neck.strides, (64, 64), cls_logits.device)
    pairs = [
        model.losses_of(cls_logits[rows], bbox_regression[rows], anchors, batch.boxes, batch.labels)
        for rows in (slice(0, 2), slice(2, 4))
    ]
    for name, value in ours.items():
        torch.testing.assert_close(value, (pairs[0][name] + pairs[1][name]) / 2, rtol=1e-3, atol=1e-5)


def test_a_whole_har_net_trains_and_detects() -> None:
    settings: Mapping[str, Any] = {
        "backbone": {"kind": "resnet.ResNet", "depth": 18},
        "neck": {"kind": "harnet.AlignedNeck", "align": (4, 5), "channels": 32, "of": Fpn(channels=16)},
        "head": small(),
    }
    torch.manual_seed(0)
    model = RetinaNet.model_validate(settings).build(4)
    batch = a_batch()
    model.train()
    torch.stack(list(model.losses(batch).values())).sum().backward()  # type: ignore[no-untyped-call]
    for name, value in model.named_parameters():
        if "spatial" in name or "attention" in name or "units" in name:
            assert value.grad is not None and value.grad.any(), name
    model.eval()
    with torch.inference_mode():
        found = model.detect(batch, PostProcess(score_threshold=0.0, per_level=50, per_image=20))
    assert (found.labels >= 0).all() and found.boxes.isfinite().all()


# --- switches


def test_shared_spatial_attention() -> None:
    head, maps = built(spatial={"dilations": (1, 2, 1), "channels": 8, "shared": True}), levels()
    assert head.spatial is not None
    assert len(head.spatial.gates) == 1
    for level, mask in zip(maps, head.spatial(maps), strict=True):
        assert torch.equal(mask, head.spatial.gates[0](level))
    assert set(head.spatial.observe()) == {f"mask_P{level}" for level in range(3, 8)}


def test_norms_in_spatial_attention() -> None:
    head = built(spatial={"dilations": (1, 2, 1), "channels": 8, "norm_groups": 4})
    assert head.spatial is not None
    kinds = [type(layer).__name__ for layer in head.spatial.gates[0].children()]
    assert kinds == ["Conv2d", "GroupNorm", "ReLU"] * 2 + ["Conv2d", "Sigmoid"]
    assert parameters(head.spatial) == parameters(built().get_submodule("spatial"))


def test_switches_that_are_off_are_none() -> None:
    off = SpatialAttention.model_validate({"dilations": (1, 2), "channels": 8, "shared": False})
    assert off.shared is None
    assert Head.model_validate({"extra_conv": False, "dual_predictors": False}) == Head()


@pytest.mark.parametrize(
    "wrong",
    [
        {"spatial": {"dilations": (1, 0, 1), "channels": 8}},
        {"spatial": {"dilations": (1, 2), "channels": 8, "norm_groups": 3}},
        {"spatial": {"dilations": (1, 2), "channels": 8, "shared": "often"}},
        {"dual_predictors": True},
        {"align": (4, 5)},
    ],
)
def test_refuses(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Head.model_validate(wrong)
