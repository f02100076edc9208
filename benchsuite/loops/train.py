"""Training: SGD with a step schedule counted in iterations, health checks, a log, and resuming bit for bit.

Batches, learning rate and random draws are pure functions of (seed, iteration); with parameters, buffers and momentum
restored, a killed training therefore goes on to the same bits (same machine, same thread count, CPU).
"""

import json
import math
import random
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import repeat
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import Dataset

from benchsuite.data.batch import ImageBatch
from benchsuite.data.batches import loader
from benchsuite.data.transforms import mixed
from benchsuite.engine.job import Context, Progress
from benchsuite.errors import BenchError, InputError, Interrupted
from benchsuite.loops import checkpoint
from benchsuite.loops.device import (
    arithmetic,
    autocast,
    compile_parts,
    fetch,
    lag,
    limited,
    memory,
    place,
    place_model,
    tuned,
)
from benchsuite.loops.log import Log, Means, Pace, Reading
from benchsuite.loops.looks import Looks
from benchsuite.loops.ranks import Alone, Values
from benchsuite.loops.solver import Solver, steps
from benchsuite.models.detector import Trainable
from benchsuite.models.recompute import spare
from benchsuite.models.together import Counted, counting, require_frozen, telling
from benchsuite.settings import Json

B = TypeVar("B", bound=ImageBatch)


def train(
    network: Trainable[B],
    batches: Dataset[B],
    solver: Solver,
    context: Context,
    seed: int,
    workers: int = 0,
    start: int = 0,
    largest: Callable[[], B] | None = None,
    team: Alone | None = None,
    looks: Looks | None = None,
) -> None:
    """Train `network` in place from iteration `start` on; `batches[i]` is the batch of iteration i. `largest` makes one
    as large as they get, to learn at once, not after hours, whether a GPU's memory suffices. Of a `team`, `batches` are
    this process' shares. `looks` are evaluations on the way.

    Leaves in `context.folder`: `weights.safetensors` (parameters and buffers), `log.jsonl`, `metrics.json` and, apart
    because it never repeats, `timing.json`. Checkpoints every `context.checkpoint_every` iterations into
    `context.partial` and goes on from there when called again.

    A line of the log has the means since the line before of what every step measured: losses, the gradient's norm and
    what modules observe; `lr` is the last step's. `log.MACHINE` says how fast it was: data and step time, images a
    second, peak memory.

    Raises BenchError when a loss or the gradient is not finite or memory runs out, Interrupted (after a checkpoint)
    when `context.stop()`.
    """
    team = team or Alone()
    run = Run(network, solver, context, start, team)
    if looks is not None:
        run.watch(looks)
    cure = "lower solver.micro_batch or the input size, or use --recompute or more devices (--per-job)"
    with memory(f"training on {context.device}", cure), arithmetic(context, solver.precision):
        if largest is not None and limited(context.device):
            run.rehearse(largest())
        made = loader(batches, run.done, solver.iterations, workers, context.device)
        for batch in tuned(team.in_step(run.pace.waiting(made)), context):
            if context.stop():
                run.save()
                raise Interrupted(f"training stopped after iteration {run.done} of {solver.iterations}; it is kept")
            run.step(batch, seed)
            run.look()
            if run.done % context.checkpoint_every == 0 and run.done < solver.iterations:
                run.save()
        run.finish()


class Run(Generic[B]):
    """A training under way: `done` iterations, `seconds` spent, restored from a checkpoint where there is one.

    What a step measured is read at once on a CPU and one step later on a GPU, which so never waits for the host: there
    what is not finite stops the training one step late, and still comes into no checkpoint.
    """

    def __init__(
        self, network: Trainable[B], solver: Solver, context: Context, start: int = 0, team: Alone | None = None
    ) -> None:
        place_model(network, context.device, solver.channels_last)
        self.network, self.solver, self.context, self.start = network.train(), solver, context, start
        if context.execution.micro_batch:
            require_frozen(network)
        if context.execution.recompute:
            spare(network)
        if context.execution.compiled:
            compile_parts(network.static_parts(), context.device)
        self.team = team or Alone()
        self.looks: Looks | None = None
        self.named = {name: value for name, value in network.named_parameters() if value.requires_grad}
        rules, groups = steps(network, solver), dict[tuple[float, float], list[Tensor]]()
        for name, value in self.named.items():
            groups.setdefault(rules[name], []).append(value)
        of_each = [
            {"params": values, "factor": factor, "weight_decay": decay} for (factor, decay), values in groups.items()
        ]
        self.optimizer = torch.optim.SGD(of_each, solver.lr, solver.momentum, fused=True)
        self.average = averaged(network, solver.averaging)
        self.done, self.seconds = start, 0.0
        self.drawn_from = 0, start
        self.watched, self.means = watched(network), Means()
        self.lag, self.unread = lag(context.device), deque[Reading]()
        self.checkpoint = context.partial / "checkpoint.safetensors"
        context.partial.mkdir(parents=True, exist_ok=True)
        folder = context.partial if self.team.first else context.folder
        self.log = Log(folder / "log.jsonl", solver.iterations)
        goes_on = self.team.first_says(self.team.first and self.restored())
        if not (goes_on and self.team.first):
            self.log.begin()
        if goes_on and not self.team.first:
            self.restore(*checkpoint.load(self.checkpoint, ""), "")
        self.losses = self.team.losses(network)
        self.pace, self.started = Pace(context.device), time.perf_counter()

    def watch(self, looks: Looks) -> None:
        """Have evaluations on the way."""
        looks.begin(self.done)
        self.looks = looks

    def look(self) -> None:
        """Evaluate, if it is time to: what is finite, in evaluation mode, and nothing else changes."""
        if self.looks is not None and self.done % self.looks.every == 0:
            self.read()
            self.looks.after(self.done, self.left)
            self.pace.aside += self.looks.seconds

    @property
    def left(self) -> nn.Module:
        """What the training would leave if it ended now."""
        return self.average.module if self.average else self.network

    def rehearse(self, batch: B) -> None:
        """The gradients of a batch, which are then forgotten: for what memory it takes, beside momentum."""
        kept = {name: value.clone() for name, value in self.network.named_buffers()}
        momentum = [torch.empty_like(value) for value in self.named.values() if not self.optimizer.state.get(value)]
        self.backward(place(batch, self.context.device, self.solver.channels_last))
        self.optimizer.zero_grad()
        del momentum  # the first step makes it
        with torch.no_grad():
            for name, value in self.network.named_buffers():
                value.copy_(kept[name])

    def step(self, batch: B, seed: int) -> None:
        """One iteration: gradients of the whole batch, clipped and applied; then what an earlier step measured."""
        self.drawn_from = seed, self.done
        reseed(*self.drawn_from)
        lr = self.solver.lr_at(self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        try:
            losses, observed = self.backward(place(batch, self.context.device, self.solver.channels_last))
        except Exception:
            self.read()  # what is not finite, and not yet read, may be why
            raise
        gradients = [value.grad for value in self.named.values() if value.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        measured = {**losses, "grad_norm": norm, **observed}
        values = fetch([*measured.values()])  # before the parameters move: modules may show their own
        if self.solver.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.named.values(), self.solver.clip_norm, norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.update_parameters(self.network)
        self.done += 1
        self.unread.append(Reading(self.done, lr, len(losses), tuple(measured), values))
        self.pace.steps, self.pace.images = self.pace.steps + 1, self.pace.images + self.team.images(batch)
        self.read(self.lag)

    def read(self, leave: int = 0) -> None:
        """Check, log and report what steps measured, all but the last `leave`. BenchError where it is not finite."""
        while len(self.unread) > leave:
            reading = self.unread.popleft()
            values = dict(zip(reading.names, reading.values(), strict=True))
            losses = dict(list(values.items())[: reading.losses])
            check(reading.iteration - 1, losses, values["grad_norm"], reading.lr)
            loss = sum(losses.values())
            self.means.add({"loss": loss, **values})
            if self.log.due(reading.iteration):
                line = {"iteration": reading.iteration, **self.means.take(), "lr": reading.lr}
                self.log.write(line | self.pace.line())
            note = self.looks.note if self.looks else ""
            self.context.report(Progress(reading.iteration, self.solver.iterations, loss=loss, note=note))

    def backward(self, batch: B) -> tuple[Values, Values]:
        """Accumulate the gradients of the batch's parts; the losses by name and what modules observed, averaged over
        images, detached."""
        losses, observed = list[tuple[float, Values]](), list[tuple[float, Values]]()
        for micro, weight, known in self.parts(batch):
            with known, autocast(self.context.device, self.solver.precision):
                found = self.losses(micro)
            total = torch.stack([value.float() for value in found.values()]).sum()
            (total * weight * self.team.ranks).backward()  # type: ignore[no-untyped-call]  # their gradients are averaged
            losses.append((weight, {name: value.detach().float() for name, value in found.items()}))
            observed.append((len(micro.images) / len(batch.images), observe(self.watched)))
        gathered = added(losses) if self.context.execution.micro_batch else blended(losses)
        return self.team.sum(gathered), self.team.mean(blended(observed), batch)

    def parts(self, batch: B) -> Iterator[tuple[B, float, AbstractContextManager[object]]]:
        """What goes through the network at once, how much its losses weigh, and what it is to know meanwhile.

        The parts of `solver.micro_batch` know of nothing but themselves; those of the run's own `micro_batch` are seen
        twice, first to count what the losses of the whole batch are divided by.
        """
        if size := self.context.execution.micro_batch:
            micros, counted = batch.split(size), list[Counted]()
            for micro in micros:
                with torch.no_grad(), counting() as found, autocast(self.context.device, self.solver.precision):
                    self.losses(micro)
                counted.append(found)
            reseed(*self.drawn_from)
            yield from zip(micros, repeat(1.0), telling(counted, batch.images.device), strict=False)
            return
        images, share = self.team.images(batch), self.team.share(self.solver.micro_batch)
        micros = batch.split([len(part) for part in share.parts(images)])
        weights = [block / images for block in share.blocks(images)]
        yield from zip(micros, weights, repeat(nullcontext()), strict=False)

    def save(self) -> None:
        """Checkpoint: model, momentum, iteration, time spent and the sums of the log's next line, in one file."""
        self.read()
        if not self.team.first:
            return
        began = time.perf_counter()
        written = self.log.sync()
        tensors = {f"model.{name}": value for name, value in self.network.state_dict().items()}
        if self.average:
            tensors |= {f"average.{name}": value for name, value in self.average.module.state_dict().items()}
        for name, value in self.named.items():
            buffer = self.optimizer.state[value].get("momentum_buffer")
            if buffer is not None:
                tensors[f"momentum.{name}"] = buffer
        seconds = self.seconds + began - self.started
        key, sums = self.context.partial.name, self.means.sums
        state: dict[str, Json] = {
            "key": key, "iteration": self.done, "seconds": seconds, "sums": sums, "log": written
        }  # fmt: skip
        checkpoint.save(self.checkpoint, tensors, state)
        self.pace.aside += time.perf_counter() - began

    def restored(self) -> bool:
        """Go on from the checkpoint, if there is one. One that is damaged, or does not fit this training or its log, is
        set aside with a note, and the training starts again."""
        if not (self.checkpoint.exists() or self.checkpoint.is_symlink()):
            return False
        cure = f"set aside as {self.checkpoint.name}.aside, the training starts again"
        try:
            self.restore(*checkpoint.load(self.checkpoint, cure), cure)
        except InputError as error:
            self.context.note(str(error))
            checkpoint.set_aside(self.checkpoint)
            checkpoint.set_aside(self.log.path)
            return False
        return True

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Json], cure: str) -> None:
        """Take up what a checkpoint holds. InputError, before anything is changed, where it does not fit."""
        where, iterations = self.checkpoint, range(self.start, self.solver.iterations)
        kept = checkpoint.Kept.read(state, iterations, self.context.partial.name, where, cure)
        if self.team.first:
            self.log.resume(self.start, kept.iteration, kept.log, cure)
        momentum = {name: tensors[held] for name in self.named if (held := f"momentum.{name}") in tensors}
        for name, value in momentum.items():
            if value.shape != self.named[name].shape:
                raise InputError(f"{where}: the momentum of '{name}' has shape {list(value.shape)}; {cure}")
        if self.average:
            checkpoint.fill(self.average.module, below("average.", tensors), where, cure)
            self.average.n_averaged.fill_(kept.iteration - self.start)
        checkpoint.fill(self.network, below("model.", tensors), where, cure)
        for name, value in momentum.items():
            # In the parameter's memory format: fused SGD takes another one's momentum without a word, wrongly.
            parameter = self.named[name]
            self.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(value).detach()
        self.done, self.seconds, self.means = kept.iteration, kept.seconds, Means(kept.sums)

    def finish(self) -> None:
        """Leave the artifact."""
        self.read()
        if not self.team.first:
            return
        self.log.sync()
        folder = self.context.folder
        if self.average:
            self.network.load_state_dict(self.average.module.state_dict())
        seconds = self.seconds + time.perf_counter() - self.started
        checkpoint.save(folder / "weights.safetensors", self.network.state_dict())
        shutil.copyfile(self.log.path, folder / "log.jsonl")
        if self.looks is not None:
            self.looks.leave()
        self.context.write_metrics({"iterations": self.done, "loss": self.log.tail_loss()})
        images = (self.done - self.start) * self.solver.batch
        timing = {"seconds": seconds, "images_per_second": images / seconds if seconds else None}
        (folder / "timing.json").write_text(json.dumps(timing) + "\n")


def averaged(network: nn.Module, decay: float | None) -> AveragedModel | None:
    """What keeps the running mean of the parameters and buffers of `network`; it begins with those of the first
    step."""
    if decay is None:
        return None
    mean = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(network, multi_avg_fn=mean, use_buffers=True)


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}


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


@runtime_checkable
class Watched(Protocol):
    """A module with something to watch while it trains."""

    def observe(self) -> Mapping[str, Tensor | float]:
        """Numbers by name, as the last batch left them; a number on the device is a scalar tensor, which nobody waits
        for."""


def watched(model: nn.Module) -> list[tuple[str, Watched]]:
    """The modules of `model` that have an `observe()`, by their paths."""
    return [(path, module) for path, module in model.named_modules() if isinstance(module, Watched)]


def observe(modules: Sequence[tuple[str, Watched]]) -> dict[str, Tensor | float]:
    """What the modules want in the log, by path and name."""
    return {f"{path}.{name}": value for path, module in modules for name, value in module.observe().items()}


def added(parts: Sequence[tuple[float, Values]]) -> Values:
    """Sums by name, each part with its weight."""
    return {name: sum(weight * values[name] for weight, values in parts) for name in parts[0][1]}


def blended(parts: Sequence[tuple[float, Values]]) -> Values:
    """Means by name over the parts that have it, each with its weight."""
    if len(parts) == 1:
        return parts[0][1]
    found = dict[str, Tensor | float]()
    for name in dict.fromkeys(name for _, values in parts for name in values):
        having = [(weight, values[name]) for weight, values in parts if name in values]
        found[name] = sum(weight * value for weight, value in having) / sum(weight for weight, _ in having)
    return found
