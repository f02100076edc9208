"""CAT's pooling: global entropy pooling (GEP), and the maximum (GMP) of what a Gaussian has smoothed.

    sec. 3.2, eq. 3; sec. 3.3, eq. 6   entropy
    eq. 4                              min_max
    sec. 3.2, 3.3, "low-pass filter"   gaussian, blurred_maxima

Shapes: inputs x [B, C, H, W]; over "positions" they are pooled to [B, C, 1, 1], over "channels" to [B, 1, H, W]. For
the backward pass both poolings keep nothing of that size but the input itself, which the attention keeps anyway.
"""

import math
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv2d, pad

Over: TypeAlias = Literal["positions", "channels"]
DIMS = {"positions": (2, 3), "channels": (1,)}
LOG_2 = math.log(2)
BLOCKS = 32
PARTS = 3  # entropy takes an input in so many parts: what lies in between needs two thirds of its memory at once
SMALL = 2**18  # but not one of so few numbers, a megabyte: there starting an operation costs more than the operation


def entropy(x: Tensor, over: Over) -> Tensor:
    """Eqs. 3 and 6: H = −Σ p log p, p the softmax over the positions of a channel or over the channels of a position;
    from 0 to log N. In float32 at least: over the channels of a map H may differ by less than bfloat16 can tell."""
    pooled: Tensor = _Entropy.apply(x, over)
    return pooled


class _Entropy(torch.autograd.Function):
    """H = log Z − Σ e t / Z with t = x − max x, e = exp t, Z = Σ e: nothing overflows, p = 0 is no special case, and a
    map of one value gives log N to the last bit. The gradient −p (log p + H) makes e anew.

    Powers are of two, e = 2^s with s = t / log 2, for torch's `exp2` takes 0.4 times as long as its `exp` on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, over: Over) -> Tensor:
        peak = _precise(_peak(x, over))
        count = 1 if x.numel() <= SMALL else PARTS
        parts = zip(*(each.chunk(count, _free(over)) for each in (x, peak)), strict=True)
        found = [_sums(part, its_peak, DIMS[over]) for part, its_peak in parts]
        total, weighed = (torch.cat(values, _free(over)) for values in zip(*found, strict=True))
        log_total = total.log()
        pooled = torch.addcdiv(log_total, weighed, total, value=-LOG_2).clamp_(min=0)
        ctx.over = over
        ctx.save_for_backward(x, peak, total, pooled - log_total)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        x, peak, total, shift = ctx.saved_tensors
        scale = -slope / total
        shifted, powers = _powers(x, peak)  # e (t − log Z + H) · −slope / Z
        return shifted.mul_(scale * LOG_2).add_(scale * shift).mul_(powers).to(x.dtype), None


def _sums(x: Tensor, peak: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Z and Σ e s."""
    shifted, powers = _powers(x, peak)
    return powers.sum(dims, keepdim=True), shifted.mul_(powers).sum(dims, keepdim=True)


def _powers(x: Tensor, peak: Tensor) -> tuple[Tensor, Tensor]:
    """s and e. The difference comes first: it is exact where x is near its peak."""
    shifted = (_precise(x) - peak).mul_(1 / LOG_2)
    return shifted, shifted.exp2()


def _peak(x: Tensor, over: Over) -> Tensor:
    """max x. Over channels that do not lie side by side in two steps: torch's one is slow where positions are few."""
    if over == "channels" and x.stride(1) > 1:
        blocks = math.gcd(x.shape[1], BLOCKS)
        x = x.view(len(x), blocks, x.shape[1] // blocks, *x.shape[2:]).amax(1)
    return x.amax(DIMS[over], keepdim=True)


def _free(over: Over) -> int:
    """A dimension that is not pooled."""
    return 2 if over == "channels" else 1


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype is torch.double else x.float()


def min_max(pooled: Tensor) -> Tensor:
    """Eq. 4: the values of each image to 0..1; 0 where they are all one.

    choice: the range is each image's own, never the batch's, and taken as 1e-6 at least.
    """
    dims = (1, 2, 3)
    low = pooled.amin(dims, keepdim=True)
    return (pooled - low) / (pooled.amax(dims, keepdim=True) - low).clamp(min=1e-6)


def gaussian(taps: int, sigma: float) -> Tensor:
    """The taps of a Gaussian, with sum 1."""
    places = torch.arange(taps, dtype=torch.double) - (taps - 1) / 2
    weights = torch.exp(-places.square() / (2 * sigma**2))
    return (weights / weights.sum()).float()


def blurred_maxima(x: Tensor, taps: Tensor, overs: tuple[Over, ...]) -> tuple[Tensor, ...]:
    """The maximum over each of `overs` behind a low-pass filter of these taps: over positions one along the height,
    over channels one along the height and one along the width ("1-D", sec. 3.2, and "2-D", sec. 3.3).

    choice: the filter sees the outermost values go on beyond the edge, so that a map of one value stays as it is.
    """
    pooled: tuple[Tensor, ...] = _BlurredMaxima.apply(x, taps, overs)
    return pooled


class _BlurredMaxima(torch.autograd.Function):
    """A maximum has few inputs, so its gradient is a sum at few places: 5 for a channel, 5 × 5 for a position."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, overs: tuple[Over, ...]) -> tuple[Tensor, ...]:
        rows = _blur(x, taps, dim=2)
        blurred = [rows if over == "positions" else _blur(rows, taps, dim=3) for over in overs]
        if not ctx.needs_input_grad[0]:
            return tuple(each.amax(DIMS[over], keepdim=True) for each, over in zip(blurred, overs, strict=True))
        # [B, C, H · W]: the place of a maximum is a position or a channel
        found = [
            each.flatten(2).max(dim=2 if over == "positions" else 1) for each, over in zip(blurred, overs, strict=True)
        ]
        ctx.overs = overs
        ctx.save_for_backward(x, taps, *(places for _, places in found))
        shapes = {"positions": (*x.shape[:2], 1, 1), "channels": (len(x), 1, *x.shape[2:])}
        return tuple(pooled.view(shapes[over]) for (pooled, _), over in zip(found, overs, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        x, taps, *found = ctx.saved_tensors
        gradient = torch.zeros_like(x)  # dense, in the memory format of x
        storage = gradient.as_strided((x.numel(),), (1,))
        for over, places, slope in zip(ctx.overs, found, slopes, strict=True):
            inputs = (_column if over == "positions" else _square)(gradient, places, len(taps))
            weights = taps if over == "positions" else torch.outer(taps, taps).flatten()
            values = slope.flatten(1).unsqueeze(2) * weights.to(slope.dtype)
            storage.scatter_add_(0, inputs.flatten(), values.flatten())
        return gradient, None, None


def _column(x: Tensor, places: Tensor, taps: int) -> Tensor:
    """Where in the storage of x the inputs lie of which the filter made the values at positions [B, C] of H · W: above
    each other, [B, C, taps]."""
    images, channels, *_ = (torch.arange(size, device=x.device) for size in x.shape)
    by_image, by_channel, by_row, by_column = x.stride()
    height, width = x.shape[2:]
    rows = _reached(places // width, height, taps)
    starts = (images * by_image)[:, None] + channels * by_channel + places % width * by_column
    return starts.unsqueeze(2) + rows * by_row


def _square(x: Tensor, places: Tensor, taps: int) -> Tensor:
    """Likewise for the channels [B, H · W] of all positions: in a square, [B, H · W, taps · taps]."""
    images, _, heights, widths = (torch.arange(size, device=x.device) for size in x.shape)
    by_image, by_channel, by_row, by_column = x.stride()
    rows = _reached(heights, len(heights), taps) * by_row
    columns = _reached(widths, len(widths), taps) * by_column
    squares = (rows[:, None, :, None] + columns[None, :, None, :]).flatten(2).flatten(0, 1)
    return ((images * by_image)[:, None] + places * by_channel).unsqueeze(2) + squares


def _reached(places: Tensor, size: int, taps: int) -> Tensor:
    """The places 0 … size - 1 that the taps around each of `places` reach: [..., taps]."""
    reach = torch.arange(taps, device=places.device) - taps // 2
    return (places.unsqueeze(-1) + reach).clamp(0, size - 1)


def _blur(x: Tensor, taps: Tensor, dim: int) -> Tensor:
    """Each channel by itself, along `dim`."""
    edge = len(taps) // 2
    kernel = taps.to(x.dtype).view((1, 1, -1, 1) if dim == 2 else (1, 1, 1, -1)).expand(x.shape[1], -1, -1, -1)
    outside = (0, 0, edge, edge) if dim == 2 else (edge, edge, 0, 0)
    return conv2d(pad(x, outside, mode="replicate"), kernel, groups=x.shape[1])
