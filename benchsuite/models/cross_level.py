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

    is_norm = True

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
    """Sums of each channel of each level first, then one multiplication and addition of each level where it is: to lay
    the levels side by side for one `group_norm` would copy them, which costs as much as half a normalisation."""

    @staticmethod
    def forward(
        ctx: Any, groups: int, eps: float, centred: bool, weight: Tensor, bias: Tensor, *levels: Tensor
    ) -> tuple[Tensor, ...]:
        positions = sum(level.shape[-2:].numel() for level in levels)
        precise = torch.promote_types(levels[0].dtype, torch.float32)
        weight, bias = weight.to(precise), bias.to(precise)
        none = weight.new_zeros(len(levels[0]), groups)
        sums = _sums(levels, levels, none, none + 1, weight)
        square, mean = sums.mean(3, keepdim=True) / positions  # [B, G, 1]
        if not centred:
            mean = torch.zeros_like(mean)
        inverse = torch.addcmul(square, mean, mean, value=-1).clamp_(min=0).add_(eps).rsqrt_()
        scale = inverse * weight.view(groups, -1)
        shift = torch.addcmul(bias.view(groups, -1), mean, scale, value=-1)
        ctx.groups, ctx.centred, ctx.positions = groups, centred, positions
        ctx.save_for_backward(weight, mean, inverse, *levels)
        return tuple(_affine(levels, scale, shift))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        weight, mean, inverse, *levels = ctx.saved_tensors
        factors = weight.view(ctx.groups, -1)
        sums = _sums(slopes, levels, mean.flatten(1), inverse.flatten(1), weight)
        # dx = (γ g − mean(γ g) − x̂ mean(γ g x̂)) / √(v + ε), the means over an image's group
        along, flat = (factors * sums).mean(3, keepdim=True) / ctx.positions
        by_slope, by_input = factors * inverse, -along * inverse.square()
        constant = -mean * by_input
        if ctx.centred:
            constant = torch.addcmul(constant, flat, inverse, value=-1)
        gradients = _affine(levels, by_input, constant, slopes, by_slope)
        return None, None, None, *sums.sum(1).flatten(1), *gradients


def _sums(slopes: Sequence[Tensor], levels: Sequence[Tensor], mean: Tensor, inverse: Tensor, weight: Tensor) -> Tensor:
    """Σ g x̂ and Σ g over all levels' positions, [2, B, G, C/G], x̂ = (x − mean) · inverse, which are [B, G].

    They are what group normalisation's backward pass adds up for its own weight and bias, in one reading of g and x.
    With g = x they are moments, of a kernel that reads once what those for moments read twice; the variance is then
    Σ x² / n − μ², as `group_norm` itself has it of channels_last maps.
    """
    shape = len(levels), len(levels[0]), 2, mean.shape[1], -1
    if levels[0].is_meta:  # where costs are counted; it has no such kernel
        return torch.stack([level.sum((2, 3)) for level in levels for _ in range(2)]).view(shape).sum(0).transpose(0, 1)
    found = [
        torch.ops.aten.native_group_norm_backward(
            g, x, m, i, weight, 1, x.shape[1], x.shape[2:].numel(), mean.shape[1], [False, True, True]
        )[1:]
        for slope, level in zip(slopes, levels, strict=True)
        for g, x, m, i in zip(*(part.chunk(len(level)) for part in (slope, level, mean, inverse)), strict=True)
    ]
    return torch.stack([part for pair in found for part in pair]).view(shape).sum(0).transpose(0, 1)


def _affine(
    levels: Sequence[Tensor],
    scale: Tensor,
    shift: Tensor,
    others: Sequence[Tensor] = (),
    its_scale: Tensor | None = None,
) -> list[Tensor]:
    """level · scale + shift, and + other · its_scale, in the level's own precision and the first level's memory format.

    levels, others [B, C, H, W]; the rest [B, G, C/G], or [B, G, 1] where a group's channels have the same.
    """
    channels = levels[0].shape[1]
    last = levels[0].is_contiguous(memory_format=torch.channels_last)

    def factors(values: Tensor) -> Tensor:
        each = values.expand(-1, -1, channels // values.shape[1]).flatten(1).to(levels[0].dtype)
        return each.unsqueeze(1 if last else 2)

    def positions(map_: Tensor) -> Tensor:
        # three dimensions, for torch's loop over four is far slower
        return map_.permute(0, 2, 3, 1).flatten(1, 2) if last else map_.flatten(2)

    scale, shift = factors(scale), factors(shift)
    moved = [torch.addcmul(shift, positions(level), scale) for level in levels]
    if its_scale is not None:
        its_scale = factors(its_scale)
        for level, other in zip(moved, others, strict=True):
            level.addcmul_(positions(other), its_scale)
    if last:
        shapes = [(len(level), *level.shape[2:], level.shape[1]) for level in levels]
        return [level.view(shape).permute(0, 3, 1, 2) for level, shape in zip(moved, shapes, strict=True)]
    return [level.view(before.shape) for level, before in zip(moved, levels, strict=True)]


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
