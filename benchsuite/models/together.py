"""Numbers that are of the whole batch, where a pass sees a part of its images: the others are with other processes that
train the same network, or come in later passes of this one. Where a pass sees all, they are as they are anyway.

Every process calls these functions as often and in the same order as the others, or all would wait in vain; so does
every pass.

Shapes: B images of this process, C channels, W processes.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import batch_norm
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from benchsuite.errors import InputError


def several() -> bool:
    """Whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized()


def whole(number: Tensor) -> Tensor:
    """The sum of a number, or of tensors of one shape, over all processes; without gradient."""
    if several():
        number = number.detach().clone()
        dist.all_reduce(number)
    return number


def normaliser(count: Tensor | int) -> Tensor | int:
    """What a loss is divided by that is a mean over something: how many there are in the whole batch, at least 1."""
    if _pass is not None:
        count = _pass.normaliser(count)
    if not several():
        return count.clamp(min=1) if isinstance(count, Tensor) else max(1, count)
    if not isinstance(count, Tensor):
        gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        count = torch.full((), count, device="cuda" if gpu else "cpu")
    return whole(count).clamp(min=1)


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population deviation [D] of rows [n, D], n >= 1 in each process, over those of all."""
    if not several():
        return rows.mean(0), rows.std(0, correction=0)
    exact = rows.detach().double()
    count, total, squares = whole(torch.stack((torch.ones_like(exact), exact, exact.square())).sum(1))
    mean = total / count
    return mean, (squares / count - mean.square()).clamp(min=0).sqrt()


def of_all(thing: Any) -> list[Any]:
    """What each process has in the place of `thing`, in the order of their ranks."""
    if not several():
        return [thing]
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, thing)
    return found


class Sampler(BalancedPositiveNegativeSampler):  # type: ignore[misc]  # torchvision is untyped
    """Torchvision's draw of foreground and background: an image's is the same, whichever process has the image. Each
    process draws for all images in their order, and so goes on from the same state of its generator."""

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Of labels [N] of each image, 1 and more foreground, 0 background: masks [N] of what is drawn of both."""
        if _pass is not None:
            _pass.draw(labels)
        if not several():
            drawn: tuple[list[Tensor], list[Tensor]] = super().__call__(labels)
            return drawn
        foreground, background = list[Tensor](), list[Tensor]()
        for rank, sizes in enumerate(of_all(_drawn_from(labels))):
            if rank == dist.get_rank():
                foreground, background = super().__call__(labels)
            else:
                _skip(sizes, labels[0].device)
        return foreground, background


def _drawn_from(labels: Sequence[Tensor]) -> list[int]:
    """Of how many anchors or boxes is drawn, foreground and background of each image in turn."""
    return torch.stack([kind for each in labels for kind in ((each >= 1).sum(), (each == 0).sum())]).tolist()


def _skip(sizes: Sequence[int], device: torch.device) -> None:
    """Draw as another image's sampling does."""
    for size in sizes:
        torch.randperm(size, device=device)


@contextmanager
def counting() -> "Iterator[Counted]":
    """A pass over a part of a batch, to find out what the whole batch needs of it."""
    with _as_pass(Counted()) as found:
        yield found


def telling(parts: "Sequence[Counted]", device: torch.device) -> "Iterator[AbstractContextManager[Told]]":
    """For each part, counted before, a pass over it that knows the whole batch. Random draws, from the state that
    torch's generator is in now, are those of a pass over all."""
    totals = [sum(each[1:], each[0]) for each in zip(*(part.counts for part in parts), strict=True)]
    states = list[list[Tensor]]()
    for of_parts in zip(*(part.sizes for part in parts), strict=True):
        states.append([])
        for sizes in of_parts:
            states[-1].append(_generator(device).get_state())
            _skip(sizes, device)
    for number in range(len(parts)):
        yield _as_pass(Told(totals, [of_parts[number] for of_parts in states], device))


class Counted:
    """What a part has: what is counted in it, and of how many is drawn, call by call."""

    def __init__(self) -> None:
        self.counts: list[Tensor | int] = []
        self.sizes: list[list[int]] = []

    def normaliser(self, count: Tensor | int) -> Tensor | int:
        """Note it."""
        self.counts.append(count)
        return count

    def draw(self, labels: Sequence[Tensor]) -> None:
        """Note it; what is drawn does not count yet."""
        self.sizes.append(_drawn_from(labels))


class Told:
    """What the whole batch has, call by call."""

    def __init__(self, totals: Sequence[Tensor | int], states: Sequence[Tensor], device: torch.device) -> None:
        self.totals, self.states, self.device = iter(totals), iter(states), device

    def normaliser(self, count: Tensor | int) -> Tensor | int:
        """The whole batch's."""
        return next(self.totals)

    def draw(self, labels: Sequence[Tensor]) -> None:
        """Go on from the state in which a pass over all would be."""
        _generator(self.device).set_state(next(self.states))


_pass: Counted | Told | None = None
P = TypeVar("P", Counted, Told)


@contextmanager
def _as_pass(new: P) -> Iterator[P]:
    global _pass
    _pass = new
    try:
        yield new
    finally:
        _pass = None


def _generator(device: torch.device) -> torch.Generator:
    return torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator


def require_frozen(network: nn.Module) -> None:
    """InputError where a norm makes statistics of the batch: of its parts they would be others."""
    for path, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise InputError(
                f"--micro-batch: the BatchNorm '{path}' trains, and would see parts of the batch alone; "
                "use --recompute or --per-job, or set solver.micro_batch, which is another training"
            )


def synchronise(network: nn.Module) -> None:
    """Let every BatchNorm that trains make its statistics of the whole batch, in place. InputError for a kind of
    BatchNorm that is not known here."""
    from timm.layers.norm_act import BatchNormAct2d  # seconds to import, and loaded already where one is in use

    for path, module in network.named_modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm) or not module.training:
            continue
        if type(module) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d):
            raise InputError(
                f"--per-job: '{path}' is a {type(module).__name__}, whose statistics over several devices are not "
                "known; use one device, or torch's BatchNorm"
            )
        module.forward = _Synchronised(module)  # type: ignore[method-assign, assignment]


class _Synchronised:
    """Stands for the `forward` of a BatchNorm."""

    def __init__(self, norm: Any) -> None:
        self.norm = norm

    def __call__(self, x: Tensor) -> Tensor:
        norm = self.norm
        if not norm.training:
            usual: Tensor = type(norm).forward(norm, x)
            return usual
        y: Tensor
        y, mean, var, count = _OfAll.apply(x, norm.weight, norm.bias, norm.eps)
        if norm.track_running_stats:
            norm.num_batches_tracked.add_(1)
            step = 1 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean, step)
            norm.running_var.lerp_(var * count / (count - 1), step)  # torch keeps the unbiased one
        for name in ("drop", "act"):  # timm's does more than to normalise
            y = getattr(norm, name, nn.Identity())(y)
        return y


class _OfAll(torch.autograd.Function):
    """BatchNorm (Ioffe and Szegedy 2015) over the images of all processes. torch.nn.SyncBatchNorm is the same, and runs
    on GPUs alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """y like x, mean [C], biased variance [C], and over how many values they are."""
        dims = [0, *range(2, x.ndim)]
        var, mean = torch.var_mean(x.float(), dims, correction=0)
        here = torch.cat((mean.new_full((1,), x.numel() // x.shape[1]), mean, var))
        everywhere = here.new_empty(dist.get_world_size() * len(here))
        dist.all_gather_into_tensor(everywhere, here)
        of_each = everywhere.view(-1, len(here))
        counts, means, variances = torch.split(of_each, [1, len(mean), len(var)], dim=1)  # [W, 1], [W, C], [W, C]
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        var = (counts * (variances + (means - mean).square())).sum(0) / count
        y = batch_norm(x, mean, var, weight, bias, False, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt(), count)
        ctx.mark_non_differentiable(mean, var, count)
        return y, mean, var, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, *_: Any) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, invstd, count = ctx.saved_tensors
        scale = torch.ones_like(mean) if weight is None else weight
        slope, shift = torch.ops.aten.native_batch_norm_backward(
            g, x, scale, None, None, mean, invstd, True, 0.0, [False, True, True]
        )[1:]  # Σ g x̂ and Σ g, [C], of this process
        sums = whole(torch.stack((slope, shift)).float()) / count
        # g_x = scale · invstd · (g - mean of g - x̂ · mean of g x̂), x̂ = (x - mean) · invstd
        a = scale * invstd
        b = -a * invstd * sums[0]
        c = -a * sums[1] - b * mean
        a, b, c = (each.view(-1, *[1] * (x.ndim - 2)) for each in (a, b, c))
        g_x = torch.addcmul(torch.addcmul(c, x, b), g, a).to(x.dtype)
        return g_x, None if weight is None else slope, None if weight is None else shift, None
