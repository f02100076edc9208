"""What POD's tests share: a ResNet of bottlenecks that is small, and the paper's scales as a plan."""

import torch
import torchvision
from torchvision.models.resnet import Bottleneck

from benchsuite.models.resnet import ResNet, ResNetFeatures

# Table 3, train; the other layers, which it does not print, are (1, 1) here: synthetic.
TABLE3 = {
    "C50": {"R31": (0.88, 0.95), "R34": (1.30, 1.28), "R41": (1.39, 1.41), "R46": (8.49, 9.34), "R51": (1.34, 1.20),
            "R53": (3.57, 3.45)},
    "F50": {"R31": (0.89, 0.93), "R34": (1.19, 1.15), "R41": (0.77, 0.82), "R46": (1.41, 1.39), "R51": (0.46, 0.89),
            "R53": (2.81, 3.68)},
    "N50": {"R31": (0.94, 0.98), "R34": (1.19, 1.15), "R41": (0.80, 0.85), "R46": (1.46, 1.47), "R51": (0.65, 0.91),
            "R53": (1.75, 1.53)},
}  # fmt: skip
BLOCKS = {50: (4, 6, 3), 101: (4, 23, 3)}
"""Of conv3, conv4 and conv5."""


def channels(depth: int = 50) -> dict[str, int]:
    """Output channels of the layers that POD changes, by name."""
    return {f"R{stage}{number}": 128 << (stage - 3) for stage, count in zip((3, 4, 5), BLOCKS[depth], strict=True)
            for number in range(1, count + 1)}  # fmt: skip


def scales(detector: str) -> dict[str, tuple[float, float]]:
    """Of every layer of ResNet-50."""
    return dict.fromkeys(channels(), (1.0, 1.0)) | TABLE3[detector]


class Tiny(ResNet):
    """A bottleneck a stage, an eighth as wide inside: layers R31, R41 and R51 of 16, 32 and 64 channels."""

    def build(self) -> ResNetFeatures:
        """As ResNet does, without weights."""
        features = ResNetFeatures(torchvision.models.ResNet(Bottleneck, [1, 1, 1, 1], width_per_group=8), self.levels)
        self.edit_and_freeze(features, list(features.stages))
        return features


def statistics(module: torch.nn.Module) -> None:
    """Let norms look trained, so that nothing is equal by chance."""
    for each in module.modules():
        if isinstance(each, torch.nn.BatchNorm2d):
            assert each.running_mean is not None and each.running_var is not None
            torch.nn.init.normal_(each.running_mean)
            torch.nn.init.uniform_(each.running_var, 0.5, 2)
