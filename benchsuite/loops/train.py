"""Training: SGD with a step schedule counted in iterations, health checks, a log, and resuming bit for bit.

Batches, learning rate and random draws are pure functions of (seed, iteration); with parameters, buffers and momentum
restored, a killed training therefore goes on to the same bits (same machine, same thread count, CPU).
"""

import json
import math
import os
import random
import shutil
import time
from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchsuite.data.batch import ImageBatch
from benchsuite.data.batches import loader
from benchsuite.data.transforms import mixed
from benchsuite.engine.job import Context, Progress
from benchsuite.errors import BenchError, Interrupted
from benchsuite.loops import checkpoint
from benchsuite.loops.device import Precision, autocast, memory, place, place_model
from benchsuite.models.detector import Trainable
from benchsuite.settings import Settings

LOG_LINES = 1000  # a log of about this length draws a smooth curve and stays small

B = TypeVar("B", bound=ImageBatch)
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Solver(Settings):
    """SGD with momentum; the rate rises linearly over the warm-up and falls by `gamma` at each of `drops`.

    `batch` images make a step. With `micro_batch` they are passed in parts that fit the memory, and the gradients of
    the parts are averaged, each weighted by its images: the whole batch's gradient, except that a loss which divides
    by the batch's positives (and BatchNorm's statistics) then sees a part's positives. Weight decay is the same for
    all parameters, norms and biases included, unless their module says otherwise (`decay_factor`). `clip_norm` bounds
    the gradient's L2 norm.

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
    micro_batch: Count | None = None
    clip_norm: Positive | None = None
    precision: Precision = "fp32"
    channels_last: bool = True

    def lr_at(self, iteration: int) -> float:
        """Learning rate of iteration 0, 1, …"""
        rate = self.lr * self.gamma ** bisect_right(sorted(self.drops), iteration)
        if iteration >= self.warmup_iterations:
            return rate
        return rate * (self.warmup_factor + (1 - self.warmup_factor) * iteration / self.warmup_iterations)


def train(
    network: Trainable[B],
    batches: Dataset[B],
    solver: Solver,
    context: Context,
    seed: int,
    workers: int = 0,
    start: int = 0,
) -> None:
    """Train `network` in place from iteration `start` on; `batches[i]` is the batch of iteration i.

    Leaves in `context.folder`: `weights.safetensors` (parameters and buffers), `log.jsonl`, `metrics.json` and, apart
    because it never repeats, `timing.json`. Checkpoints every `context.checkpoint_every` iterations into
    `context.partial` and goes on from there when called again.

    Raises BenchError when a loss or the gradient is not finite or memory runs out, InputError for a checkpoint that
    cannot be read, Interrupted (after a checkpoint) when `context.stop()`.
    """
    run = Run(network, solver, context, start)
    cure = "lower solver.micro_batch (the step keeps its images) or the input size, or set solver.precision to bf16"
    with memory(f"training on {context.device}", cure):
        for batch in loader(batches, run.done, solver.iterations, workers):
            if context.stop():
                run.save()
                raise Interrupted(f"training stopped after iteration {run.done} of {solver.iterations}; it is kept")
            run.step(batch, seed)
            if run.done % context.checkpoint_every == 0 and run.done < solver.iterations:
                run.save()
    run.finish()


class Run(Generic[B]):
    """A training under way: `done` iterations, `seconds` spent, restored from a checkpoint where there is one."""

    def __init__(self, network: Trainable[B], solver: Solver, context: Context, start: int = 0) -> None:
        place_model(network, context.device, solver.channels_last)
        self.network, self.solver, self.context, self.start = network.train(), solver, context, start
        self.named = {name: value for name, value in network.named_parameters() if value.requires_grad}
        rates, decays = factors(network, "lr_factor"), factors(network, "decay_factor")
        groups = dict[tuple[float, float], list[Tensor]]()
        for name, value in self.named.items():
            groups.setdefault((rates[name], decays[name]), []).append(value)
        self.optimizer = torch.optim.SGD(
            [
                {"params": values, "factor": rate, "weight_decay": decay * solver.weight_decay}
                for (rate, decay), values in groups.items()
            ],
            solver.lr, solver.momentum, fused=True,
        )  # fmt: skip
        self.done, self.seconds = start, 0.0
        self.checkpoint = context.partial / "checkpoint.safetensors"
        context.partial.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self.restore()
        self.log = Log(context.partial / "log.jsonl", self.done)
        self.every = max(1, solver.iterations // LOG_LINES)
        self.started = time.perf_counter()
        self.marked = self.done, self.started  # where the last line of the log was written

    def step(self, batch: B, seed: int) -> None:
        """One iteration: gradients of the whole batch, checked, clipped, applied, reported."""
        reseed(seed, self.done)
        lr = self.solver.lr_at(self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        losses = self.backward(place(batch, self.context.device, self.solver.channels_last))
        gradients = [value.grad for value in self.named.values() if value.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.solver.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.named.values(), self.solver.clip_norm, norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        # One transfer for all of them: each waits for the device.
        *values, gradient = torch.stack([*losses.values(), norm]).tolist()
        named = dict(zip(losses, values, strict=True))
        check(self.done, named, gradient, lr)
        self.done += 1
        if self.done % self.every == 0 or self.done in (1, self.solver.iterations):
            images = (self.done - self.marked[0]) * len(batch.images)
            rate = images / (time.perf_counter() - self.marked[1])
            self.marked = self.done, time.perf_counter()
            line = {"iteration": self.done, "loss": sum(values), **named, "lr": lr, "grad_norm": gradient}
            self.log.write(line | observe(self.network) | {"images_per_second": round(rate, 3)})
        self.context.report(Progress(self.done, self.solver.iterations, loss=sum(values)))

    def backward(self, batch: B) -> dict[str, Tensor]:
        """Accumulate the gradients of the batch's parts; the losses by name, averaged over images, detached."""
        images = len(batch.images)
        size = self.solver.micro_batch or images
        sums: dict[str, Tensor] = {}
        for micro in batch.split(size):
            share = len(micro.images) / images
            with autocast(self.context.device, self.solver.precision):
                losses = self.network.losses(micro)
            (torch.stack([value.float() for value in losses.values()]).sum() * share).backward()  # type: ignore[no-untyped-call]
            for name, value in losses.items():
                sums[name] = sums.get(name, torch.zeros_like(value, dtype=torch.float)) + value.detach().float() * share
        return sums

    def save(self) -> None:
        """Checkpoint: model, momentum, iteration and time spent, in one file."""
        self.log.sync()
        tensors = {f"model.{name}": value for name, value in self.network.state_dict().items()}
        for name, value in self.named.items():
            buffer = self.optimizer.state[value].get("momentum_buffer")
            if buffer is not None:
                tensors[f"momentum.{name}"] = buffer
        seconds = self.seconds + time.perf_counter() - self.started
        checkpoint.save(self.checkpoint, tensors, {"iteration": self.done, "seconds": seconds})

    def restore(self) -> None:
        """Go on from the checkpoint."""
        cure = f"delete {self.context.partial} to start this training again"
        tensors, state = checkpoint.load(self.checkpoint, cure)
        model = {name.removeprefix("model."): tensors[name] for name in tensors if name.startswith("model.")}
        checkpoint.fill(self.network, model, self.checkpoint, cure)
        for name, value in self.named.items():
            if (buffer := tensors.get(f"momentum.{name}")) is not None:
                # In the parameter's memory format: fused SGD takes another one's momentum without a word, wrongly.
                self.optimizer.state[value]["momentum_buffer"] = torch.empty_like(value).copy_(buffer).detach()
        self.done, self.seconds = int(str(state["iteration"])), float(str(state["seconds"]))

    def finish(self) -> None:
        """Leave the artifact."""
        self.log.sync()
        folder = self.context.folder
        seconds = self.seconds + time.perf_counter() - self.started
        checkpoint.save(folder / "weights.safetensors", self.network.state_dict())
        shutil.copyfile(self.log.path, folder / "log.jsonl")
        self.context.write_metrics({"iterations": self.done, "loss": self.log.tail_loss()})
        images = (self.done - self.start) * self.solver.batch
        timing = {"seconds": seconds, "images_per_second": images / seconds if seconds else None}
        (folder / "timing.json").write_text(json.dumps(timing) + "\n")


class Log:
    """`log.jsonl`: about a thousand lines, one an iteration; on resuming, what follows the checkpoint is cut off."""

    def __init__(self, path: Path, done: int) -> None:
        self.path = path
        path.touch()
        kept = 0
        for text in path.read_bytes().splitlines(keepends=True):
            # What follows the checkpoint may have been torn by a kill, so look no further.
            if not text.endswith(b"\n") or json.loads(text)["iteration"] > done:
                break
            kept += len(text)
        os.truncate(path, kept)

    def write(self, line: Mapping[str, object]) -> None:
        """Append one line, at once visible to whoever follows the file."""
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def sync(self) -> None:
        """Bring the lines to disk before a checkpoint counts on them."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())

    def tail_loss(self) -> float:
        """Mean loss over the last tenth of the lines."""
        losses = [json.loads(line)["loss"] for line in self.path.read_text().splitlines()]
        last = losses[-max(1, len(losses) // 10) :]
        return float(sum(last) / len(last))


def factors(model: nn.Module, kind: Literal["lr_factor", "decay_factor"]) -> dict[str, float]:
    """What the learning rate or the weight decay of each parameter is multiplied by, by name: 1, or what its module
    says."""
    return {
        f"{path}.{name}" if path else name: getattr(module, kind, 1.0)
        for path, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
    }


def reseed(seed: int, iteration: int) -> None:
    """Make all random draws of an iteration (dropout, a paper's sampling) a function of (seed, iteration)."""
    drawn = mixed(seed, iteration)
    torch.manual_seed(drawn)
    random.seed(drawn)
    np.random.seed(drawn % 2**32)


def check(iteration: int, losses: Mapping[str, float], gradient: float, lr: float) -> None:
    """Raise BenchError, with what to try, unless every loss and the gradient's norm are finite."""
    if all(map(math.isfinite, (*losses.values(), gradient))):
        return
    listed = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
    raise BenchError(
        f"training: not finite at iteration {iteration}: losses {listed}, gradient norm {gradient:.4g}, lr {lr:.4g}; "
        "lower solver.lr, raise solver.warmup_iterations or set solver.clip_norm"
    )


def observe(model: nn.Module) -> dict[str, float]:
    """What the modules of `model` that have an `observe()` want in the log, by module and name."""
    watched = [(path, module) for path, module in model.named_modules() if hasattr(module, "observe")]
    return {f"{path}.{name}": float(value) for path, module in watched for name, value in module.observe().items()}
