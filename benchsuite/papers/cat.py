"""CAT: Wu, Wang, Sun, Li, Xu, Wang, Huang, "CAT: Learning to Collaborate Channel and Spatial Attention from
Multi-Information Fusion", IET Computer Vision 2023, arXiv 2212.06335.

    sec. 3.1, fig. 1, eq. 1, algorithm 1   Cat, CatUnit
    sec. 3.2, fig. 2 a, eq. 2 and 5        ChannelMap; with its neighbour: RawMap
    sec. 3.3, fig. 2 b, eq. 7              SpatialMap
    sec. 3.1 to 3.3, "colla-factors"       Factors
    eq. 3, 4 and 6, low-pass filters       cat_pooling.py
    sec. 3.1, "the residual operation"     models/attention.py, with the modules it is compared with
    fig. 3 and 4                           cat_maps.py

Shapes: F an input [B, C, H, W] and F_A the output, C'_A the raw channel map [B, C, 1, 1], S'_A the raw spatial map
[B, 1, H, W]; n of the three operators avg (GAP), max (GMP) and ent (GEP) are in use, in this order.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor, nn

from benchsuite.models.attention import Attention, reduced
from benchsuite.papers.cat_pooling import DIMS, Over, blurred_maxima, entropy, gaussian, min_max
from benchsuite.settings import Switch

Operator = Literal["avg", "max", "ent"]
GREEK = {"avg": "alpha", "max": "beta", "ent": "gamma"}
TAPS = 5  # k, "set to 5 in this paper after comparisons in experiments"


class Cat(Attention):
    """CAT behind each residual branch, and what Table 6 compares it with.

    branch     parallel: eq. 1; c or s: that map alone, F ⊙ σ(C'_A) or F ⊙ σ(S'_A); cs or sc: one, then the other on
               what the first has weighed
    ops        choice: rows of Table 6 "w/o GEP" have avg and max, as section 3 would have them; its prose hints that
               they had avg alone (sec. 4.4)
    interior   learned: the factors C_α … S_γ of eq. 5 and 7, from 0; one: all are 1, "CAT w/ exterior colla-factors"
    interior_softmax   choice: no softmax, which the text has for the exterior factors alone
    combine    choice: eq. 1, where the exterior factors stand inside σ; alg1 has them outside, as algorithm 1
    inner_sigmoid      choice: no σ in eq. 7, for eq. 1 has one; two of them could never suppress a position
    ent_range  choice: 0 to 1, as eq. 4 gives; signed: −1 to 1, as the text says
    fuse       sum: eq. 7; concat: the 7×7 convolution weighs the spatial maps itself, without factors (fig. 3 b)
    sigma      choice: of the low-pass filters, 1.1, the usual one for five taps: 0.3 ((k − 1) / 2 − 1) + 0.8
    """

    branch: Literal["parallel", "c", "s", "cs", "sc"] = "parallel"
    ops: Annotated[tuple[Operator, ...], Field(min_length=1)] = ("avg", "max", "ent")
    interior: Literal["learned", "one"] = "learned"
    interior_softmax: Switch = None
    combine: Literal["eq1", "alg1"] = "eq1"
    inner_sigmoid: Switch = None
    ent_range: Literal["unit", "signed"] = "unit"
    fuse: Literal["sum", "concat"] = "sum"
    sigma: PositiveFloat = 1.1

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if list(self.ops) != [op for op in GREEK if op in self.ops]:
            raise ValueError(f"ops are {list(self.ops)}; write each once, in the order {list(GREEK)}")
        if self.interior_softmax and self.interior == "one":
            raise ValueError("interior_softmax has no factors to normalise; drop it, or set interior to learned")
        if self.combine == "alg1" and self.branch != "parallel":
            raise ValueError(f"combine: alg1 needs both maps and branch is {self.branch}; drop it")
        if self.branch == "c" and (self.inner_sigmoid or self.fuse == "concat"):
            raise ValueError("branch c has no spatial map; drop inner_sigmoid and fuse")
        return self

    def unit(self, channels: int) -> "CatUnit":
        """2 C ⌊C / 16⌋ + 49 + 8 parameters, as the paper has it."""
        return CatUnit(self, channels)


class CatUnit(nn.Module):
    """F to F_A. Maps and factors are float32 under autocast too."""

    taps: Tensor

    def __init__(self, settings: Cat, channels: int) -> None:
        super().__init__()
        self.channel = None if settings.branch == "s" else ChannelMap(settings, channels)
        self.spatial = None if settings.branch == "c" else SpatialMap(settings)
        self.spatial_first = settings.branch == "sc"
        self.exterior = Factors(("C_w", "S_w"), normalised=True) if settings.branch == "parallel" else None
        self.outside = settings.combine == "alg1"
        self.register_buffer("taps", gaussian(TAPS, settings.sigma), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        # Autocast does not know the meta device, on which costs are counted.
        with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
            if self.exterior is not None:
                return self.parallel(x, *self.exterior())
            for one in self.maps:
                (raw,) = self.raw(x, [one])
                x = x * raw.sigmoid().to(x.dtype)
            return x

    @property
    def maps(self) -> list["RawMap"]:
        """What makes C'_A and S'_A, in the order in which they are used."""
        both = (self.spatial, self.channel) if self.spatial_first else (self.channel, self.spatial)
        return [one for one in both if one is not None]

    def parallel(self, x: Tensor, c_w: Tensor, s_w: Tensor) -> Tensor:
        """Eq. 1: F_A = F ⊙ σ(C'_A C_w) + F ⊙ σ(S'_A S_w)."""
        channel, spatial = self.raw(x, self.maps)
        if self.outside:  # algorithm 1: w7 σ(channel) + w8 σ(spatial)
            channel, spatial = c_w * channel.sigmoid(), s_w * spatial.sigmoid()
        else:
            channel, spatial = (c_w * channel).sigmoid(), (s_w * spatial).sigmoid()
        return x * channel.to(x.dtype) + x * spatial.to(x.dtype)

    def raw(self, x: Tensor, maps: Sequence["RawMap"]) -> list[Tensor]:
        """C'_A, S'_A, as asked for; what the maxima of both need of the low-pass filters is made once."""
        peaks = blurred_maxima(x, self.taps, tuple(one.over for one in maps))
        return [one(x, peak) for one, peak in zip(maps, peaks, strict=True)]


class Factors(nn.Module):
    """Colla-factors: learnable numbers that start at 0, or the softmax of such numbers.

    choice: no weight decay, which would draw the exterior factors towards ½ and ½.
    """

    decay_factor = 0.0

    def __init__(self, names: Sequence[str], normalised: bool) -> None:
        super().__init__()
        self.names = tuple(names)
        self.normalised = normalised
        self.raw = nn.Parameter(torch.zeros(len(names)))

    def forward(self) -> Tensor:
        """[n]."""
        return self.raw.softmax(0) if self.normalised else self.raw

    def observe(self) -> dict[str, Tensor]:
        """Each factor as it is used."""
        with torch.no_grad():
            return dict(zip(self.names, self().unbind(), strict=True))


class RawMap(nn.Module):
    """What C'_A and S'_A share: three poolings over `over`, and their interior factors."""

    over: Over

    def __init__(self, settings: Cat, letter: str, factors: bool) -> None:
        super().__init__()
        self.ops, self.signed = settings.ops, settings.ent_range == "signed"
        names = [f"{letter}_{GREEK[op]}" for op in self.ops]
        normalised = bool(settings.interior_softmax)
        self.factors = Factors(names, normalised) if factors and settings.interior == "learned" else None

    def pooled(self, x: Tensor, peak: Tensor, op: Operator) -> Tensor:
        """C'_Avg, C'_Max, C'_Ent [B, C, 1, 1] or S_Avg, S_Max, S_Ent [B, 1, H, W] of F and its maxima, in float32."""
        if op == "avg":
            return x.mean(DIMS[self.over], keepdim=True, dtype=torch.float)
        if op == "max":
            return peak.float()
        ranged = min_max(entropy(x, self.over))  # eq. 3 or 6, then 4
        return 2 * ranged - 1 if self.signed else ranged

    def weighed(self, maps: Sequence[Tensor]) -> Tensor:
        """Σ_i factor_i · map_i, the factors 1 where there are none."""
        weights = [1.0] * len(maps) if self.factors is None else self.factors().unbind()
        return torch.stack([weight * each for weight, each in zip(weights, maps, strict=True)]).sum(0)


class ChannelMap(RawMap):
    """C'_A of F (sec. 3.2).

    choice: no biases in the MLP, and it keeps torch's initial weights; were they 0, nothing would ever learn.
    """

    over: Over = "positions"

    def __init__(self, settings: Cat, channels: int) -> None:
        super().__init__(settings, "C", factors=True)
        hidden = reduced(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden, bias=False), nn.ReLU(inplace=True), nn.Linear(hidden, channels, bias=False)
        )

    def forward(self, x: Tensor, peak: Tensor) -> Tensor:
        """[B, C, 1, 1] of F and its maxima of the same shape."""
        pooled = torch.stack([self.pooled(x, peak, op).flatten(1) for op in self.ops])
        mapped = self.mlp(pooled)  # eq. 2, [n, B, C]
        return self.weighed(mapped.unbind())[:, :, None, None]  # eq. 5


class SpatialMap(RawMap):
    """S'_A of F (sec. 3.3).

    choice: no bias and no norm at the 7×7 convolution, which keeps torch's initial weights.
    """

    over: Over = "channels"

    def __init__(self, settings: Cat) -> None:
        super().__init__(settings, "S", factors=settings.fuse == "sum")
        self.concat = settings.fuse == "concat"
        self.inner_sigmoid = bool(settings.inner_sigmoid)
        self.conv = nn.Conv2d(len(self.ops) if self.concat else 1, 1, kernel_size=7, padding=3, bias=False)

    def forward(self, x: Tensor, peak: Tensor) -> Tensor:
        """[B, 1, H, W] of F and its maxima of the same shape."""
        raw: Tensor = self.conv(self.fused(x, peak))
        return raw.sigmoid() if self.inner_sigmoid else raw

    def fused(self, x: Tensor, peak: Tensor) -> Tensor:
        """What the convolution sees: −S_Avg S_α + S_Max S_β + S_Ent S_γ [B, 1, H, W], or all maps [B, n, H, W]."""
        pooled = {op: self.pooled(x, peak, op) for op in self.ops}
        maps = [-each if op == "avg" else each for op, each in pooled.items()]
        return torch.cat(maps, dim=1) if self.concat else self.weighed(maps)
