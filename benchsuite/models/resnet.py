"""ResNet backbones from torchvision, and what every backbone shares: weights from the local cache, freezing."""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_builder, get_model_weights

from benchsuite.errors import InputError, MissingData, nearest
from benchsuite.models.detector import Backbone
from benchsuite.settings import Json


class Pretrained(Backbone):
    """A backbone that may start from published weights and be frozen in part, as papers do on COCO.

    frozen_stages  how many stages are frozen, counted from the input: 1 the stem, 2 also the first stage of blocks, …
    frozen_norms   every BatchNorm keeps its statistics and affine weights
    Without weights nothing random is frozen: everything trains, and `deviations` says so.
    """

    weights: str | None = None
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 0
    frozen_norms: bool = False

    def deviations(self) -> tuple[str, ...]:
        """What is done otherwise than the settings say, one sentence each."""
        if self.weights is None and (self.frozen_stages or self.frozen_norms):
            return ("trained from scratch: without pretrained weights no stage and no norm is frozen",)
        return ()

    def freeze(self, stages: Sequence[nn.Module], network: "Features") -> None:
        """Freeze what the settings name: `stages` from the input on, and the norms of `network`."""
        if self.weights is None:
            return
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        network.frozen = [*stages[: self.frozen_stages], *(norms if self.frozen_norms else ())]
        for module in network.frozen:
            module.requires_grad_(False)


class Features(nn.Module):
    """A backbone at work: [B, 3, H, W] to a list of maps with `channels` and `strides`, one number a map.

    mean, std  of the input in 0..1, per channel, as the weights expect
    frozen     modules that stay in evaluation mode while the rest trains
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __init__(self) -> None:
        super().__init__()
        self.frozen: Sequence[nn.Module] = ()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self


class ResNet(Pretrained):
    """ResNet (He et al. 2016) of torchvision; `levels` says which of C2..C5 (strides 4 to 32) it returns.

    weights  a name of torchvision's list, for instance IMAGENET1K_V1
    """

    depth: Literal[18, 34, 50, 101] = 50
    levels: Annotated[tuple[Literal[2, 3, 4, 5], ...], Field(min_length=1)] = (3, 4, 5)

    @field_validator("levels")
    @classmethod
    def _rising(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if any(finer >= coarser for finer, coarser in pairwise(levels)):
            raise ValueError(
                f"levels {list(levels)} do not rise; write them from fine to coarse, for instance [3, 4, 5]"
            )
        return levels

    @model_validator(mode="after")
    def _known(self) -> Self:
        self._source()
        return self

    def _source(self) -> WeightsEnum | None:
        known = get_model_weights(f"resnet{self.depth}").__members__
        if self.weights is not None and self.weights not in known:
            raise ValueError(f"unknown weights '{self.weights}' of ResNet-{self.depth}; {nearest(self.weights, known)}")
        return None if self.weights is None else known[self.weights]

    def identity(self) -> Json:
        source = self._source()
        return None if source is None else hash_in_name(source.url)

    def build(self) -> "ResNetFeatures":
        network = get_model_builder(f"resnet{self.depth}")()
        source = self._source()
        if source is not None and not network.conv1.weight.is_meta:
            file = cached_weights(f"ResNet-{self.depth} {self.weights}", source.url)
            network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        features = ResNetFeatures(network, self.levels)
        self.freeze([features.stem, *features.stages], features)
        return features


class ResNetFeatures(Features):
    """The convolutional part of a torchvision ResNet, up to the last level asked for."""

    mean = (0.485, 0.456, 0.406)  # of ImageNet, as all of torchvision's ResNet weights expect
    std = (0.229, 0.224, 0.225)

    def __init__(self, network: nn.Module, levels: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        self.stages = nn.ModuleList([network.layer1, network.layer2, network.layer3, network.layer4][: levels[-1] - 1])
        self.levels = tuple(levels)
        self.channels = tuple(_width(self.stages[level - 2]) for level in levels)
        self.strides = tuple(2**level for level in levels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """C_l for each of `levels`, [B, C, H / 2^l, W / 2^l] (rounded up)."""
        maps, x = [], self.stem(images)
        for level, stage in enumerate(self.stages, start=2):
            x = stage(x)
            if level in self.levels:
                maps.append(x)
        return maps


def _width(stage: nn.Module) -> int:
    return [module for module in stage.modules() if isinstance(module, nn.BatchNorm2d)][-1].num_features


def hash_in_name(url: str) -> str:
    """First digits of the SHA-256 that torch's hub writes at the end of a file's name: resnet50-0676ba61.pth."""
    return Path(url).stem.rpartition("-")[2]


def cached_weights(name: str, url: str) -> Path:
    """The file of `url` in torch's own cache (`TORCH_HOME`), checked against the hash in its name.

    Nothing is downloaded. Raises MissingData where it is absent, InputError where it is not what its name says.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / Path(url).name
    if not file.is_file():
        raise MissingData(f"{name}: the weights are not on this machine; download {url} to {folder}")
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if not found.startswith(hash_in_name(url)):
        raise InputError(
            f"{file}: SHA-256 {found[:8]}… is not the {hash_in_name(url)}… of its name; download {url} again"
        )
    return file
