"""Classifiers and the CIFAR networks: the counts that CAT's spec gives, losses, gradients, where edits go."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from timm.layers import SEModule
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import mobilenetv2, resnet, shufflenetv2

from benchsuite.data.class_batches import ClassBatch
from benchsuite.models import cifar_nets, classifier
from benchsuite.models.classifier import Classifier, LinearClassifier
from benchsuite.models.cost import macs, parameters, ptflops_macs
from benchsuite.models.detector import Backbone, Edit, Features

COUNTED: list[tuple[Backbone, int, int, float, float, float]] = [
    (cifar_nets.ResNet(), 100, 23_705_252, 1.298, 63.593, 63.987),
    (cifar_nets.ResNet(depth=101), 100, 42_697_380, 2.510, 122.988, 123.573),
    (cifar_nets.MobileNetV2(), 100, 2_369_380, 0.0649, 2.289, 2.424),
    (cifar_nets.ShuffleNetV2(), 100, 1_360_896, 0.0437, 2.135, 2.229),
]


def on_meta(backbone: Backbone, classes: int) -> Classifier:
    with torch.device("meta"):
        return LinearClassifier(backbone=backbone).build(classes)


def image(side: int) -> Tensor:
    return torch.empty(1, 3, side, side, device="meta")


@pytest.mark.parametrize(("backbone", "classes", "total", "at_32", "at_224", "as_ptflops"), COUNTED)
def test_cifar_nets_of_table_3(
    backbone: Backbone, classes: int, total: int, at_32: float, at_224: float, as_ptflops: float
) -> None:
    network = on_meta(backbone, classes)
    assert parameters(network) == total
    assert macs(network, image(32)) / 1e9 == pytest.approx(at_32, rel=0, abs=5e-4 if at_32 > 1 else 5e-5)
    assert round(macs(network, image(224)) / 1e9, 3) == at_224
    assert round(ptflops_macs(network, image(224)) / 1e9, 3) == as_ptflops


@pytest.mark.parametrize(("depth", "total", "gmac"), [(50, 25_557_032, 4.0892), (101, 44_549_160, 7.8014)])
def test_imagenet_nets_of_table_4(depth: int, total: int, gmac: float) -> None:
    settings = classifier.ResNet.model_validate({"depth": depth})
    network = on_meta(settings, 1000)
    assert parameters(network) == total
    assert round(macs(network, image(224)) / 1e9, 4) == gmac
    assert settings.deviations() == (), "from scratch is what the paper does"


def test_ptflops_counts_by_hand() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.relu = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU6()
            self.same, self.pool, self.fc = nn.Conv2d(4, 4, 1, bias=False), nn.MaxPool2d(2), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(self.norm(self.conv(x)))
            x = self.pool(torch.relu(self.same(x) + x))
            x = x * x.mean(1, keepdim=True).sigmoid()
            y: Tensor = self.fc(x.mean((2, 3)) + x.amax((2, 3)))
            return y

    conv, biases, norm, relu = 36 * 4 * 2 * 9, 36 * 4, 2 * 36 * 4, 36 * 4
    same, pool, means, fc = 36 * 4 * 4, 36 * 4, 2 * 9 * 4, 4 * 5 + 5
    network = Block()
    assert ptflops_macs(network, torch.empty(1, 2, 6, 6)) == conv + biases + norm + relu + same + pool + means + fc
    assert macs(network, torch.empty(1, 2, 6, 6)) == conv + same + 4 * 5
    assert network.training


def seen(backbone: Any, kind: type[nn.Module]) -> list[nn.Module]:
    with torch.device("meta"):
        return [module for module in backbone.build().modules() if isinstance(module, kind)]


def test_blocks_are_torchvisions_where_edits_look_for_them() -> None:
    bottlenecks = seen(cifar_nets.ResNet(), resnet.Bottleneck)
    assert len(bottlenecks) == 16 and len(seen(cifar_nets.ResNet(depth=101), resnet.Bottleneck)) == 33
    inverted = seen(cifar_nets.MobileNetV2(), mobilenetv2.InvertedResidual)
    assert len(inverted) == 17 and all(isinstance(block.conv[-1], nn.BatchNorm2d) for block in inverted)  # type: ignore[index,union-attr]
    units = seen(cifar_nets.ShuffleNetV2(), shufflenetv2.InvertedResidual)
    ends = [block.branch2[-2].num_features for block in units]  # type: ignore[index,union-attr]
    assert ends == [58] * 4 + [116] * 8 + [232] * 4


@pytest.mark.parametrize("backbone", [row[0] for row in COUNTED[::2]] + [COUNTED[3][0]])
def test_strides_and_stems(backbone: Any) -> None:
    with torch.device("meta"):
        features = backbone.build()
        (last,) = features(torch.empty(2, 3, 64, 64))
        first = features.stages[0](torch.empty(2, 3, 64, 64))
    padded = 66 if isinstance(backbone, cifar_nets.MobileNetV2) else 64
    assert last.shape[1] == features.channels[0] and features.strides == (8,)
    assert last.shape[2] == -(-padded // 8) and first.shape[2] == padded
    convolutions = [module for module in features.modules() if isinstance(module, nn.Conv2d)]
    has_biases = not isinstance(backbone, cifar_nets.ResNet)
    assert all((module.bias is not None) == has_biases for module in convolutions)
    assert not any(isinstance(module, nn.MaxPool2d) for module in features.modules())


class Gates(Edit):
    """A gate after each projection's norm of MobileNetV2."""

    def apply(self, features: Features) -> list[nn.Module]:
        blocks = [each for each in features.modules() if isinstance(each, mobilenetv2.InvertedResidual)]
        gates: list[nn.Module] = [SEModule(block.out_channels, bias=False) for block in blocks]
        for block, gate in zip(blocks, gates, strict=True):
            block.conv.append(gate)
        return gates


def batch(images: int = 4, side: int = 32, classes: int = 7) -> ClassBatch:
    drawn = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8, generator=drawn)
    return ClassBatch(pixels, torch.randint(0, classes, (images,), generator=drawn))


@pytest.mark.parametrize("backbone", [cifar_nets.ShuffleNetV2(), cifar_nets.MobileNetV2(edits=(Gates(),))])
def test_loss_is_cross_entropy_and_every_weight_learns(backbone: Backbone) -> None:
    torch.manual_seed(0)
    network = LinearClassifier(backbone=backbone).build(7)
    given = batch()
    network.eval()
    settings: Any = backbone
    pixels = given.images.double().numpy() / 255
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (settings.mean, settings.std))
    logits = network(torch.from_numpy((pixels - mean) / std).float())
    torch.testing.assert_close(network.logits(given), logits, rtol=1e-4, atol=1e-5)
    assert logits.shape == (4, 7)
    rows = zip(logits.detach(), given.labels, strict=True)
    naive = sum(-float(row.log_softmax(0)[label]) for row, label in rows) / 4
    assert network.losses(given)["cross_entropy"].item() == pytest.approx(naive, rel=1e-4)
    assert naive == pytest.approx(float(functional.cross_entropy(logits.detach(), given.labels)), rel=1e-5)

    (loss,) = network.train().losses(given).values()
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(value.grad is not None and value.grad.isfinite().all() for value in network.parameters())
    dead = {name for name, value in network.named_parameters() if not bool(value.grad.any())}  # type: ignore[union-attr]
    assert not dead


def test_labels_play_no_part_in_logits_and_images_not_in_each_others() -> None:
    torch.manual_seed(1)
    network = LinearClassifier(backbone=cifar_nets.ShuffleNetV2()).build(5).eval()
    given = batch(classes=5)
    whole = network.logits(given)
    parts = torch.cat([network.logits(ClassBatch(part.images, -part.labels)) for part in given.split(3)])
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)
    assert network.logits(given).dtype == torch.float32


def test_other_statistics_are_settings() -> None:
    plain = LinearClassifier(backbone=cifar_nets.ShuffleNetV2(mean=(0, 0, 0), std=(1, 1, 1))).build(3)
    assert torch.equal(plain.normalise.shift, torch.zeros(3, 1, 1)) and bool((plain.normalise.scale == 1 / 255).all())
    with pytest.raises(ValidationError, match="greater than 0"):
        cifar_nets.ResNet(std=(0.1, 0, 0.2))
    with pytest.raises(ValidationError, match="18, 34, 50 or 101"):
        cifar_nets.ResNet.model_validate({"depth": 20})
