"""vgg.py: torchvision's stages, SSD's fc6 and fc7, weights of the features alone."""

import hashlib
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torchvision.models import vgg11, vgg16_bn
from torchvision.models.detection import ssd300_vgg16

from benchsuite.errors import InputError
from benchsuite.models import resnet
from benchsuite.models.vgg import Vgg


def test_maps_of_ssd() -> None:
    with torch.device("meta"):
        backbone = Vgg().build()
        maps = backbone(torch.empty(1, 3, 300, 300))
    assert backbone.channels == (512, 1024) and backbone.strides == (8, 16)
    assert [tuple(level.shape[1:]) for level in maps] == [(512, 38, 38), (1024, 19, 19)], "75 cells become 38"


def test_as_torchvisions_ssd() -> None:
    """The same numbers from the same weights."""
    torch.manual_seed(0)
    theirs = ssd300_vgg16(weights=None, weights_backbone=None).backbone.eval()
    ours = Vgg().build().eval()
    weights = [*theirs.features.parameters(), *theirs.extra[0].parameters()]
    ours.load_state_dict(dict(zip(ours.state_dict(), weights, strict=True)))
    images = torch.randn(1, 3, 108, 140)
    with torch.inference_mode():
        conv4, fc7 = ours(images)
        reference = theirs.features(images)
        torch.testing.assert_close(conv4, reference)
        torch.testing.assert_close(fc7, theirs.extra[0](reference))


@pytest.mark.parametrize(
    ("levels", "channels", "strides", "sides"),
    [(("conv4", "conv5"), (512, 512), (8, 16), [48, 24]), (("conv2", "conv3"), (128, 256), (2, 4), [192, 96])],
)
def test_levels(levels: tuple[str, ...], channels: object, strides: object, sides: list[int]) -> None:
    with torch.device("meta"):
        backbone = Vgg.model_validate({"levels": levels}).build()
        maps = backbone(torch.empty(1, 3, 384, 384))
    assert (backbone.channels, backbone.strides) == (channels, strides)
    assert [level.shape[-1] for level in maps] == sides
    assert list(backbone.stages)[-1] == levels[-1], "layers after the last level are not built"


def test_loads_the_features_alone_and_freezes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = vgg11()
    file = tmp_path / "vgg11-0.pth"
    torch.save({k: v if k.startswith("features.") else v[:1].clone() for k, v in network.state_dict().items()}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    file = file.rename(tmp_path / f"vgg11-{digest}.pth")
    monkeypatch.setattr(resnet, "cached_weights", lambda url: file)
    backbone = Vgg(depth=11, weights="IMAGENET1K_V1", frozen_stages=2, levels=("conv5", "fc7")).build()
    convolutions = [module.weight for module in network.features if isinstance(module, torch.nn.Conv2d)]
    ours = [module.weight for module in backbone.modules() if isinstance(module, torch.nn.Conv2d)]
    assert all(torch.equal(a, b) for a, b in zip(convolutions, ours, strict=False))
    assert [weight.requires_grad for weight in ours] == [False, False, *[True] * 8]

    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, file)
    renamed = file.rename(tmp_path / f"vgg11-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth")
    monkeypatch.setattr(resnet, "cached_weights", lambda url: renamed)
    with pytest.raises(InputError, match="does not fit ModuleDict"):
        Vgg(depth=11, weights="IMAGENET1K_V1").build()


def test_weights_ported_from_caffe_want_its_range() -> None:
    with torch.device("meta"):
        ported, usual = (Vgg(weights=name).build() for name in ("IMAGENET1K_FEATURES", "IMAGENET1K_V1"))
    assert ported.std == pytest.approx((1 / 255,) * 3) and ported.mean == pytest.approx((0.48235, 0.45882, 0.40784))
    assert usual.std == (0.229, 0.224, 0.225)


def test_norms() -> None:
    with torch.device("meta"):
        ours, theirs = Vgg(norm=True, levels=("conv5",)).build(), vgg16_bn().features
    assert sum(v.numel() for v in ours.parameters()) == sum(v.numel() for v in theirs.parameters())


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"levels": ["fc7", "conv4"]}, "do not rise"),
        ({"levels": ["conv4_3"]}, "conv4"),
        ({"weights": "IMAGENET1K_V9"}, "unknown weights 'IMAGENET1K_V9' of vgg16; did you mean"),
        ({"depth": 12}, "11, 13, 16 or 19"),
    ],
)
def test_bad_settings(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Vgg.model_validate(wrong)
