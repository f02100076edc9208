"""Layers that see all levels of a pyramid at once: group normalisation, and squeeze and excitation (SE: Hu et al.,
CVPR 2018) across them or, beside it, of each level alone. HAR-Net (arXiv 1904.11141), section III-B.

Shapes: B images, C channels, S positions of all levels together, levels [B, C, H_l, W_l].
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class CrossLevelGroupNorm(nn.Module):
    """Group normalisation whose statistics are an image's over its levels; scales and shifts are shared by the levels.
    The scales start at `gamma`."""

    def __init__(self, channels: int, groups: int, gamma: float = 1.0, centred: bool = True) -> None:
        super().__init__()
        self.groups, self.centred = groups, centred
        self.weight = nn.Parameter(torch.full((channels,), gamma))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """y_l = γ (x_l − μ) / √(v + 10⁻⁵) + β."""
        return cross_level_group_norm(levels, self.groups, self.weight, self.bias, centred=self.centred)


def cross_level_group_norm(
    levels: Sequence[Tensor], groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5, centred: bool = True
) -> list[Tensor]:
    """y = weight · (x − μ) / √(v + eps) + bias, μ and v of an image and a group of channels over all levels' positions.

    weight, bias [C] are shared by the levels. Without `centred` μ is 0 and v the mean square ("L2" normalisation).
    """
    return list(_CrossLevelNorm.apply(groups, eps, centred, weight, bias, *levels))


class _CrossLevelNorm(torch.autograd.Function):
    """Moments of each channel of each level first, then one multiplication and addition of each level where it is: to
    lay the levels side by side for one `group_norm` would copy them, which costs as much as half a normalisation."""

    @staticmethod
    def forward(
        ctx: Any, groups: int, eps: float, centred: bool, weight: Tensor, bias: Tensor, *levels: Tensor
    ) -> tuple[Tensor, ...]:
        means, variances = _moments(levels)  # [L, B, C]
        sizes = [level.shape[-2:].numel() for level in levels]
        share = means.new_tensor([size / sum(sizes) for size in sizes]).view(-1, 1, 1)
        mean = _grouped((share * means).sum(0), groups) if centred else torch.zeros_like(means[0])  # [B, C]
        variance = _grouped((share * (variances + (means - mean).square())).sum(0), groups)
        inverse = (variance + eps).rsqrt()
        scale = inverse * weight
        shift = torch.addcmul(bias, mean, scale, value=-1)
        ctx.groups, ctx.centred, ctx.positions = groups, centred, sum(sizes)
        ctx.save_for_backward(weight, mean, inverse, *levels)
        return tuple(_affine(level, scale, shift) for level in levels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        weight, mean, inverse, *levels = ctx.saved_tensors
        products, totals = _sums(slopes, levels, mean, inverse)  # Σ g x̂ and Σ g over all levels, [B, C]
        # dx = (γ g − mean(γ g) − x̂ mean(γ g x̂)) / √(v + ε), the means over an image's group
        along = _grouped(weight * products, ctx.groups) / ctx.positions
        flat = _grouped(weight * totals, ctx.groups) / ctx.positions if ctx.centred else torch.zeros_like(along)
        by_slope, by_input = weight * inverse, -along * inverse.square()
        constant = -flat * inverse - mean * by_input
        gradients = [
            _affine(level, by_input, constant, slope, by_slope) for slope, level in zip(slopes, levels, strict=True)
        ]
        return None, None, None, products.sum(0), totals.sum(0), *gradients


def _moments(levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of each image of each level, [L, B, C] both, at least float32."""
    if levels[0].is_meta:  # where costs are counted; it has no such kernel
        means = torch.stack([level.mean((2, 3)) for level in levels])
        return means, means
    found = [
        torch.batch_norm_update_stats(image, None, None, 0.0) for level in levels for image in level.chunk(len(level))
    ]
    means, variances = (torch.stack(part).view(len(levels), len(levels[0]), -1) for part in zip(*found, strict=True))
    precise = torch.promote_types(levels[0].dtype, torch.float32)
    return means.to(precise), variances.to(precise)


def _sums(slopes: Sequence[Tensor], levels: Sequence[Tensor], mean: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Σ g x̂ and Σ g over all positions, [B, C] both: what batch normalisation's backward adds up for its own weight
    and bias, here with the group's statistics."""
    ones = torch.ones_like(mean[0])
    found = [
        torch.ops.aten.native_batch_norm_backward(g, x, ones, None, None, m, i, True, 0.0, [False, True, True])[1:]
        for slope, level in zip(slopes, levels, strict=True)
        for g, x, m, i in zip(slope.chunk(len(slope)), level.chunk(len(level)), mean, inverse, strict=True)
    ]
    products, totals = (torch.stack(part).view(len(levels), len(levels[0]), -1) for part in zip(*found, strict=True))
    return products.sum(0, dtype=mean.dtype), totals.sum(0, dtype=mean.dtype)


def _grouped(values: Tensor, groups: int) -> Tensor:
    """[B, C], each value replaced by its group's mean."""
    grouped = values.view(len(values), groups, -1)
    return grouped.mean(2, keepdim=True).expand_as(grouped).flatten(1)


def _affine(
    level: Tensor, scale: Tensor, shift: Tensor, other: Tensor | None = None, its_scale: Tensor | None = None
) -> Tensor:
    """level · scale + shift, and + other · its_scale, where level and other are [B, C, H, W] and the rest is [B, C];
    in the level's own precision and memory format."""
    last = level.is_contiguous(memory_format=torch.channels_last)

    def positions(map_: Tensor) -> Tensor:
        # three dimensions, for torch's loop over four is far slower
        return map_.permute(0, 2, 3, 1).flatten(1, 2) if last else map_.flatten(2)

    def factors(values: Tensor) -> Tensor:
        return values.to(level.dtype).unsqueeze(1 if last else 2)

    moved = torch.addcmul(factors(shift), positions(level), factors(scale))
    if other is not None and its_scale is not None:
        moved.addcmul_(positions(other), factors(its_scale))
    images, channels, height, width = level.shape
    return moved.view(images, height, width, channels).permute(0, 3, 1, 2) if last else moved.view_as(level)


class LevelGates(nn.Module):
    """w_l = σ(W₂ ReLU(W₁ pool(F_l))) with weights of each level's own; `pool` is "avg" or "max"."""

    def __init__(self, levels: int, channels: int, hidden: int, pool: str) -> None:
        super().__init__()
        self.pool = pool
        self.gates = nn.ModuleList(excitation(channels, hidden, channels) for _ in range(levels))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """w_l of each level, [B, C, 1, 1] in (0, 1)."""
        pairs = zip(self.gates, levels, strict=True)
        return [gate(squeeze(level, self.pool))[..., None, None] for gate, level in pairs]


class CrossLevelGates(nn.Module):
    """w = σ(W₂ ReLU(W₁ [pool(F_3); …; pool(F_7)])), one for all levels."""

    def __init__(self, levels: int, channels: int, hidden: int, pool: str) -> None:
        super().__init__()
        self.pool = pool
        self.gate = excitation(levels * channels, hidden, channels)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """w, [B, C, 1, 1] in (0, 1), once for each level."""
        squeezed = torch.cat([squeeze(level, self.pool) for level in levels], dim=1)
        return [self.gate(squeezed)[..., None, None]] * len(levels)


def squeeze(level: Tensor, pool: str) -> Tensor:
    """[B, C] of a level [B, C, H, W]."""
    return level.amax(dim=(2, 3)) if pool == "max" else level.mean(dim=(2, 3))


def excitation(in_channels: int, hidden: int, channels: int) -> nn.Sequential:
    """σ(W₂ ReLU(W₁ z)), both with biases, weights from N(0, 0.01²) as every new layer of a dense detector."""
    layers = nn.Linear(in_channels, hidden), nn.Linear(hidden, channels)
    for layer in layers:
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.ReLU(inplace=True), layers[1], nn.Sigmoid())
