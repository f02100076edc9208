"""POD's scale decomposition (Peng et al., arXiv 1909.02225, section 3.2): a learnt fractional scale as integral
dilations, a pure function without torch.

A convolution with scale (d_h, d_w) and C output channels becomes two: the first (1 - α) C channels take the dilations
below, the others those above. A dilation of 0 is one tap in that direction, the centre.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt, ValidationError

from benchsuite.errors import InputError
from benchsuite.settings import Settings, flat_errors

SNAP = 0.05 + 1e-6
"""A scale no further from a whole number is that number ("Δ ≤ 0.05"); the 1e-6 is for floats: 0.95 snaps to 1.

choice: from both sides, the paper's example is 2.02; near 0 too, where both sub-convolutions are then one tap wide.
"""

Dilation = Annotated[int, Field(ge=0)]


class SubConv(Settings):
    """A convolution with fixed dilations (h, w) that makes `channels` of a layer's output channels."""

    channels: PositiveInt
    dilation: tuple[Dilation, Dilation]

    @property
    def kernel(self) -> tuple[int, int]:
        """Taps in each direction: 3, or 1 where the dilation is 0 (sec. 3.2, last paragraph)."""
        height, width = (3 if dilation else 1 for dilation in self.dilation)
        return height, width


class Dilations(Settings):
    """The sub-convolutions of every decomposed layer, by its name (R31 … R53), lower dilations first."""

    layers: Mapping[str, Annotated[tuple[SubConv, ...], Field(min_length=1, max_length=2)]]

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(self.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Dilations":
        """Read what `save` wrote; InputError, one line, where it is something else."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); give what a run decomposed") from None
        except ValidationError as error:
            where, message, _ = flat_errors(error)[0]
            place = ".".join(map(str, where)) or "the file"
            raise InputError(f"{path}: has no dilations ({place}: {message}); decompose the scales again") from None


def decompose_all(scales: Mapping[str, tuple[float, float]], channels: Mapping[str, int]) -> Dilations:
    """The dilations for learnt scales (d_h, d_w) of layers with `channels` output channels, both by layer.

    InputError naming the layer where a scale is negative or not finite.
    """
    layers = {}
    for name, (d_h, d_w) in scales.items():
        if not all(math.isfinite(d) and d >= 0 for d in (d_h, d_w)):
            raise InputError(f"{name}: has the scale ({d_h:g}, {d_w:g}), which nothing can be decomposed to; scales "
                             "are finite and not negative, train the GSL network again")  # fmt: skip
        layers[name] = decompose(d_h, d_w, channels[name])
    return Dilations(layers=layers)


def decompose(d_h: float, d_w: float, channels: int) -> tuple[SubConv, ...]:
    """Sec. 3.2: the sub-convolutions of one layer with scale (d_h, d_w), finite and not negative, and C = `channels`
    output channels; one where both directions are whole or a part would be empty."""
    (low_h, high_h), (low_w, high_w) = _bounds(d_h), _bounds(d_w)
    fractions = [d - low for d, low, high in ((d_h, low_h, high_h), (d_w, low_w, high_w)) if low < high]
    if not fractions:
        return (SubConv(channels=channels, dilation=(low_h, low_w)),)
    alpha = sum(fractions) / len(fractions)  # their mean; the other direction's alone where one is whole
    # choice: half up, on the upper part; rounded before so that no float decides a channel.
    upper = math.floor(round(alpha * channels, 9) + 0.5)
    parts = ((channels - upper, (low_h, low_w)), (upper, (high_h, high_w)))
    return tuple(SubConv(channels=count, dilation=dilation) for count, dilation in parts if count)


def _bounds(d: float) -> tuple[int, int]:
    """The whole dilations below and above `d`, equal where it is close to one."""
    nearest = math.floor(d + 0.5)
    if abs(d - nearest) <= SNAP:
        return nearest, nearest
    return math.floor(d), math.floor(d) + 1
