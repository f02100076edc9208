"""resnet.py, timm_backbone.py and fpn.py."""

import hashlib
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torchvision.models import ResNet18_Weights, resnet18
from torchvision.models.resnet import BasicBlock

from benchsuite.errors import InputError, MissingData
from benchsuite.models import resnet
from benchsuite.models.detector import Edit, Features
from benchsuite.models.fpn import Fpn
from benchsuite.models.resnet import Pretrained, ResNet
from benchsuite.models.timm_backbone import Timm
from benchsuite.settings import canonical, content_key

SENETS = ("legacy_seresnet50", "legacy_seresnet101", "legacy_seresnext50_32x4d", "legacy_seresnext101_32x4d")


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_resnet_50_of_har_net() -> None:
    with torch.device("meta"):
        backbone = ResNet().build()
        maps = backbone(torch.empty(1, 3, 128, 192))
    assert parameters(backbone) == 23_508_032
    assert backbone.channels == (512, 1024, 2048) and backbone.strides == (8, 16, 32)
    assert [tuple(level.shape[1:]) for level in maps] == [(512, 16, 24), (1024, 8, 12), (2048, 4, 6)]


@pytest.mark.parametrize("name", SENETS)
def test_senets_of_har_net(name: str) -> None:
    with torch.device("meta"):
        backbone = Timm(name=name).build()
    assert backbone.channels == (512, 1024, 2048) and backbone.strides == (8, 16, 32)
    assert len(backbone.stages()) == 5


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_channels_are_those_of_the_maps(depth: int) -> None:
    with torch.device("meta"):
        backbone = ResNet.model_validate({"depth": depth, "levels": (2, 4)}).build()
        maps = backbone(torch.empty(1, 3, 64, 64))
    assert [level.shape[1] for level in maps] == list(backbone.channels)
    assert [64 // level.shape[2] for level in maps] == list(backbone.strides)
    assert len(backbone.stages) == 4, "layers after the last level are not built"


def test_fpn_of_har_net() -> None:
    with torch.device("meta"):
        neck = Fpn().build((512, 1024, 2048), (8, 16, 32))
        levels = neck([torch.empty(1, c, h, 75) for c, h in ((512, 125), (1024, 63), (2048, 32))])
    assert parameters(neck) == 7_997_440
    assert neck.strides == (8, 16, 32, 64, 128)
    assert [level.shape[2] for level in levels] == [125, 63, 32, 16, 8]


def test_p6_is_made_of_c5_even_with_as_many_channels_as_p5() -> None:
    neck = Fpn(channels=16).build((8, 16), (8, 16))
    c4, c5 = torch.randn(1, 8, 8, 8), torch.randn(1, 16, 4, 4)
    assert torch.equal(neck([c4, c5])[2], neck.fpn.extra_blocks.p6(c5))


def stand_in(settings: Pretrained, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Weights of ResNet-18 under the name that `settings` looks for, as if they had been downloaded."""
    torch.manual_seed(7)
    network = resnet18()
    file = folder / "resnet18-0.pth"
    torch.save(network.state_dict(), file)
    file = file.rename(folder / f"resnet18-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth")
    monkeypatch.setattr(resnet, "cached_weights", lambda url: file)
    return dict(network.state_dict())


PRETRAINED = [
    ResNet(depth=18, weights="IMAGENET1K_V1", frozen_stages=2, frozen_norms=True),
    Timm(name="resnet18", weights="tv_in1k", frozen_stages=2, frozen_norms=True),
]


@pytest.mark.parametrize("settings", PRETRAINED, ids=["torchvision", "timm"])
def test_loads_and_freezes(settings: Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = stand_in(settings, tmp_path, monkeypatch)
    backbone = settings.build().train()
    first = next(module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    assert torch.equal(first.weight, loaded["conv1.weight"])

    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.get_buffer("running_mean").clone() for norm in norms]
    torch.autograd.backward([level.mean() for level in backbone(torch.randn(2, 3, 64, 64))])
    assert all(torch.equal(norm.get_buffer("running_mean"), old) for norm, old in zip(norms, before, strict=True))
    trained = {name for name, parameter in backbone.named_parameters() if parameter.grad is not None}
    # stem, layer1 and every norm stay: 15 convolutions of layer2..4 are left
    assert len(trained) == 15
    assert all(".layer1." not in name for name in trained)
    assert settings.deviations() == ()


class NormAgain(Edit):
    """A second norm after the first one of layer1."""

    def apply(self, features: Features) -> list[nn.Module]:
        block = features.get_submodule("stages.1.0")
        assert isinstance(block, BasicBlock)
        added = nn.BatchNorm2d(64)
        block.bn1 = nn.Sequential(block.bn1, added)  # type: ignore[assignment]
        return [added]


def test_what_an_edit_adds_is_never_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ResNet(depth=18, weights="IMAGENET1K_V1", frozen_stages=2, frozen_norms=True, edits=(NormAgain(),))
    loaded = stand_in(settings, tmp_path, monkeypatch)
    backbone = settings.build().train()
    old, added = backbone.get_submodule("stages.1.0.bn1").children()
    assert torch.equal(old.get_buffer("running_mean"), loaded["layer1.0.bn1.running_mean"])
    assert added.training and not old.training and not backbone.eval().get_submodule("stages.1.0.bn1.1").training
    assert all(value.requires_grad for value in added.parameters())
    assert not any(value.requires_grad for value in old.parameters())


@pytest.mark.parametrize(
    "kind",
    [ResNet(depth=18, frozen_stages=2, frozen_norms=True), Timm(name="resnet18", frozen_stages=2, frozen_norms=True)],
)
def test_nothing_random_is_frozen(kind: Pretrained) -> None:
    backbone = kind.build()
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert all(module.training for module in backbone.modules())
    assert "from scratch" in kind.deviations()[0]
    assert ResNet(weights="IMAGENET1K_V1").deviations() == ()


@pytest.mark.parametrize("settings", PRETRAINED, ids=["torchvision", "timm"])
def test_missing_weights(settings: Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for needs in (settings.build, settings.require):
        with pytest.raises(MissingData) as error:
            needs()
        assert "\n" not in str(error.value)
        assert "download https://" in str(error.value) and str(tmp_path / "hub" / "checkpoints") in str(error.value)
    with torch.device("meta"):  # shapes need no weights
        assert settings.build().channels == (128, 256, 512)


def test_damaged_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / Path(ResNet18_Weights.IMAGENET1K_V1.url).name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"half a download")
    with pytest.raises(InputError, match="unlike its name; download it again"):
        ResNet(depth=18, weights="IMAGENET1K_V1").build()


def test_weights_are_in_the_key_by_their_hash() -> None:
    assert ResNet(weights="IMAGENET1K_V1").identity() == "0676ba61"
    assert Timm(name="legacy_seresnet50", weights="in1k").identity() == "ce0d4300"
    assert ResNet().identity() is None
    keys = {content_key(canonical(ResNet(weights=weights))) for weights in (None, "IMAGENET1K_V1", "IMAGENET1K_V2")}
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("settings", "wrong", "said"),
    [
        (ResNet, {"weights": "IMAGENET_V1"}, "did you mean 'IMAGENET1K_V1'"),
        (ResNet, {"depth": 51}, "18, 34, 50 or 101"),
        (ResNet, {"levels": (5, 4)}, "do not rise"),
        (ResNet, {"frozen_stages": 6}, "less than or equal to 5"),
        (Timm, {"name": "legacy_seresnet5"}, "did you mean 'legacy_seresnet50'"),
        (Timm, {"name": "legacy_seresnet50.in1k"}, "did you mean"),
        (Timm, {"name": "legacy_seresnet50", "weights": "in22k"}, "did you mean 'in1k'"),
        (Timm, {"name": "resnet18", "out_indices": (3, 3)}, "do not rise"),
    ],
)
def test_refuses(settings: type[Pretrained], wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        settings.model_validate(wrong)
