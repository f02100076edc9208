"""A network small enough to be trained in a test, batches for it, and what is compared of two trainings."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchsuite.data.batch import Batch
from benchsuite.engine.job import Context, Progress
from benchsuite.loops.log import MACHINE
from benchsuite.loops.solver import Solver
from benchsuite.loops.train import train
from benchsuite.models.detector import Detector
from benchsuite.models.postprocess import Candidates


class Tiny(Detector):
    """Convolutions, a norm with buffers, dropout, an unused and a frozen parameter, and something to observe."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.drop = nn.Dropout(0.2 if norm else 0.0)
        self.head = nn.Conv2d(8, 2, 3, stride=2, padding=1)
        self.unused = nn.Parameter(torch.ones(3))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.head.observe = lambda: {"bias": float(self.head.bias[0].detach())}  # type: ignore[assignment, index]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        x = self.drop(torch.relu(self.norm(self.stem(batch.images / 255))))
        logits = self.head(x).float().mean((2, 3))
        target = batch.labels[:, 0].float()
        return {"classification": (logits[:, 0] - target).square().mean(), "box": logits[:, 1].exp().mean()}

    def candidates(self, batch: Batch, post: object) -> Candidates:
        raise NotImplementedError  # it is only trained here


class Fakes(Dataset[Batch]):
    def __init__(self, images: int = 4) -> None:
        self.images = images

    def __getitem__(self, index: int) -> Batch:
        g = torch.Generator().manual_seed(index)
        n = self.images
        images = torch.randint(0, 256, (n, 3, 8, 12), generator=g, dtype=torch.uint8)
        sizes = torch.tensor([[8, 12]]).repeat(n, 1)
        labels = torch.randint(0, 2, (n, 3), generator=g)
        return Batch(images, sizes, sizes * 2, torch.arange(n), torch.rand(n, 3, 4, generator=g), labels)


def solver(**changes: Any) -> Solver:
    return Solver(**{"lr": 0.05, "iterations": 12, "batch": 4, "drops": (8,), "warmup_iterations": 3} | changes)


def context(folder: Path, **changes: Any) -> Context:
    (folder / "artifact").mkdir(parents=True)
    return Context(folder / "artifact", folder / "partial", folder / "cache", checkpoint_every=3, **changes)


def again(old: Context, **changes: Any) -> Context:
    return replace(old, report=lambda progress: None, stop=lambda: False, **changes)


def run(context: Context, settings: Solver, seed: int = 1) -> None:
    torch.manual_seed(0)
    train(Tiny(), Fakes(), settings, context, seed)


def outcome(context: Context) -> tuple[dict[str, Tensor], list[dict[str, float]], object]:
    lines = [json.loads(line) for line in (context.folder / "log.jsonl").read_text().splitlines()]
    for line in lines:
        assert all(line.pop(name) >= 0 for name in MACHINE)
    return (
        load_file(context.folder / "weights.safetensors"),
        lines,
        json.loads((context.folder / "metrics.json").read_text()),
    )


def same(first: Context, second: Context) -> bool:
    (a, log_a, metrics_a), (b, log_b, metrics_b) = outcome(first), outcome(second)
    return a.keys() == b.keys() and all(a[n].equal(b[n]) for n in a) and (log_a, metrics_a) == (log_b, metrics_b)


class Killed(BaseException):
    pass


def die_at(iteration: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.done == iteration:
            raise Killed

    return report
