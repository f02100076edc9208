"""Any backbone of timm that returns feature maps, among them HAR-Net's SENets."""

from itertools import pairwise
from typing import Annotated, Any, Self, cast

import timm
from pydantic import Field, NonNegativeInt, field_validator, model_validator
from timm.models import FeatureListNet, PretrainedCfg, get_pretrained_cfg
from torch import Tensor, nn

from benchsuite.errors import nearest
from benchsuite.models.detector import Features
from benchsuite.models.resnet import Pretrained
from benchsuite.models.weights import intact, load_into, read


class Timm(Pretrained):
    """The model `name` of timm. HAR-Net's SENets are legacy_seresnet50, legacy_seresnet101, legacy_seresnext50_32x4d
    and legacy_seresnext101_32x4d: ports of the SENet authors' weights.

    weights      a tag of timm's, for instance in1k
    out_indices  which of its feature maps are returned; (2, 3, 4) are C3, C4, C5 of a residual network
    """

    name: str
    out_indices: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (2, 3, 4)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if "." in name or not timm.is_model(name):
            raise ValueError(f"timm has no model '{name}'; {nearest(name, timm.list_models())}")
        return name

    @field_validator("out_indices")
    @classmethod
    def _rising(cls, indices: tuple[int, ...]) -> tuple[int, ...]:
        if any(finer >= coarser for finer, coarser in pairwise(indices)):
            raise ValueError(f"out_indices {list(indices)} do not rise; write them from fine to coarse, as [2, 3, 4]")
        return indices

    @model_validator(mode="after")
    def _offered(self) -> Self:
        offered = self._offers()
        if self.weights is not None and self.weights not in offered:
            raise ValueError(f"unknown weights '{self.weights}' of {self.name}; {nearest(self.weights, offered)}")
        if self.weights is not None and not self.address():
            raise ValueError(f"weights '{self.weights}' of {self.name} are not a plain file; name others")
        return self

    def _offers(self) -> list[str]:
        return [name.partition(".")[2] for name in timm.list_pretrained(f"{self.name}.*")]

    def _source(self) -> PretrainedCfg:
        return get_pretrained_cfg(f"{self.name}.{self.weights}" if self.weights else self.name) or PretrainedCfg()

    def address(self) -> str:
        """Timm's."""
        return str(self._source().url or "")

    def build(self) -> "TimmFeatures":
        """Build, load, edit, freeze; on the meta device nothing is loaded. MissingData where the weights are absent."""
        network = self._network()
        if self.pretrained and not next(network.parameters()).is_meta:
            network = self._loaded(network)
        source = self._source()
        features = TimmFeatures(network, source.mean, source.std)
        self.edit_and_freeze(features, features.stages())
        return features

    def _loaded(self, network: FeatureListNet) -> FeatureListNet:
        if self.weights_file is not None:
            load_into(network, read(self.weights_file), self.weights_file)
            return network
        return self._network(pretrained=True, pretrained_cfg_overlay={"file": str(intact(self.published()))})

    def _network(self, **weights: Any) -> FeatureListNet:
        network = timm.create_model(self.name, features_only=True, out_indices=self.out_indices, **weights)
        return cast(FeatureListNet, network)


class TimmFeatures(Features):
    """A timm model that returns its feature maps."""

    def __init__(self, network: FeatureListNet, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.channels = tuple(network.feature_info.channels())
        self.strides = tuple(network.feature_info.reduction())
        self.mean, self.std = mean, std

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps [B, C_l, H / stride_l, W / stride_l] (rounded up), from fine to coarse."""
        maps: list[Tensor] = self.network(images)
        return maps

    def stages(self) -> list[nn.Module]:
        """The layers up to each feature map, as timm lists them: the stem, then each stage of blocks."""
        ends = {info["module"] for info in self.network.feature_info.info}
        inner = {end.partition(".")[0] for end in ends if "." in end}
        found = [nn.ModuleList()]
        for name, layer in self.network.named_children():
            # a stage may be a layer, or one of a layer's own
            parts = layer.named_children() if name in inner else [("", layer)]
            for part, module in parts:
                found[-1].append(module)
                if (f"{name}.{part}" if part else name) in ends:
                    found.append(nn.ModuleList())
        return list(found[:-1])
