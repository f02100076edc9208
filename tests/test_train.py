"""Schedule, accumulation, health checks, log, and resuming bit for bit."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchsuite.data.batch import Batch, Detections
from benchsuite.engine.job import Context, Progress
from benchsuite.errors import BenchError, InputError, Interrupted
from benchsuite.loops.train import Solver, train
from benchsuite.models.detector import Detector


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

    def detect(self, batch: Batch, post: object) -> Detections:
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
        del line["images_per_second"]
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


def test_schedule_of_har_net() -> None:
    """har-net.spec 7.14."""
    paper = Solver(lr=0.0125, iterations=72_000, batch=20)
    rates = [paper.lr_at(i) for i in (47_999, 48_000, 63_999, 64_000, 71_999)]
    assert rates == pytest.approx([0.0125, 0.00125, 0.00125, 0.000125, 0.000125], rel=1e-12)
    assert paper.iterations * paper.batch / 118_287 == pytest.approx(12.17, abs=0.005)


def test_warm_up_rises_linearly() -> None:
    paper = Solver(lr=0.0125, iterations=72_000, batch=20)
    assert paper.lr_at(0) == pytest.approx(0.0125 / 3)
    assert paper.lr_at(250) == pytest.approx(0.0125 * 2 / 3)
    assert paper.lr_at(500) == 0.0125
    assert solver(warmup_iterations=0).lr_at(0) == 0.05


@pytest.mark.parametrize("wrong", [{"lr": 0}, {"batch": 0}, {"precision": "fp16"}, {"momentum": 1.0}, {"unknown": 1}])
def test_refuses_wrong_settings(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        solver(**wrong)


def test_leaves_an_artifact(tmp_path: Path) -> None:
    seen: list[Progress] = []
    where = context(tmp_path, report=seen.append)
    run(where, solver())
    weights, lines, metrics = outcome(where)
    assert set(weights) == set(Tiny().state_dict())
    assert [line["iteration"] for line in lines] == list(range(1, 13))
    assert {"loss", "classification", "box", "lr", "grad_norm", "head.bias"} <= lines[0].keys()
    assert lines[0]["loss"] == pytest.approx(lines[0]["classification"] + lines[0]["box"])
    assert metrics == {"iterations": 12, "loss": lines[-1]["loss"]}
    assert [p.done for p in seen] == list(range(1, 13)) and seen[0].loss == lines[0]["loss"]
    assert json.loads((where.folder / "timing.json").read_text())["seconds"] > 0
    assert weights["frozen"].equal(torch.ones(3)) and weights["unused"].equal(torch.ones(3))


def test_learns(tmp_path: Path) -> None:
    where = context(tmp_path)
    run(where, solver(iterations=30, drops=()))
    lines = outcome(where)[1]
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]


def test_step_is_torchs_sgd(tmp_path: Path) -> None:
    """Three iterations against a plain loop with torch's SGD, weight decay and clipping."""
    settings = solver(iterations=3, clip_norm=0.5, channels_last=False)
    where = context(tmp_path)
    torch.manual_seed(0)
    ours, plain = Tiny(norm=False), Tiny(norm=False)
    plain.load_state_dict(ours.state_dict())
    train(ours, Fakes(), settings, where, 1)
    sgd = torch.optim.SGD(plain.parameters(), 1.0, momentum=0.9, weight_decay=1e-4)
    for i in range(3):
        sgd.param_groups[0]["lr"] = settings.lr_at(i)
        sgd.zero_grad()
        torch.stack(list(plain.losses(Fakes()[i]).values())).sum().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        sgd.step()
    for (name, value), expected in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(value, expected, msg=name)


def test_a_module_may_go_without_weight_decay(tmp_path: Path) -> None:
    """With no gradient left, SGD only decays: the stem by lr · decay, the head, whose factor is 0, not at all."""
    torch.manual_seed(0)
    model = Tiny(norm=False)
    model.losses = lambda batch: {"nothing": 0 * (model.stem.weight.sum() + model.head.weight.sum())}  # type: ignore[method-assign]
    model.head.decay_factor = 0.0  # type: ignore[assignment]
    stem, head = model.stem.weight.detach().clone(), model.head.weight.detach().clone()
    settings = solver(iterations=1, warmup_iterations=0, weight_decay=0.1)
    train(model, Fakes(), settings, context(tmp_path), 1)
    torch.testing.assert_close(model.stem.weight.detach(), stem * (1 - 0.05 * 0.1))
    assert torch.equal(model.head.weight, head)


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_accumulation_keeps_the_step(tmp_path: Path, micro_batch: int) -> None:
    ends = []
    for size in (None, micro_batch):
        torch.manual_seed(0)
        detector = Tiny(norm=False)
        where = context(tmp_path / str(size))
        train(detector, Fakes(), solver(micro_batch=size), where, 1)
        ends.append((detector.state_dict(), outcome(where)[1]))
    (whole, log), (parts, parts_log) = ends
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-5, atol=1e-6)
    assert [line["loss"] for line in log] == pytest.approx([line["loss"] for line in parts_log], rel=1e-4)


MODES = [
    {},
    {"channels_last": False},
    {"precision": "bf16"},
    {"precision": "bf16", "channels_last": False, "micro_batch": 3, "clip_norm": 0.3},
    {"momentum": 0.0},
]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_resumes_bit_for_bit(tmp_path: Path, mode: dict[str, object]) -> None:
    straight = context(tmp_path / "straight")
    run(straight, solver(**mode))
    killed = context(tmp_path / "killed", report=die_at(7))
    with pytest.raises(Killed):
        run(killed, solver(**mode))
    assert not list(killed.folder.iterdir())
    seen: list[Progress] = []
    run(replace(killed, report=seen.append), solver(**mode))
    assert seen[0].done == 7  # from the checkpoint at 6
    assert same(straight, killed)


def test_stops_with_a_checkpoint(tmp_path: Path) -> None:
    straight = context(tmp_path / "straight")
    run(straight, solver())
    count: list[Progress] = []
    stopped = context(tmp_path / "stopped", report=count.append, stop=lambda: len(count) == 5)
    with pytest.raises(Interrupted, match="after iteration 5 of 12"):
        run(stopped, solver())
    rest: list[Progress] = []
    run(replace(stopped, report=rest.append, stop=lambda: False), solver())
    assert rest[0].done == 6
    assert same(straight, stopped)


def test_torn_log_is_mended(tmp_path: Path) -> None:
    straight = context(tmp_path / "straight")
    run(straight, solver())
    killed = context(tmp_path / "killed", report=die_at(8))
    with pytest.raises(Killed):
        run(killed, solver())
    with (killed.partial / "log.jsonl").open("a") as file:
        file.write('{"iteration": 9, "lo')
    run(again(killed), solver())
    assert same(straight, killed)


def test_seed_changes_the_draws(tmp_path: Path) -> None:
    one, two = context(tmp_path / "one"), context(tmp_path / "two")
    run(one, solver(), seed=1)
    run(two, solver(), seed=2)
    assert not same(one, two)


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_truncated_checkpoint_is_named(tmp_path: Path, kept: int) -> None:
    killed = context(tmp_path, report=die_at(4))
    with pytest.raises(Killed):
        run(killed, solver())
    file = killed.partial / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"checkpoint.safetensors: .*; delete .*partial to start") as error:
        run(again(killed), solver())
    assert "\n" not in str(error.value) and error.value.exit_code == 2
    assert file.exists()


def test_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    killed = context(tmp_path, report=die_at(4))
    with pytest.raises(Killed):
        run(killed, solver())
    with pytest.raises(InputError, match=r"unknown tensor 'norm\.bias'"):
        train(Tiny(norm=False), Fakes(), solver(), again(killed), 1)


def test_not_finite_names_iteration_losses_and_cure(tmp_path: Path) -> None:
    where = context(tmp_path)
    with pytest.raises(BenchError, match=r"iteration \d+: losses classification .*, box .*, lr 1e\+06; lower") as error:
        run(where, solver(lr=1e6, warmup_iterations=0))
    assert "\n" not in str(error.value) and error.value.exit_code == 1


class Hungry(Tiny):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
        MemoryError(),
    ],
)
def test_out_of_memory_says_what_to_lower(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(BenchError, match=r"training on cpu: out of memory; lower solver\.micro_batch"):
        train(Hungry(error), Fakes(), solver(), context(tmp_path), 1)


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        train(Hungry(RuntimeError("a bug")), Fakes(), solver(), context(tmp_path), 1)
