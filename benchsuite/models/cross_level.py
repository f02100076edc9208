"""Layers that see all levels of a pyramid at once: group normalisation, and squeeze and excitation (SE: Hu et al.,
CVPR 2018) across them or, beside it, of each level alone. HAR-Net (arXiv 1904.11141), section III-B.

Shapes: B images, C channels, S positions of all levels together, levels [B, C, H_l, W_l].
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

PART = 2**18
"""Numbers of a map that are read together on a CPU: a megabyte of float32."""


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
    """Moments of each channel of each level first, then one multiplication and addition of each level where it is: to
    lay the levels side by side for one `group_norm` would copy them, which costs as much as half a normalisation."""

    @staticmethod
    def forward(
        ctx: Any, groups: int, eps: float, centred: bool, weight: Tensor, bias: Tensor, *levels: Tensor
    ) -> tuple[Tensor, ...]:
        precise = torch.promote_types(levels[0].dtype, torch.float32)
        weight, bias = weight.to(precise).view(groups, -1), bias.to(precise).view(groups, -1)
        mean, square = _pooled(levels, groups, centred)
        inverse = (square + eps).rsqrt_()
        scale = inverse * weight
        ctx.centred, ctx.positions = centred, sum(level.shape[-2:].numel() for level in levels)
        ctx.save_for_backward(weight, mean, inverse, *levels)
        return tuple(_affine(levels, scale, torch.addcmul(bias, mean, scale, value=-1)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        weight, mean, inverse, *levels = ctx.saved_tensors
        along, flat = (each.view(-1, *weight.shape) for each in _sums(slopes, levels, mean, inverse))
        # dx = (γ g − mean(γ g) − x̂ mean(γ g x̂)) / √(v + ε), the means over an image's group
        along_mean, flat_mean = ((weight * each).mean(2, keepdim=True) / ctx.positions for each in (along, flat))
        by_slope, by_input = weight * inverse, -along_mean * inverse.square()
        constant = -mean * by_input
        if ctx.centred:
            constant = torch.addcmul(constant, flat_mean, inverse, value=-1)
        gradients = _affine(levels, by_input, constant, slopes, by_slope)
        return None, None, None, *(each.sum(0).flatten() for each in (along, flat)), *gradients


def _pooled(levels: Sequence[Tensor], groups: int, centred: bool) -> tuple[Tensor, Tensor]:
    """μ and v of each image and group, [B, G, 1], put together of those of parts (Chan, Golub, LeVeque 1983): nothing
    is lost where means are large against the spread."""
    parts = [part for level in reversed(levels) for part in _moments(level)]  # the largest last: it is next
    counts, means, variances = zip(*parts, strict=True)
    shape = len(parts), len(levels[0]), groups, -1
    mean, variance = (
        torch.cat([value for each in values for value in each]).view(shape) for values in (means, variances)
    )
    share = torch.stack([mean.new_full((1, 1, 1), count) for count in counts])  # filled: no copy from the host
    share /= sum(counts) * mean.shape[3]
    pooled = (share * mean).sum((0, 3)) if centred else mean.new_zeros(mean.shape[1:3])
    spread = (mean - pooled.unsqueeze(2)).square_().add_(variance).mul_(share)
    return pooled.unsqueeze(2), spread.sum((0, 3)).unsqueeze(2)


def _moments(level: Tensor) -> Iterator[tuple[int, Sequence[Tensor], Sequence[Tensor]]]:
    """Of each part of a level's positions: how many they are, mean and variance of each channel there, [C], of each
    image.

    On a CPU by what normalises single maps, which is several times as fast as torch's reductions; in parts, for
    precision and because it reads them twice.
    """
    level = _precise(level)
    images, channels, height, width = level.shape
    if not _on_cpu(level):
        variances, means = torch.var_mean(level, (2, 3), correction=0)
        yield height * width, [means.flatten()], [variances.flatten()]
    elif _channels_last(level):
        for band in torch.split(level, max(1, PART // (width * channels)), 2):
            each = [torch.ops.aten.batch_norm_update_stats(image, None, None, 0.0) for image in torch.split(band, 1)]
            yield band.shape[2] * width, [mean for mean, _ in each], [variance for _, variance in each]
    else:
        rows = torch.split(level.view(1, images * channels, -1), max(1, PART // (height * width)), 1)
        each = [
            torch.ops.aten.native_group_norm(part, None, None, 1, *part.shape[1:], part.shape[1], 0.0)[1:]
            for part in rows
        ]
        means, inverses = (torch.cat(values, 1).flatten() for values in zip(*each, strict=True))
        yield height * width, [means], [inverses.pow(-2)]


def _sums(slopes: Sequence[Tensor], levels: Sequence[Tensor], mean: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Σ g x̂ and Σ g over the positions of each channel in all levels, [B, C]; x̂ = (x − mean) · inverse, [B, G, 1].

    On a CPU in one reading of both, by what adds them up for weight and bias of a batch norm.
    """
    images, channels = levels[0].shape[:2]
    mean, inverse = (each.expand(-1, -1, channels // each.shape[1]).flatten(1) for each in (mean, inverse))
    sums = []
    for slope, level in zip(reversed(slopes), reversed(levels), strict=True):  # likewise
        slope, level = _precise(slope), _precise(level)
        if not _on_cpu(level):
            along = (slope * (level - mean[..., None, None])).sum((2, 3)) * inverse
            sums.append((along, slope.sum((2, 3))))
            continue
        m, i = mean, inverse
        if not _channels_last(level):  # an image's channels are as good as more channels of one image
            slope, level, m, i = (each.reshape(1, -1, *each.shape[2:]) for each in (slope, level, m, i))
        maps = zip(torch.split(slope, 1), torch.split(level, 1), m, i, strict=True)
        sums += [
            torch.ops.aten.native_batch_norm_backward(g, x, i, None, None, m, i, True, 0.0, [False, True, True])[1:]
            for g, x, m, i in maps
        ]
    along, flat = (torch.cat([each.view(-1) for each in sides]) for sides in zip(*sums, strict=True))
    return along.view(-1, images, channels).sum(0), flat.view(-1, images, channels).sum(0)


def _affine(
    levels: Sequence[Tensor],
    scale: Tensor,
    shift: Tensor,
    others: Sequence[Tensor] = (),
    its_scale: Tensor | None = None,
) -> list[Tensor]:
    """level · scale + shift, and + other · its_scale, rounded to the level's own precision, in the first level's memory
    format.

    levels, others [B, C, H, W]; the rest [B, G, C/G], or [B, G, 1] where a group's channels have the same.
    """
    channels, last = levels[0].shape[1], _channels_last(levels[0])

    def factors(values: Tensor) -> Tensor:
        return values.expand(-1, -1, channels // values.shape[1]).flatten(1).unsqueeze(1 if last else 2)

    def positions(map_: Tensor) -> Tensor:
        # three dimensions, for torch's loop over four is far slower
        return map_.permute(0, 2, 3, 1).flatten(1, 2) if last else map_.flatten(2)

    scale, shift = factors(scale), factors(shift)
    results = []
    for number, level in enumerate(levels):
        flat = positions(level)
        result = torch.empty_like(flat)
        if its_scale is None:
            torch.addcmul(shift, flat, scale, out=result)
        else:
            parts = flat, scale, shift, positions(others[number]), factors(its_scale)
            for out, x, by, constant, other, its_by in _parts(result, *parts):
                torch.addcmul(constant, x, by, out=out).addcmul_(other, its_by)
        results.append(result.transpose(1, 2).view(level.shape) if last else result.view(level.shape))
    return results


def _parts(flat: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of [B, m, n] and of what is as large or is broadcast to it, on a CPU small enough to stay in its cache from
    one operation to the next; elsewhere the whole."""
    rows = max(1, 4 * PART // flat.shape[2])
    if not _on_cpu(flat) or flat.shape[1] <= rows:
        yield flat, *others
    else:
        every = flat, *(other.expand_as(flat) for other in others)
        for image in zip(*(torch.split(each, 1) for each in every), strict=True):
            yield from zip(*(torch.split(each, rows, 1) for each in image), strict=True)


def _on_cpu(level: Tensor) -> bool:
    """Where maps are worked on image by image and part by part; elsewhere every call costs more than what it saves."""
    return level.device.type == "cpu"


def _channels_last(level: Tensor) -> bool:
    return level.is_contiguous(memory_format=torch.channels_last)


def _precise(level: Tensor) -> Tensor:
    """In float32 at least."""
    return level.to(torch.promote_types(level.dtype, torch.float32))


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
