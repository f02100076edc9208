"""ASSD: Yi, Wu and Metaxas, "ASSD: Attentive Single Shot Multibox Detector", Computer Vision and Image Understanding
189, 2019, arXiv 1909.12456.

    sec. 3, fig. 2      Neck, Attended: fusion of the finest level, then attention on each; no attended map is fused
    sec. 3.1, eq. 1, 2  Attention, AttentionUnit; `attended` and the ways to compute it
    sec. 3.2, eq. 3     Fusion, SemanticFusion
    sec. 4              the baseline: models/ssd.py
    sec. 5.5, fig. 3    assd_maps.py

Shapes: B images; x^s a level [B, C, H, W] of N = H · W positions; q, k [B, N, C'] and v [B, N, C] its queries, keys and
values, a row a position (the paper writes them as columns); ā [B, N, N] the attention, a row a query.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import interpolate, scaled_dot_product_attention

from benchsuite.errors import InputError
from benchsuite.models import fpn
from benchsuite.models.fpn import Levels
from benchsuite.settings import Settings

Way: TypeAlias = Literal["auto", "explicit", "chunked", "fused", "heads"]

CHUNK = 512
"""Queries at once: at 65×65 positions their rows of ā take 8 MiB, all rows 68."""


class Attention(Settings):
    """The attention unit (sec. 3.1), one for each level, their weights not shared.

    choice: no scale 1/√C', heads, output projection or factor that starts at 0; queries, keys and values without bias.
    The paper's formulas have none of these, and with biases its parameters in Table 2 would not come out.
    choice: W_v is C × C; as printed, C × C', it fits neither the sum of eq. 2 nor Table 2's parameters.

    levels     which levels get one, 1 being the finest; all by default
    reduction  C / C'
    way        how ā v is computed, see `attended`; the ways agree to rounding
    """

    levels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = None
    reduction: PositiveInt = 8
    way: Way = "auto"

    def build(self, channels: Sequence[int]) -> nn.ModuleList:
        """A unit, or what changes nothing, for each level. InputError for a level that does not exist."""
        count = len(channels)
        chosen = self.levels or tuple(range(1, count + 1))
        absent = [level for level in chosen if level > count]
        if absent:
            raise InputError(f"neck.attention.levels: there are levels 1 to {count} and no {absent[0]}; leave it out")
        units = (AttentionUnit(width, self) if level in chosen else nn.Identity()
                 for level, width in enumerate(channels, 1))  # fmt: skip
        return nn.ModuleList(units)


class AttentionUnit(nn.Module):
    """x' = x + ā v, where every position looks at all positions of its level."""

    def __init__(self, channels: int, settings: Attention) -> None:
        super().__init__()
        reduced = max(1, channels // settings.reduction)
        # choice: torch's own initial weights (so the authors' release)
        self.query, self.key = (nn.Conv2d(channels, reduced, 1, bias=False) for _ in range(2))
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        self.way = settings.way

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        q, k, v = (rows(layer(x)) for layer in (self.query, self.key, self.value))
        return x + attended(q, k, v, self.way).transpose(1, 2).view(x.shape)  # eq. 2

    def attention_rows(self, x: Tensor, queries: Tensor) -> Tensor:
        """ā_i, the attention maps (eq. 1) of the positions i in `queries` (int64 [Q], counted row by row) of a level
        [B, C, H, W]: [B, Q, N]. The other rows of ā are not made."""
        q, k = rows(self.query(x)), rows(self.key(x))
        return torch.softmax(q[:, queries] @ k.transpose(1, 2), dim=-1)


def rows(x: Tensor) -> Tensor:
    """A row for each position: [B, C, H, W] to [B, N, C], a view."""
    return x.flatten(2).transpose(1, 2)


def attended(q: Tensor, k: Tensor, v: Tensor, way: Way = "auto") -> Tensor:
    """ā v [B, N, C] of eq. 1 and 2, ā = softmax over the keys of q kᵀ.

    explicit  as written, with all of ā in memory
    chunked   the same for `CHUNK` queries at a time; without gradients only their rows of ā are ever there
    fused     torch's fused attention; on CUDA never the kernel that would make ā after all
    heads     fused with C / C' heads of equal queries and keys, each for its own C' values: any fused kernel takes it,
              and q kᵀ is computed once a head
    auto      fused on CUDA where its kernel takes these widths, else chunked
    """
    return WAYS[best_way(q.device.type, q, v) if way == "auto" else way](q, k, v)


def best_way(device: str, q: Tensor, v: Tensor) -> Way:
    """The way for queries and values on `device`: the kernel wants rows of whole 16 bytes."""
    whole = all(each.shape[-1] * each.element_size() % 16 == 0 for each in (q, v))
    return "fused" if device == "cuda" and whole else "chunked"


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ) v."""
    return torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)), dim=-1), v)


def chunked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As `explicit`, some queries after others."""
    return torch.cat([explicit(some, k, v) for some in torch.split(q, CHUNK, dim=1)], dim=1)


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One head whose values are wider than its queries; the kernels want contiguous rows."""
    return _fused(*(each.contiguous().unsqueeze(1) for each in (q, k, v))).squeeze(1)


def heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The columns of v in groups as wide as q, each weighed by the same ā."""
    width = q.shape[-1]
    if v.shape[-1] % width:
        raise InputError(f"neck.attention.way: heads of {width} do not divide {v.shape[-1]} channels; choose another")
    values = v.contiguous().view(*v.shape[:2], -1, width).transpose(1, 2)
    q, k = (each.contiguous().unsqueeze(1).expand_as(values) for each in (q, k))
    return _fused(q, k, values).transpose(1, 2).flatten(2)


def _fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if not q.is_cuda:
        return scaled_dot_product_attention(q, k, v, scale=1.0)
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION]):
        return scaled_dot_product_attention(q, k, v, scale=1.0)


WAYS: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "explicit": explicit, "chunked": chunked, "fused": fused, "heads": heads,
}  # fmt: skip


class Fusion(Settings):
    """Semantic fusion (sec. 3.2): the two levels above the finest enrich it.

    choice: each level is first projected to `width` channels, and BatchNorm and ReLU stand around eq. 3's 1×1
    convolution (so the authors' release); one convolution of all channels together would give 68.1 M parameters, and
    Table 2 has 67.5 M.
    """

    width: PositiveInt = 256
    # choice: corner cells lie on corner cells (so the authors' release).
    align_corners: bool = True

    def build(self, channels: Sequence[int]) -> "SemanticFusion":
        """Build it for levels of these channels; InputError where they are fewer than three."""
        if len(channels) < 3:
            raise InputError(f"neck.fusion: it takes three levels, and the neck makes {len(channels)}; leave it out")
        return SemanticFusion(channels[:3], self)


class SemanticFusion(nn.Module):
    """x³ = W³ Concat{x³, x⁴, x⁵} + b³, eq. 3."""

    def __init__(self, channels: Sequence[int], settings: Fusion) -> None:
        super().__init__()
        self.align_corners = settings.align_corners
        self.projections = nn.ModuleList(nn.Conv2d(each, settings.width, 1) for each in channels)
        together = settings.width * len(channels)
        self.norm, self.mix = nn.BatchNorm2d(together), nn.Conv2d(together, channels[0], 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """[B, C_l, H_l, W_l] of the three finest levels to a map like the first."""
        finest, *coarser = (layer(x) for layer, x in zip(self.projections, levels, strict=True))
        size = finest.shape[-2:]
        upsampled = [interpolate(x, size=size, mode="bilinear", align_corners=self.align_corners) for x in coarser]
        mixed: Tensor = self.mix(self.norm(torch.cat([finest, *upsampled], dim=1)))
        return mixed.relu()


class Neck(fpn.Neck):
    """What ASSD adds to the neck `of` an SSD: neither, either or both of fusion and attention (Table 3)."""

    of: fpn.Neck
    fusion: Fusion | None = None
    attention: Attention | None = None

    def build(self, channels: Sequence[int], strides: Sequence[int]) -> "Attended":
        """Build it. InputError for a level that does not exist."""
        return Attended(self, channels, strides)


class Attended(Levels):
    """The levels of an SSD, the finest fused, each attended."""

    def __init__(self, settings: Neck, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.of = settings.of.build(channels, strides)
        self.channels, self.strides = self.of.channels, self.of.strides
        # The generator is put back, so that a seed gives what comes after the neck the same weights in every row.
        with torch.random.fork_rng(devices=()):
            self.fusion = settings.fusion.build(self.channels) if settings.fusion else None
            self.attention = settings.attention.build(self.channels) if settings.attention else None

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """x^s of every level s."""
        levels: list[Tensor] = self.of(maps)
        if self.fusion is not None:
            levels = [self.fusion(levels[:3]), *levels[1:]]
        if self.attention is not None:
            levels = [unit(x) for unit, x in zip(self.attention, levels, strict=True)]
        return levels
