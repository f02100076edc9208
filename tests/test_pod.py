"""POD's convolutions (sections 3.1 to 3.3); pod.spec 1, 4, 9."""

import itertools
import math
from collections.abc import Mapping

import pytest
import torch
from pod_cases import Tiny, channels, scales, statistics
from torch import Tensor, nn
from torch.nn.functional import conv2d

from benchsuite.data.batch import Batch
from benchsuite.errors import InputError
from benchsuite.models.cost import macs, parameters
from benchsuite.models.detector import Detector, Model
from benchsuite.models.fpn import Fpn
from benchsuite.models.rcnn import FasterRcnnC4
from benchsuite.models.resnet import ResNet
from benchsuite.models.retinanet import Head, RetinaNet
from benchsuite.papers import pod
from benchsuite.papers.pod import Fd, FdConv, Gsl, GslConv, cells_of, deform, mix, transfer
from benchsuite.papers.pod_decompose import Dilations, decompose, decompose_all

SCALES = [(0.02, 0.3), (0.88, 0.95), (1.3, 1.28), (1.7, 2.9), (3.57, 3.45), (8.49, 9.34)]
ONES = Dilations(layers={name: decompose(1, 1, count) for name, count in {"R31": 16, "R41": 32, "R51": 64}.items()})


def naive(x: Tensor, weight: Tensor, d: tuple[float, float], stride: int) -> Tensor:
    """y(p) = Σ w_ij x(s p + (i d_h, j d_w)), x(h, w) = Σ λ(h*, h) λ(w*, w) x(h*, w*), λ(p, q) = max(0, 1 - |p - q|)."""
    rows, columns = x.shape[2:]
    size = [(side - 1) // stride + 1 for side in (rows, columns)]
    y = x.new_zeros(len(x), len(weight), *size)
    for p, q in itertools.product(*map(range, size)):
        for i, j in itertools.product((-1, 0, 1), repeat=2):
            h, w = stride * p + i * d[0], stride * q + j * d[1]
            for a, b in itertools.product((math.floor(h), math.floor(h) + 1), (math.floor(w), math.floor(w) + 1)):
                if 0 <= a < rows and 0 <= b < columns:
                    share = max(0.0, 1 - abs(a - h)) * max(0.0, 1 - abs(b - w))
                    y[:, :, p, q] += share * x[:, :, a, b] @ weight[:, :, i + 1, j + 1].T
    return y


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("d", [(0.0, 0.4), (1.0, 1.0), (1.7, 2.9), (6.3, 2.0)])
def test_both_backends_are_the_equation(d: tuple[float, float], stride: int) -> None:
    x, weight = torch.randn(2, 2, 7, 8).double(), torch.randn(3, 2, 3, 3).double()
    expected, scale = naive(x, weight, d, stride), torch.tensor([d], dtype=torch.double)
    for found in (
        mix(x, weight, scale, (stride, stride), cells_of(scale)),
        deform(x, weight, scale, (stride, stride)),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def _both(dtype: torch.dtype, d: tuple[float, float], stride: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """(output, gradients in x, weight, scale) of both backends, 256 channels, weights as drawn for a convolution."""
    torch.manual_seed(0)
    weight = nn.Conv2d(256, 32, 3, dtype=dtype).weight
    x = torch.randn(1, 256, 13, 14, dtype=dtype, requires_grad=True)
    scale = torch.tensor([d], dtype=dtype, requires_grad=True)
    outputs = mix(x, weight, scale, (stride, stride), cells_of(scale)), deform(x, weight, scale, (stride, stride))
    return [(y.detach(), *torch.autograd.grad(y.square().sum(), (x, weight, scale))) for y in outputs]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("d", SCALES)
def test_backends_agree(d: tuple[float, float], stride: int) -> None:
    for dtype, output, gradient in ((torch.float, 5e-6, 5e-6), (torch.double, 1e-14, 1e-13)):
        mixed, deformed = _both(dtype, d, stride)
        assert (mixed[0] - deformed[0]).abs().max() < output
        for one, other in zip(mixed[1:], deformed[1:], strict=True):
            assert (one - other).norm() < gradient * other.norm()


@pytest.mark.parametrize("d", [(1, 1), (2, 3), (9, 1)])
def test_whole_scales_are_dilated_convolutions(d: tuple[int, int]) -> None:
    x, weight = torch.randn(1, 256, 12, 12), nn.Conv2d(256, 16, 3).weight.detach()
    scale = torch.tensor([d]).float()
    expected = conv2d(x, weight, padding=d, dilation=d)
    assert (deform(x, weight, scale, (1, 1)) - expected).abs().max() < 1e-5
    assert (mix(x, weight, scale, (1, 1), [d]) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("size", "expected"), [(7, 4), (8, 4), (13, 7), (14, 7)])
def test_the_size_depends_on_no_scale(size: int, expected: int) -> None:
    x, weight = torch.zeros(1, 2, size, size), torch.zeros(3, 2, 3, 3)
    for step in range(4):
        scale = torch.tensor([[step + 0.5, 0.2]])
        assert mix(x, weight, scale, (2, 2), [(step, 0)]).shape == (1, 3, expected, expected)
        assert deform(x, weight, scale, (2, 2)).shape == (1, 3, expected, expected)
        parts = decompose(step + 0.5, 0.2, 3)
        assert FdConv(nn.Conv2d(2, 3, 3, stride=2, bias=False), parts)(x).shape == (1, 3, expected, expected)


def gsl_conv(bias: tuple[float, float] = (0, 0), width: int = 8) -> GslConv:
    conv = GslConv(nn.Conv2d(width, 6, 3, padding=1, bias=False), "R31")
    with torch.no_grad():
        conv.predictor.bias.copy_(torch.tensor(bias))
        conv.predictor.weight.normal_(std=3)
    return conv


def test_a_batch_of_many_scales_is_its_samples() -> None:
    torch.manual_seed(0)
    conv, x = gsl_conv(), torch.rand(6, 8, 9, 10) * torch.arange(6).view(6, 1, 1, 1)
    together = conv(x)
    assert conv.scales is not None and conv.used == "mix" and len(cells_of(conv.scales)) > 2
    deformed = deform(x, conv.weight, conv.scales, (1, 1))
    torch.testing.assert_close(deformed, together, rtol=0, atol=1e-5)
    alone = torch.cat([conv(each) for each in x.split(1)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)
    one_hot = torch.randn_like(together)
    gradients = [torch.autograd.grad(y, list(conv.parameters()), one_hot) for y in (together, alone)]
    for first, second in zip(*gradients, strict=True):
        assert (first - second).norm() < 1e-4 * second.norm()


def test_the_scale_is_softplus_of_pooled_features() -> None:
    predictor, x = gsl_conv((0.3, -0.2)).predictor, torch.rand(3, 8, 5, 6)
    z = x.mean((2, 3)) @ predictor.weight.T + predictor.bias
    torch.testing.assert_close(predictor(x), torch.log1p(torch.exp(z + math.log(math.e - 1))))
    predictor.fix((8.49, 0.31))
    torch.testing.assert_close(predictor(x), torch.tensor([[8.49, 0.31]]).expand(3, 2), rtol=1e-5, atol=0)


def test_initialisation() -> None:
    torch.manual_seed(0)
    near, he = (pod.ScalePredictor(512, init) for init in ("near_one", "he"))
    assert near.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert he.weight.std().item() == pytest.approx(math.sqrt(2 / 512), rel=0.1)
    assert not near.bias.any() and not he.bias.any()
    start = near(torch.rand(4, 512, 3, 3))
    assert (start - 1).abs().max() < 0.5 and (start != 1).all(), "close to 1, not at it"


def test_a_scale_beyond_the_map_leaves_the_centre() -> None:
    x, weight = torch.randn(2, 4, 5, 6), torch.randn(3, 4, 3, 3)
    scale = torch.tensor([[1e5, 2e9], [7.0, 8.5]])
    expected = conv2d(x, weight[:, :, 1:2, 1:2])
    torch.testing.assert_close(mix(x, weight, scale, (1, 1), cells_of(scale)), expected)


def test_what_is_no_number_stays_none() -> None:
    conv = gsl_conv()
    for x in (
        torch.full((1, 8, 5, 5), torch.nan),
        torch.stack((torch.rand(8, 5, 5), torch.full((8, 5, 5), torch.nan))),
    ):
        assert conv(x)[-1].isnan().all()


def test_the_backend_follows_the_batch() -> None:
    conv, x = gsl_conv(), torch.rand(pod.MIX_CELLS + 1, 8, 5, 5)
    conv.predictor.forward = lambda x, rois: 0.5 + torch.arange(2.0 * len(x)).view(-1, 2)  # type: ignore[method-assign]
    for count, used in ((1, "mix"), (pod.MIX_CELLS, "mix"), (pod.MIX_CELLS + 1, "deform")):
        conv(x[:count])
        assert conv.used == used
    conv.backend = "deform"
    conv(x[:1])
    assert conv.used == "deform"


def test_one_scale_for_the_regions_of_an_image() -> None:
    torch.manual_seed(0)
    conv, x = gsl_conv(), torch.rand(5, 8, 7, 7)
    conv.rois_per_image = [3, 0, 2]
    y = conv(x)
    found = conv.scales
    assert found is not None and found.shape == (3, 2)
    assert torch.equal(found[1], torch.ones(2)), "an image without regions"
    for rows, scale in ((slice(0, 3), found[:1]), (slice(3, 5), found[2:])):
        torch.testing.assert_close(conv.predictor(x[rows].mean(0, keepdim=True)), scale)
        torch.testing.assert_close(deform(x[rows], conv.weight, scale, (1, 1)), y[rows], rtol=0, atol=1e-5)


def test_no_regions_at_all() -> None:
    conv = gsl_conv()
    for counts in ([0], [0, 0]):
        conv.rois_per_image = counts
        y = conv(torch.zeros(0, 8, 7, 7, requires_grad=True))
        assert y.shape == (0, 6, 7, 7)
        y.sum().backward()
        assert conv.scales is not None and torch.equal(conv.scales, torch.ones(len(counts), 2))


@pytest.mark.parametrize("bias", [(0.0, 0.0), (-3.0, 4.0)])
def test_half_precision_and_channels_last(bias: tuple[float, float]) -> None:
    torch.manual_seed(0)
    conv = gsl_conv(bias).to(memory_format=torch.channels_last)
    images = torch.rand(3, 8, 9, 11).contiguous(memory_format=torch.channels_last)
    for conv.backend in ("mix", "deform"):
        x, gradients = images, {}
        for enabled in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                y = conv(x.bfloat16() if enabled else x)
                assert conv.scales is not None and conv.scales.dtype == torch.float
            y.float().square().sum().backward()
            gradients[enabled] = [value.grad.clone() for value in conv.parameters() if value.grad is not None]
            conv.zero_grad()
        for full, half in zip(gradients[False], gradients[True], strict=True):
            assert (full - half).norm() < 0.05 * full.norm()


# --- edits of a backbone


@pytest.mark.parametrize(("depth", "layers", "extra"), [(50, 13, 7194), (101, 30, 15932)])
def test_gsl_replaces_every_3x3_of_conv3_to_conv5(depth: int, layers: int, extra: int) -> None:
    with torch.device("meta"):
        plain, learnt = (ResNet(depth=depth, edits=edits).build() for edits in (None, (Gsl(),)))
    convs = [module for module in learnt.modules() if isinstance(module, GslConv)]
    assert [conv.name for conv in convs] == list(channels(depth)) and len(convs) == layers
    assert parameters(learnt) - parameters(plain) == extra
    assert [conv.stride for conv in convs if conv.name in ("R31", "R41", "R51")] == [(2, 2)] * 3
    assert all(conv.stride == (1, 1) for conv in convs if conv.name not in ("R31", "R41", "R51"))


def detector(model: str, edits: tuple[pod.Edit, ...] | None = None) -> Detector:
    settings: Model
    if model == "c4":
        few = {"before_nms": 40, "after_nms": 6}
        small = {"rpn": {"train": few, "test": few}, "roi": {"batch": 8}}
        settings = FasterRcnnC4.model_validate(small | {"backbone": Tiny(levels=(4, 5), edits=edits)})
    else:
        settings = RetinaNet(backbone=Tiny(edits=edits), neck=Fpn(channels=8), head=Head(channels=8, depth=1))
    return settings.build(3)


def a_batch(images: int = 2, side: int = 64) -> Batch:
    boxes = torch.tensor([[[4.0, 6, 40, 50], [20, 10, 60, 44]]]).expand(images, -1, -1)
    size = torch.full((images, 2), side)
    pictures = torch.randint(256, (images, 3, side, side), dtype=torch.uint8)
    return Batch(pictures, size, size, torch.arange(images), boxes, torch.tensor([[0, 2]]).expand(images, -1))


@pytest.mark.parametrize("model", ["retinanet", "c4"])
def test_every_predictor_learns_from_the_start(model: str) -> None:
    torch.manual_seed(0)
    network = detector(model, (Gsl(),)).train()
    torch.stack(list(network.losses(a_batch()).values())).sum().backward()
    convs = [module for module in network.modules() if isinstance(module, GslConv)]
    assert [conv.name for conv in convs] == ["R31", "R41", "R51"]
    for conv in convs:
        assert conv.predictor.weight.grad is not None and conv.predictor.weight.grad.norm() > 0
        assert conv.predictor.bias.grad is not None and conv.predictor.bias.grad.norm() > 0
        assert conv.scales is not None and conv.scales.shape == (2, 2)
        (h1, w1), (h2, w2) = conv.scales.tolist()
        watched = {"scale_h": (h1 + h2) / 2, "scale_w": (w1 + w2) / 2, "spread_h": abs(h1 - h2) / 2,
                   "spread_w": abs(w1 - w2) / 2}  # fmt: skip
        assert conv.observe() == pytest.approx(watched, abs=1e-6)


@pytest.mark.parametrize("model", ["retinanet", "c4"])
def test_fd_with_all_scales_1_is_the_baseline(model: str) -> None:
    torch.manual_seed(0)
    plain = detector(model).eval()
    statistics(plain)
    fd = detector(model, (Fd(dilations=ONES),)).eval()
    fd.load_state_dict(transfer(fd, plain.state_dict()))
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for one, other in zip(_flat(plain(images)), _flat(fd(images)), strict=True):
            assert torch.equal(one, other)


def _flat(outputs: object) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    return [each for part in outputs for each in _flat(part)] if isinstance(outputs, (list, tuple)) else []


MIXED = Dilations(layers={
    "R31": decompose(0.46, 1.7, 16), "R41": decompose(1.7, 2.9, 32), "R51": decompose(2.02, 0.98, 64)
})  # fmt: skip


def test_weights_are_cut_as_in_figure_5() -> None:
    torch.manual_seed(0)
    source = detector("retinanet", (Gsl(),)).state_dict()
    fd = detector("retinanet", (Fd(dilations=MIXED),))
    fd.load_state_dict(transfer(fd, source))
    found = fd.state_dict()
    at = {name: f"backbone.stages.{stage}.0.conv2" for stage, name in ((2, "R31"), (3, "R41"), (4, "R51"))}
    w31, w41, w51 = (source[f"{path}.weight"] for path in at.values())
    assert torch.equal(found[f"{at['R31']}.parts.0.weight"], w31[:7, :, 1:2, :]), "the centre of one tap"
    assert torch.equal(found[f"{at['R31']}.parts.1.weight"], w31[7:])
    assert torch.equal(found[f"{at['R41']}.parts.0.weight"], w41[:6])
    assert torch.equal(found[f"{at['R41']}.parts.1.weight"], w41[6:])
    assert torch.equal(found[f"{at['R51']}.parts.0.weight"], w51)
    assert f"{at['R51']}.parts.1.weight" not in found
    same = [name for name in source if "conv2" not in name or "stages.1" in name]
    assert all(torch.equal(source[name], found[name]) for name in same)
    assert len(same) == len(source) - 9, "three layers with a weight and a predictor of two"


def test_the_edit_cuts_the_backbones_own_weights() -> None:
    torch.manual_seed(0)
    plain = detector("retinanet").state_dict()
    torch.manual_seed(0)
    fd = detector("retinanet", (Fd(dilations=MIXED),)).state_dict()
    mapped = transfer(detector("retinanet", (Fd(dilations=MIXED),)), plain)
    assert mapped.keys() == fd.keys()
    assert all(torch.equal(mapped[name], fd[name]) for name in fd), "and draws nothing: head and neck start alike"


@pytest.mark.parametrize("d", [(0.46, 0.3), (0.02, 2.0)])
def test_sum_instead_of_the_centre_keeps_what_dilation_0_computes(d: tuple[float, float]) -> None:
    conv, x = nn.Conv2d(4, 10, 3, padding=1, stride=2, bias=False), torch.randn(2, 4, 9, 9)
    parts = decompose(*d, 10)
    first = parts[0].channels
    low = FdConv(conv, parts, "sum")(x)[:, :first]
    below = torch.tensor([parts[0].dilation]).float()
    torch.testing.assert_close(low, deform(x, conv.weight[:first], below, (2, 2)))
    assert not torch.allclose(FdConv(conv, parts)(x)[:, :first], low)


SAVED = {"C50": (11_520, 174.776), "F50": (798_720, 172.428), "N50": (561_152, 173.210)}


def test_costs_of_the_papers_plans() -> None:
    """2 × MACs of the trunk at 800×1344 and its parameters; the layers that Table 3 does not print stay at 1."""
    with torch.device("meta"):
        plain = ResNet().build()
        image = torch.empty(1, 3, 800, 1344)
        assert 2e-9 * macs(plain, image) == pytest.approx(175.163, abs=5e-4)
        for name, (saved, gflops) in SAVED.items():
            fd = ResNet(edits=(Fd(dilations=decompose_all(scales(name), channels())),)).build()
            assert parameters(plain) - parameters(fd) == saved
            assert 2e-9 * macs(fd, image) == pytest.approx(gflops, abs=5e-4)
        far = dict.fromkeys(channels(), (0.95, 7.3))
        fd = ResNet(edits=(Fd(dilations=decompose_all(far, channels())),)).build()
        assert parameters(fd) == parameters(plain), "nothing is saved where no scale is below 1"


# --- bad input


def refused(edit: pod.Edit, backbone: ResNet) -> str:
    with torch.device("meta"), pytest.raises(InputError) as raised:
        backbone.model_copy(update={"edits": (*(backbone.edits or ()), edit)}).build()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_refuses_another_backbone() -> None:
    plan = decompose_all(scales("C50"), channels())
    assert "it has 13 layers, R31 to R53, this one has 30 layers" in refused(Fd(dilations=plan), ResNet(depth=101))
    assert "R31 has 128 channels, the backbone 16" in refused(
        Fd(dilations=Dilations(layers={name: plan.layers[name] for name in ("R31", "R41", "R51")})), Tiny()
    )
    for edit in (Gsl(), Fd(dilations=plan)):
        assert "depth 50 or 101" in refused(edit, ResNet(depth=18))
    assert "of which this backbone has none" in refused(Gsl(), Tiny(edits=(Gsl(),)))


def test_a_backbone_may_end_before_conv5() -> None:
    with torch.device("meta"):
        features = ResNet(levels=(3, 4), edits=(Gsl(),)).build()
    assert sum(isinstance(module, GslConv) for module in features.modules()) == 10


def test_transfer_is_strict() -> None:
    fd = detector("retinanet", (Fd(dilations=MIXED),))
    source: Mapping[str, Tensor] = detector("retinanet", (Gsl(),)).state_dict()
    first = "backbone.stages.2.0.conv2.weight"
    for wrong in ({name: value for name, value in source.items() if name != first},
                  {**source, "other": torch.zeros(1)}, {**source, first: source[first][:, :3]}):  # fmt: skip
        with pytest.raises(RuntimeError, match=r"Error.* in loading state_dict"):
            fd.load_state_dict(transfer(fd, wrong))
