"""ResNet backbones from torchvision, and what pretrained backbones share: weights to start from, freezing."""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

import torchvision
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_builder, get_model_weights

from benchsuite.errors import nearest
from benchsuite.models.detector import Backbone, Edit, Features
from benchsuite.models.weights import cached_weights, hash_in_name, hash_of, intact, load_into, read, sha256
from benchsuite.settings import Json


class Pretrained(Backbone):
    """A backbone that may start from published weights and be frozen in part, as papers do on COCO.

    frozen_stages  how many stages are frozen, from the input on: 1 the stem, 2 also the first stage of blocks, …
    frozen_norms   every BatchNorm keeps its statistics and its affine weights
    weights_file   one's own: tensors by the network's names, as .safetensors or a torch file of tensors alone; its
                   hash is in the key, its place is not
    Without weights nothing random is frozen: everything trains, and `deviations` says so.
    edits          changes of the network, in this order, after loading and before freezing
    """

    weights: str | None = None
    weights_file: Path | None = Field(None, exclude=True)
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 0
    frozen_norms: bool = False
    edits: tuple[Edit, ...] | None = None

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.weights is not None and self.weights_file is not None:
            raise ValueError("weights and weights_file are both given; leave out one")
        return self

    @property
    def pretrained(self) -> bool:
        """Whether it starts from weights that something was learnt with."""
        return self.weights is not None or self.weights_file is not None

    @abstractmethod
    def address(self) -> str:
        """Where `weights` are published; the SHA-256's first digits end the file's name."""

    def published(self) -> Path:
        """The file of `weights` on this machine; MissingData where it is absent."""
        return cached_weights(self.address())

    def identity(self) -> Json:
        """First digits of the weights' SHA-256; of one's own file `absent` where it is not here."""
        if self.weights_file is not None:
            return hash_of(self.weights_file)
        return None if self.weights is None else hash_in_name(self.address())

    def require(self) -> None:
        """MissingData if the weights are not on this machine."""
        if self.weights_file is not None:
            sha256(self.weights_file)
        elif self.weights is not None:
            self.published()

    def deviations(self) -> tuple[str, ...]:
        """What is done otherwise than the settings say, one sentence each."""
        if self.weights_file is not None:
            return (f"backbone from the user's own weights, SHA-256 {self.identity()}",)
        return () if self.weights else ("backbone from scratch: no pretrained weights, every stage and norm trains",)

    def edit_and_freeze(self, features: Features, stages: Sequence[nn.Module]) -> None:
        """Edit, then freeze what the settings name; `stages` are the layers of `features` from the input on, the stem
        first. What an edit added is not frozen."""
        added = [module for edit in self.edits or () for module in edit.apply(features)]
        if not self.pretrained:
            return
        norms = [module for module in features.modules() if isinstance(module, nn.BatchNorm2d)]
        features.frozen = [*stages[: self.frozen_stages], *(norms if self.frozen_norms else ())]
        features.added = added
        for module in features.frozen:
            module.requires_grad_(False)
        for module in features.added:
            module.requires_grad_(True)


class FromTorchvision(Pretrained):
    """A backbone of torchvision's; `weights` is one of torchvision's names, for instance IMAGENET1K_V1."""

    @property
    @abstractmethod
    def architecture(self) -> str:
        """Its name in torchvision, as `resnet50`."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        self.source()
        return self

    def source(self) -> WeightsEnum | None:
        """What torchvision says of the weights; None without. ValueError, with the nearest name, for unknown ones."""
        if self.weights is None:
            return None
        known = get_model_weights(self.architecture).__members__
        if self.weights not in known:
            raise ValueError(f"unknown weights '{self.weights}' of {self.architecture}; {nearest(self.weights, known)}")
        return known[self.weights]

    def address(self) -> str:
        """Torchvision's."""
        source = self.source()
        return "" if source is None else str(source.url)

    def load(self, network: nn.Module, but: tuple[str, ...] = ()) -> None:
        """Copy the weights, if there are any, into `network`, whose names are torchvision's; not on the meta device.
        MissingData where they are absent."""
        if self.pretrained and not next(network.parameters()).is_meta:
            file = self.weights_file or intact(self.published())
            load_into(network, read(file), file, but)


class ResNet(FromTorchvision):
    """ResNet (He et al. 2016); `levels` says which of C2..C5 (strides 4 to 32) it returns."""

    depth: Literal[18, 34, 50, 101] = 50
    levels: Annotated[tuple[Literal[2, 3, 4, 5], ...], Field(min_length=1)] = (3, 4, 5)

    @field_validator("levels")
    @classmethod
    def _rising(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if any(finer >= coarser for finer, coarser in pairwise(levels)):
            raise ValueError(f"levels {list(levels)} do not rise; write them from fine to coarse, as [3, 4, 5]")
        return levels

    @property
    def architecture(self) -> str:
        """resnet50 and its like."""
        return f"resnet{self.depth}"

    def build(self) -> "ResNetFeatures":
        """Build, load, edit, freeze; on the meta device nothing is loaded. MissingData where the weights are absent."""
        network = get_model_builder(self.architecture)()
        self.load(network, but=("fc.",))
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
