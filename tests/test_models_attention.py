"""Where attention stands, what it costs, and how it goes with pretrained and frozen backbones; cat.spec 3, 4 and 7."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, shufflenet_v2_x1_0

from benchsuite.errors import InputError
from benchsuite.models import cifar_nets
from benchsuite.models.attention import Attention, Cbam, Eca, Se
from benchsuite.models.cost import macs, parameters
from benchsuite.models.detector import Backbone, Features
from benchsuite.models.lite0 import Lite0
from benchsuite.models.resnet import ResNet
from benchsuite.models.timm_backbone import Timm
from benchsuite.models.weights import load_into, read
from benchsuite.papers.cat import Cat, CatUnit

METHODS: dict[str, tuple[Attention, ...]] = {
    "base": (), "SE": (Se(),), "CBAM": (Cbam(),), "ECA": (Eca(),), "CAT": (Cat(),),
}  # fmt: skip


def built(backbone: Backbone, **fields: Any) -> Any:
    return backbone.model_copy(update=fields).build()


def units(features: nn.Module) -> list[CatUnit]:
    return [module for module in features.modules() if isinstance(module, CatUnit)]


class Plain(Features):
    """Any network as features."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Its output."""
        found: Tensor = self.network(images)
        return found


@pytest.mark.parametrize(
    ("make", "added"),
    [
        (lambda: ResNet(depth=50, levels=(5,)).build(), {256: 3, 512: 4, 1024: 6, 2048: 3}),
        (lambda: ResNet(depth=101, levels=(5,)).build(), {256: 3, 512: 4, 1024: 23, 2048: 3}),
        (lambda: ResNet(depth=18, levels=(5,)).build(), {64: 2, 128: 2, 256: 2, 512: 2}),
        (lambda: Plain(mobilenet_v2()), {16: 1, 24: 2, 32: 3, 64: 4, 96: 3, 160: 3, 320: 1}),
        (lambda: Plain(shufflenet_v2_x1_0()), {58: 4, 116: 8, 232: 4}),
        (lambda: cifar_nets.MobileNetV2().build(), {16: 1, 24: 2, 32: 3, 64: 4, 96: 3, 160: 3, 320: 1}),
        (lambda: cifar_nets.ShuffleNetV2().build(), {58: 4, 116: 8, 232: 4}),
        (lambda: Lite0(weights=None).build(), {16: 1, 24: 2, 40: 2, 80: 3, 112: 3, 192: 4, 320: 1}),
    ],
    ids=["R50", "R101", "R18", "MobileNetV2", "ShuffleNetV2", "MobileNetV2 CIFAR", "ShuffleNetV2 CIFAR", "Lite0"],
)
def test_places(make: Callable[[], Features], added: dict[int, int]) -> None:
    with torch.device("meta"):
        features = make()
        found = Cat().apply(features)
        channels = [unit.channel.mlp[0].in_features for unit in units(features)]
        assert {width: channels.count(width) for width in sorted(set(channels))} == added
        assert units(features) == found, "in the order of the layers"


def test_the_unit_is_the_last_operation_of_the_branch() -> None:
    """With a unit that gives zeros, a block gives what its shortcut gives."""

    class Zeros(Attention):
        def unit(self, channels: int) -> nn.Module:
            return Zero()

    class Zero(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros_like(x)

    torch.manual_seed(0)
    resnet, mobile, shuffle = (
        Plain(network.eval()) for network in (torchvision.models.resnet50(), mobilenet_v2(), shufflenet_v2_x1_0())
    )
    lite = Lite0(weights=None).build().eval()
    for features in (resnet, mobile, shuffle, lite):
        Zeros().apply(features)
    x = torch.randn(1, 256, 4, 4).relu()
    assert torch.equal(resnet.get_submodule("network.layer1.1")(x), x)
    x = torch.randn(1, 24, 4, 4)
    assert torch.equal(mobile.get_submodule("network.features.3")(x), x)
    assert not mobile.get_submodule("network.features.2")(torch.randn(1, 16, 4, 4)).any()
    assert torch.equal(lite.get_submodule("network.blocks.1.1")(x), x)
    assert not lite.get_submodule("network.blocks.0.0")(torch.randn(1, 32, 4, 4)).any()
    x = torch.randn(1, 116, 4, 4)
    half = torch.zeros(1, 116, 4, 4)
    half[:, ::2] = x[:, :58]  # shuffled with what the branch gives
    assert torch.equal(shuffle.get_submodule("network.stage2.1")(x), half)


# --- the table of parameters, exactly

BACKBONES: dict[str, tuple[Backbone, int]] = {
    "R50": (ResNet(depth=50, levels=(5,)), 1000),
    "R101": (ResNet(depth=101, levels=(5,)), 1000),
    "R50 CIFAR": (cifar_nets.ResNet(depth=50), 100),
    "R101 CIFAR": (cifar_nets.ResNet(depth=101), 100),
    "MobileNetV2 CIFAR": (cifar_nets.MobileNetV2(), 100),
    "ShuffleNetV2 CIFAR": (cifar_nets.ShuffleNetV2(), 100),
}
PARAMETERS = {
    "R50": (25_557_032, 28_071_976, 28_073_576, 25_557_118, 28_072_888),
    "R101": (44_549_160, 49_292_328, 49_295_628, 44_549_331, 49_294_209),
    "R50 CIFAR": (23_705_252, 26_220_196, 26_221_796, 23_705_338, 26_221_108),
    "R101 CIFAR": (42_697_380, 47_440_548, 47_443_848, 42_697_551, 47_442_429),
    "MobileNetV2 CIFAR": (2_369_380, 2_397_796, 2_399_496, 2_369_439, 2_398_765),
    "ShuffleNetV2 CIFAR": (1_360_896, 1_401_264, 1_402_864, 1_360_952, 1_402_176),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_table_of_parameters(name: str) -> None:
    backbone, classes = BACKBONES[name]
    with torch.device("meta"):
        networks = [built(backbone, edits=edits) for edits in METHODS.values()]
    found = tuple(parameters(features) + (features.channels[-1] + 1) * classes for features in networks)
    assert found == PARAMETERS[name]


@pytest.mark.parametrize("channels", [16, 24, 58, 256, 1024, 2048])
def test_parameters_of_a_module(channels: int) -> None:
    shared = 2 * channels * max(1, channels // 16)
    kernel = 3 if channels < 128 else 5 if channels < 2048 else 7
    found = [parameters(method.unit(channels)) for method in (Se(), Cbam(), Eca(), Cat())]
    assert found == [shared, shared + 98 + 2, kernel, shared + 49 + 8]


def test_macs_of_resnet_50_and_of_its_attention() -> None:
    backbone, image = ResNet(depth=50, levels=(5,)), torch.empty(1, 3, 224, 224, device="meta")
    with torch.device("meta"):
        base, cat = (macs(built(backbone, edits=METHODS[name]), image) for name in ("base", "CAT"))
    assert round((base + 2048 * 1000) / 1e9, 4) == 4.0892
    elements = sum(n * c * hw**2 for n, c, hw in ((3, 256, 56), (4, 512, 28), (6, 1024, 14), (3, 2048, 7)))
    assert round(elements / 1e6, 2) == 5.52
    blur = 10 * elements  # five taps along the height, which serve both maxima, and five along the width
    assert round(blur / 1e9, 3) == 0.055
    assert round((cat - base - blur) / 1e9, 4) == 0.0082


# --- with pretrained and frozen backbones


def test_attention_is_never_frozen() -> None:
    backbone = ResNet(depth=18, levels=(2, 5), weights="IMAGENET1K_V1", frozen_stages=2, frozen_norms=True)
    with torch.device("meta"):
        features = built(backbone, edits=(Cbam(), Cat())).train()
    frozen = {name for name, parameter in features.named_parameters() if not parameter.requires_grad}
    assert frozen and not any(".1." in name.removeprefix("stages.1.0").removeprefix("stages.1.1") and "bn2.1" in name
                              for name in frozen)  # fmt: skip
    for unit in features.added:
        assert all(parameter.requires_grad for parameter in unit.parameters())
        assert all(module.training for module in unit.modules())
    trained = {name for name, parameter in features.named_parameters() if parameter.requires_grad}
    norms = {name for name, module in features.named_modules() if isinstance(module, nn.BatchNorm2d)}
    own_norms = {name for name in norms if ".spatial.conv.bn" in name}
    assert len(own_norms) == 8, "CBAM's"
    assert not any(f"{name}.weight" in trained for name in norms - own_norms)
    assert not any(module.training for name, module in features.named_modules() if name in norms - own_norms)
    assert "stages.1.0.conv1.weight" in frozen and "stages.2.0.conv1.weight" in trained


def cached(folder: Path, state: dict[str, Tensor], name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint in torch's cache whose name tells its hash."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder))
    (folder / "checkpoints").mkdir(exist_ok=True)
    file = folder / "checkpoints" / "new.pth"
    torch.save(state, file)
    return file.rename(file.with_name(f"{name}-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"))


def test_pretrained_weights_fill_all_but_the_attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    published = torchvision.models.resnet18()
    file = cached(tmp_path, published.state_dict(), "resnet18", monkeypatch)
    monkeypatch.setattr(ResNet, "address", lambda self: f"https://there/{file.name}")
    features = built(ResNet(depth=18, levels=(5,), weights="IMAGENET1K_V1"), edits=(Cat(),)).eval()
    assert torch.equal(features.get_parameter("stages.1.0.bn2.0.weight"), published.layer1[0].bn2.weight)
    x = torch.randn(1, 3, 32, 32)
    plain = nn.Sequential(*list(published.children())[:-2]).eval()
    with torch.no_grad():
        assert torch.equal(features(x)[0], plain(x))


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"stem.weight": torch.zeros(1)}, "does not fit ResNet (no conv1.weight"),
        (torchvision.models.resnet18(num_classes=3).state_dict(), "another shape of fc.weight"),
    ],
    ids=["keys", "shapes"],
)
def test_another_networks_checkpoint_is_one_line(state: dict[str, Tensor], told: str, tmp_path: Path) -> None:
    file = tmp_path / "resnet18-0.pth"
    torch.save(state, file)
    with pytest.raises(InputError) as raised:
        load_into(torchvision.models.resnet18(), read(file), file)
    assert told in str(raised.value) and "choose weights of this network" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("edit", [Se(), Cbam(), Eca(), Cat()], ids=lambda edit: edit.kind())
def test_a_backbone_without_places_is_one_line(edit: Attention) -> None:
    timm = Timm(name="resnet18", out_indices=(1, 2))
    with torch.device("meta"), pytest.raises(InputError) as raised:
        built(timm, edits=(edit,))
    assert str(raised.value).startswith(f"backbone.edits: TimmFeatures has no place for {edit.kind()}; choose a ResNet")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("edit", [Se(), Cbam(), Eca(), Cat()], ids=lambda edit: edit.kind())
def test_a_seed_gives_the_rest_the_same_weights(edit: Attention) -> None:
    torch.manual_seed(0)
    plain = ResNet(depth=18, levels=(5,)).build()
    after = torch.rand(3)
    torch.manual_seed(0)
    attending = built(ResNet(depth=18, levels=(5,)), edits=(edit,))
    assert torch.equal(torch.rand(3), after)
    renamed = {name.replace("bn2.0.", "bn2."): value for name, value in attending.state_dict().items()}
    assert all(torch.equal(renamed[name], value) for name, value in plain.state_dict().items())


@pytest.mark.parametrize(
    "make",
    [
        lambda edits: built(ResNet(depth=18, levels=(2, 5)), edits=edits),
        lambda edits: built(cifar_nets.ResNet(depth=18), edits=edits),
        lambda edits: built(cifar_nets.MobileNetV2(), edits=edits),
    ],
    ids=["ResNet", "CIFAR's ResNet", "MobileNetV2"],
)
@pytest.mark.parametrize("training", [True, False])
def test_cbam_starts_as_its_authors_have_it(make: Callable[[Any], nn.Module], training: bool) -> None:
    """The spatial gate is one half everywhere, whatever it sees; its norm's statistics move by a hundredth."""
    torch.manual_seed(0)
    network = make((Cbam(),)).train(training)
    gates: list[Tensor] = []
    spatials = [module.spatial for module in network.modules() if type(module).__name__ == "CbamModule"]
    for spatial in spatials:
        spatial.gate.register_forward_hook(lambda module, seen, out: gates.append(out))
    network(torch.rand(2, 3, 64, 64))
    assert len(gates) == len(spatials) > 0
    assert all((gate == 0.5).all() for gate in gates)
    assert {spatial.conv.bn.momentum for spatial in spatials} == {0.01}


def test_cbams_spatial_gate_learns_from_its_start() -> None:
    torch.manual_seed(0)
    unit = Cbam().unit(32)
    optimiser = torch.optim.SGD(unit.parameters(), lr=1.0)
    for _ in range(2):
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(unit(torch.rand(4, 32, 9, 9)), torch.rand(4, 32, 9, 9)).backward()
        optimiser.step()
    assert unit.spatial.conv.bn.weight.abs().item() > 0
    assert unit.spatial.conv.conv.weight.grad.abs().sum() > 0
