"""ResNet backbones from torchvision, and what pretrained backbones share: weights from torch's cache, freezing."""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
import torchvision
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_builder, get_model_weights

from benchsuite.errors import InputError, MissingData, nearest
from benchsuite.models.detector import Backbone, Edit, Features
from benchsuite.settings import Json


class Pretrained(Backbone):
    """A backbone that may start from published weights and be frozen in part, as papers do on COCO.

    frozen_stages  how many stages are frozen, from the input on: 1 the stem, 2 also the first stage of blocks, …
    frozen_norms   every BatchNorm keeps its statistics and its affine weights
    Without weights nothing random is frozen: everything trains, and `deviations` says so.
    edits          changes of the network, in this order, after loading and before freezing
    """

    weights: str | None = None
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 0
    frozen_norms: bool = False
    edits: tuple[Edit, ...] | None = None

    def deviations(self) -> tuple[str, ...]:
        """What is done otherwise than the settings say, one sentence each."""
        return () if self.weights else ("backbone from scratch: no pretrained weights, every stage and norm trains",)

    def edit_and_freeze(self, features: Features, stages: Sequence[nn.Module]) -> None:
        """Edit, then freeze what the settings name; `stages` are the layers of `features` from the input on, the stem
        first. What an edit added is not frozen."""
        added = [module for edit in self.edits or () for module in edit.apply(features)]
        if self.weights is None:
            return
        norms = [module for module in features.modules() if isinstance(module, nn.BatchNorm2d)]
        features.frozen = [*stages[: self.frozen_stages], *(norms if self.frozen_norms else ())]
        features.added = added
        for module in features.frozen:
            module.requires_grad_(False)
        for module in features.added:
            module.requires_grad_(True)


class ResNet(Pretrained):
    """ResNet (He et al. 2016) of torchvision; `levels` says which of C2..C5 (strides 4 to 32) it returns.

    weights  a name of torchvision's, for instance IMAGENET1K_V1
    """

    depth: Literal[18, 34, 50, 101] = 50
    levels: Annotated[tuple[Literal[2, 3, 4, 5], ...], Field(min_length=1)] = (3, 4, 5)

    @field_validator("levels")
    @classmethod
    def _rising(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if any(finer >= coarser for finer, coarser in pairwise(levels)):
            raise ValueError(f"levels {list(levels)} do not rise; write them from fine to coarse, as [3, 4, 5]")
        return levels

    @model_validator(mode="after")
    def _known(self) -> Self:
        self._source()
        return self

    def _source(self) -> WeightsEnum | None:
        if self.weights is None:
            return None
        known = get_model_weights(f"resnet{self.depth}").__members__
        if self.weights not in known:
            raise ValueError(f"unknown weights '{self.weights}' of ResNet-{self.depth}; {nearest(self.weights, known)}")
        return known[self.weights]

    def identity(self) -> Json:
        """First digits of the weights' SHA-256."""
        source = self._source()
        return None if source is None else hash_in_name(source.url)

    def require(self) -> None:
        """MissingData if the weights are not on this machine."""
        source = self._source()
        if source is not None:
            cached_weights(source.url)

    def build(self) -> "ResNetFeatures":
        """Build, load, edit, freeze; on the meta device nothing is loaded. MissingData where the weights are absent."""
        network = get_model_builder(f"resnet{self.depth}")()
        source = self._source()
        if source is not None and not network.conv1.weight.is_meta:
            load_into(network, intact(cached_weights(source.url)))
        features = ResNetFeatures(network, self.levels)
        self.edit_and_freeze(features, list(features.stages))
        return features


class ResNetFeatures(Features):
    """The convolutional part of a torchvision ResNet, up to the last level asked for."""

    mean = (0.485, 0.456, 0.406)  # of ImageNet, as all of torchvision's ResNet weights expect
    std = (0.229, 0.224, 0.225)

    def __init__(self, network: torchvision.models.ResNet, levels: Sequence[int]) -> None:
        super().__init__()
        stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        blocks = network.layer1, network.layer2, network.layer3, network.layer4
        self.stages = nn.ModuleList([stem, *blocks][: levels[-1]])
        self.levels = tuple(levels)
        # stage l - 1 makes C_l
        self.channels = tuple(network.fc.in_features >> (5 - level) for level in levels)
        self.strides = tuple(2**level for level in levels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """C_l for each of `levels`, [B, C, H / 2^l, W / 2^l] (rounded up)."""
        maps, x = [], images
        for level, stage in enumerate(self.stages, start=1):
            x = stage(x)
            if level in self.levels:
                maps.append(x)
        return maps


def hash_in_name(file: str | Path) -> str:
    """First digits of the SHA-256 that torch's hub writes at the end of a file's name: resnet50-0676ba61.pth."""
    return Path(file).stem.rpartition("-")[2]


def cached_weights(url: str) -> Path:
    """The file of `url` in torch's own cache (`TORCH_HOME`). Nothing is downloaded; MissingData where it is absent."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / Path(url).name
    if not file.is_file():
        raise MissingData(f"{file.name}: these weights are not on this machine; download {url} to {folder}")
    return file


def intact(file: Path) -> Path:
    """`file`, checked against the hash in its name; InputError where they differ."""
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if not found.startswith(hash_in_name(file)):
        raise InputError(f"{file}: its SHA-256 starts with {found[:8]}, unlike its name; download it again")
    return file


def load_into(network: nn.Module, file: Path) -> None:
    """Copy a checkpoint of torch's into `network`; InputError where its keys or shapes are another network's."""
    try:
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except RuntimeError as error:
        told = " ".join(str(error).split()).partition(": ")[2]
        raise InputError(
            f"{file}: does not fit {type(network).__name__} ({told[:160]}); choose weights of this network"
        ) from None
