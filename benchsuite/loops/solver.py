"""The solver's settings, and what they make of each parameter: its learning rate and its weight decay."""

from bisect import bisect_right
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from benchsuite.loops.device import Precision
from benchsuite.settings import Settings

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""A norm of another class says so by `is_norm = True`."""
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Solver(Settings):
    """SGD with momentum; the rate rises linearly over the warm-up and falls by `gamma` at each of `drops`.

    `batch` images make a step. With `micro_batch` they are passed in parts that fit the memory, and the gradients of
    the parts are averaged, each weighted by its images: the whole batch's gradient, except that a loss which divides
    by the batch's positives (and BatchNorm's statistics) then sees a part's positives. Weight decay is the same for
    all parameters unless `norm_decay` (scales and shifts of norms) or `bias_decay` (biases of what is no norm) differ;
    `bias_lr_factor` multiplies the rate of such biases. A module's own factors (`lr_factor`, `decay_factor`) come on
    top. `clip_norm` bounds the gradient's L2 norm. With `averaging` the training leaves the running mean of its
    weights and buffers, to which each step adds its own: mean ← averaging · mean + (1 − averaging) · weights.

    Defaults: warm-up of Detectron's RetinaNet; momentum, decay and drops of HAR-Net (arXiv 1904.11141, section V).
    """

    lr: Positive
    iterations: Count
    batch: Count
    drops: tuple[Count, ...] = (48_000, 64_000)
    gamma: Positive = 0.1
    warmup_iterations: Annotated[int, Field(ge=0)] = 500
    warmup_factor: Annotated[float, Field(gt=0, le=1)] = 1 / 3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    norm_decay: Annotated[float, Field(ge=0)] | None = None
    bias_decay: Annotated[float, Field(ge=0)] | None = None
    bias_lr_factor: Positive | None = None
    micro_batch: Count | None = None
    clip_norm: Positive | None = None
    averaging: Annotated[float, Field(gt=0, lt=1)] | None = None
    precision: Precision = "fp32"
    channels_last: bool = True

    def lr_at(self, iteration: int) -> float:
        """Learning rate of iteration 0, 1, …"""
        rate = self.lr * self.gamma ** bisect_right(sorted(self.drops), iteration)
        if iteration >= self.warmup_iterations:
            return rate
        return rate * (self.warmup_factor + (1 - self.warmup_factor) * iteration / self.warmup_iterations)


def factors(model: nn.Module, kind: Literal["lr_factor", "decay_factor"]) -> dict[str, float]:
    """What the learning rate or the weight decay of each parameter is multiplied by, by name: 1, or what its module
    says."""
    return {
        f"{path}.{name}" if path else name: getattr(module, kind, 1.0)
        for path, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
    }


def steps(model: nn.Module, solver: Solver) -> dict[str, tuple[float, float]]:
    """What multiplies the learning rate of each parameter, and its weight decay, by name."""
    rates, decays = factors(model, "lr_factor"), factors(model, "decay_factor")
    found = dict[str, tuple[float, float]]()
    for path, module in model.named_modules():
        norm = isinstance(module, NORMS) or getattr(module, "is_norm", False)
        for name, _ in module.named_parameters(path, recurse=False):
            bias = not norm and name.rpartition(".")[2] == "bias"
            own = solver.norm_decay if norm else solver.bias_decay if bias else None
            decay = solver.weight_decay if own is None else own
            found[name] = rates[name] * ((bias and solver.bias_lr_factor) or 1.0), decays[name] * decay
    return found
