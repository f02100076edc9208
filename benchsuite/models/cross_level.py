"""Layers that see all levels of a pyramid at once: group normalisation, and squeeze and excitation (SE: Hu et al.,
CVPR 2018) across them or, beside it, of each level alone. HAR-Net (arXiv 1904.11141), section III-B.

Shapes: B images, C channels, S positions of all levels together, levels [B, C, H_l, W_l].
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import group_norm


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
    if centred:
        return _flat(levels, lambda x: group_norm(x, groups, weight, bias, eps))
    return _flat(levels, lambda x: _rms_norm(x, groups, weight, bias, eps))


def _flat(levels: Sequence[Tensor], norm: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Apply `norm` to the levels' positions laid side by side, [B, C, 1, S], and take them apart again.

    Both in the levels' own memory format: changing it costs several times the normalisation.
    """
    sizes = [level.shape[-2:].numel() for level in levels]
    if levels[0].is_contiguous(memory_format=torch.channels_last):
        rows = torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in levels], dim=1)
        normed = norm(rows.unsqueeze(1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).squeeze(1)
        parts = zip(normed.split_with_sizes(sizes, dim=1), levels, strict=True)
        return [part.view(level.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2) for part, level in parts]
    columns = torch.cat([level.flatten(2) for level in levels], dim=2)
    parts = zip(norm(columns.unsqueeze(2)).squeeze(2).split_with_sizes(sizes, dim=2), levels, strict=True)
    return [part.view_as(level) for part, level in parts]


def _rms_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    squares = x.float().reshape(len(x), groups, -1).square().mean(dim=2)
    scale = (squares + eps).rsqrt().repeat_interleave(x.shape[1] // groups, dim=1) * weight
    return x * scale[:, :, None, None] + bias[:, None, None]


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
