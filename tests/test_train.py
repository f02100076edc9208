"""Schedule, accumulation, health checks, log, and resuming bit for bit."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchsuite.data.batch import Batch
from benchsuite.engine.job import Context, Progress
from benchsuite.errors import BenchError, Interrupted
from benchsuite.loops import checkpoint, log
from benchsuite.loops import train as training
from benchsuite.loops.log import MACHINE, Means, Pace
from benchsuite.loops.solver import Solver, steps
from benchsuite.loops.train import train
from benchsuite.models.cross_level import CrossLevelGroupNorm
from benchsuite.models.detector import Detector
from benchsuite.models.postprocess import Candidates
from benchsuite.settings import canonical


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


FEW_LINES = (1, 4, 8, 12)


@pytest.fixture
def few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of three lines beside the first: after iterations 1, 4, 8 and 12 of 12."""
    monkeypatch.setattr(log, "LOG_LINES", 3)


class Counting(Tiny):
    """What it observes is how often it was asked, on the device and off it, and one number in odd steps alone."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def observe(self) -> dict[str, Tensor | float]:
        self.asked += 1
        odd = {"odd": float(self.asked)} if self.asked % 2 else {}
        return {"asked": torch.tensor(float(self.asked)), "host": float(self.asked), **odd}


def test_a_line_has_the_means_since_the_line_before(tmp_path: Path, few_lines: None) -> None:
    where = context(tmp_path / "few")
    torch.manual_seed(0)
    train(Counting(), Fakes(), solver(), where, 1)
    lines = outcome(where)[1]
    assert [line["iteration"] for line in lines] == list(FEW_LINES)
    assert [line[".asked"] for line in lines] == [line[".host"] for line in lines] == [1, 3, 6.5, 10.5]
    assert [line[".odd"] for line in lines] == [1, 3, 6, 10]  # of 3; of 5, 7; of 9, 11


def test_losses_are_means_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every, few = context(tmp_path / "every"), context(tmp_path / "few")
    run(every, solver())
    monkeypatch.setattr(log, "LOG_LINES", 3)
    run(few, solver())
    single, lines = outcome(every)[1], outcome(few)[1]
    for before, line in zip((0, *FEW_LINES), lines, strict=False):
        among = single[before : int(line["iteration"])]
        for name in ("loss", "classification", "box", "grad_norm", "head.bias"):
            assert line[name] == pytest.approx(sum(one[name] for one in among) / len(among), rel=1e-12), name
        assert line["lr"] == among[-1]["lr"]


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_what_parts_of_a_batch_observe_is_weighted_by_their_images(tmp_path: Path, micro_batch: int) -> None:
    torch.manual_seed(0)
    where = context(tmp_path)
    train(Counting(), Fakes(), solver(micro_batch=micro_batch, iterations=1, drops=()), where, 1)
    # four parts observe 1, 2, 3, 4; or two, of 3 images and of 1, observe 1 and 2
    assert outcome(where)[1][0][".asked"] == {1: 2.5, 3: 1.25}[micro_batch]


def test_what_is_observed_is_what_the_batch_saw(tmp_path: Path) -> None:
    """A module may show its own parameter, which the step then moves."""
    torch.manual_seed(0)
    model = Tiny()
    model.head.observe = lambda: {"bias": model.head.bias[0]}  # type: ignore[assignment, index]
    start = model.head.bias[0].item()  # type: ignore[index]
    where = context(tmp_path)
    train(model, Fakes(), solver(iterations=2, drops=()), where, 1)
    first, second = (line["head.bias"] for line in outcome(where)[1])
    assert first == start != second


def test_time_of_a_step_is_told_from_time_of_data(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    pace = Pace("cpu")

    def batches() -> Iterator[int]:
        nonlocal now
        for batch in range(4):
            now += 0.5
            yield batch

    for _ in pace.waiting(batches()):
        now += 2.0
        pace.steps, pace.images = pace.steps + 1, pace.images + 5
    now, pace.aside = now + 7.0, pace.aside + 7.0  # a checkpoint
    line = pace.line()
    assert tuple(line) == MACHINE
    assert (line["data_seconds"], line["step_seconds"], line["images_per_second"]) == (0.5, 2.0, 2.0)
    assert 0.01 < line["peak_gib"] < 1000
    now += 1
    assert pace.line()["step_seconds"] == 1.0


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


class Normed(Tiny):
    """Norms of every class, beside convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.many = nn.ModuleList(
            (nn.GroupNorm(2, 8), nn.LayerNorm(8), nn.InstanceNorm2d(8, affine=True), CrossLevelGroupNorm(8, 2))
        )
        self.plain = nn.Linear(8, 8)


NORM_WEIGHTS = {"norm.weight", "norm.bias", *(f"many.{n}.{kind}" for n in range(4) for kind in ("weight", "bias"))}
BIASES = {"stem.bias", "head.bias", "plain.bias"}
WEIGHTS = {"stem.weight", "head.weight", "plain.weight", "unused", "frozen"}


def test_norms_and_biases_have_a_decay_of_their_own() -> None:
    found = steps(Normed(), solver(weight_decay=0.1, norm_decay=0.0, bias_decay=0.02, bias_lr_factor=2))
    assert found.keys() == NORM_WEIGHTS | BIASES | WEIGHTS
    assert {name for name, step in found.items() if step == (1, 0.0)} == NORM_WEIGHTS
    assert {name for name, step in found.items() if step == (2, 0.02)} == BIASES
    assert {name for name, step in found.items() if step == (1, 0.1)} == WEIGHTS


def test_unless_they_are_set_all_parameters_decay_alike() -> None:
    assert set(steps(Normed(), solver(weight_decay=0.1)).values()) == {(1.0, 0.1)}
    assert "decay" not in " ".join(set(canonical(solver())) - {"weight_decay"})  # type: ignore[arg-type]


def test_a_modules_own_factors_come_on_top() -> None:
    model = Normed()
    model.stem.lr_factor, model.stem.decay_factor = 0.1, 0.5  # type: ignore[assignment]
    found = steps(model, solver(weight_decay=0.2, bias_decay=0.02, bias_lr_factor=2))
    assert found["stem.weight"] == (0.1, 0.1) and found["stem.bias"] == (0.2, 0.01)


def test_decay_and_rate_of_biases_reach_the_step(tmp_path: Path) -> None:
    """With a gradient of 1 everywhere: weights move by lr · (1 + decay · w), biases by 2 lr, the norm's by lr."""
    torch.manual_seed(0)
    model = Tiny()
    model.losses = lambda batch: {"sum": sum(p.sum() for p in model.parameters() if p.requires_grad)}  # type: ignore[method-assign]
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    settings = solver(
        iterations=1, drops=(), warmup_iterations=0, weight_decay=0.1, norm_decay=0, bias_decay=0, bias_lr_factor=2
    )
    train(model, Fakes(), settings, context(tmp_path), 1)
    moved = {name: before[name] - value.detach() for name, value in model.named_parameters()}
    torch.testing.assert_close(moved["stem.weight"], 0.05 * (1 + 0.1 * before["stem.weight"]))
    torch.testing.assert_close(moved["stem.bias"], torch.full((8,), 0.1))
    for name in ("norm.weight", "norm.bias"):
        torch.testing.assert_close(moved[name], torch.full((8,), 0.05))


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
    {"precision": "tf32"},
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


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("killed_at", [2, 5, 7, 11])
def test_a_resumed_line_has_the_steps_before_the_kill(
    tmp_path: Path, few_lines: None, monkeypatch: pytest.MonkeyPatch, killed_at: int, late: int
) -> None:
    """Checkpoints after 3, 6, 9 fall between lines after 1, 4, 8, 12."""
    straight = context(tmp_path / "straight")
    run(straight, solver())
    monkeypatch.setattr(training, "lag", lambda device: late)
    killed = context(tmp_path / "killed", report=die_at(killed_at))
    with pytest.raises(Killed):
        run(killed, solver())
    run(again(killed), solver())
    assert same(straight, killed)


def test_sums_survive_the_checkpoint_to_the_last_bit() -> None:
    means = Means()
    for value in (0.1, 0.2, 1e-17):
        means.add({"loss": value})
    kept = checkpoint.Kept.model_validate(json.loads(json.dumps({"iteration": 3, "seconds": 1.0, "sums": means.sums})))
    assert Means(kept.sums).take() == means.take() == {"loss": (0.1 + 0.2 + 1e-17) / 3}


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


def test_not_finite_names_iteration_losses_and_cure(tmp_path: Path) -> None:
    where = context(tmp_path)
    with pytest.raises(BenchError, match=r"iteration \d+: losses classification .*, box .*, lr 1e\+06; lower") as error:
        run(where, solver(lr=1e6, warmup_iterations=0))
    assert "\n" not in str(error.value) and error.value.exit_code == 1


class Breaking(Tiny):
    """Its losses are not a number from step `at` (0, 1, …) on; `loud`: it cannot even compute after that."""

    def __init__(self, at: int, loud: bool) -> None:
        super().__init__()
        self.at, self.loud, self.steps = at, loud, 0

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        found = super().losses(batch)
        self.steps += 1
        if self.steps - 1 > self.at and self.loud:
            raise ValueError("boxes are not finite")
        return {name: value * float("nan") for name, value in found.items()} if self.steps > self.at else found


@pytest.mark.parametrize("loud", [False, True])
@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("at", [4, 5, 8, 11])  # 5, 8: a checkpoint would follow
def test_not_finite_stops_within_two_steps_and_comes_into_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, late: int, loud: bool
) -> None:
    monkeypatch.setattr(training, "lag", lambda device: late)
    where, model = context(tmp_path), Breaking(at, loud)
    with pytest.raises(BenchError, match=rf"not finite at iteration {at}: losses classification nan"):
        train(model, Fakes(), solver(), where, 1)
    assert at + 1 <= model.steps <= at + 1 + late
    kept = load_file(where.partial / "checkpoint.safetensors")
    assert all(value.isfinite().all() for value in kept.values())
    lines = [json.loads(line)["iteration"] for line in (where.partial / "log.jsonl").read_text().splitlines()]
    assert lines == list(range(1, at + 1))


def test_a_rehearsal_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, rehearsed = context(tmp_path / "straight"), context(tmp_path / "rehearsed")
    run(straight, solver())
    monkeypatch.setattr(training, "limited", lambda device: True)
    torch.manual_seed(0)
    asked: list[int] = []

    def largest() -> Batch:
        asked.append(1)
        return Fakes(images=9)[0]

    train(Tiny(), Fakes(), solver(), rehearsed, 1, largest=largest)
    assert asked == [1] and same(straight, rehearsed)


def test_too_little_memory_is_found_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Large(Tiny):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            if len(batch.images) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().losses(batch)

    monkeypatch.setattr(training, "limited", lambda device: True)
    seen: list[Progress] = []
    with pytest.raises(BenchError, match=r"training on cpu: out of memory; lower solver\.micro_batch"):
        train(Large(), Fakes(), solver(), context(tmp_path, report=seen.append), 1, largest=lambda: Fakes(images=5)[0])
    assert not seen


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


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_switches_hold_for_the_forward_and_the_backward_pass(tmp_path: Path, precision: str) -> None:
    seen: list[bool] = []

    class Looking(Tiny):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            found = super().losses(batch)
            seen.append(torch.backends.cudnn.allow_tf32)
            for value in found.values():
                value.register_hook(lambda slope: seen.append(torch.backends.cuda.matmul.allow_tf32))  # type: ignore[no-untyped-call]
            return found

    where = context(tmp_path)
    train(Looking(), Fakes(), solver(precision=precision, iterations=2, drops=()), where, 1)
    assert seen == [precision == "tf32"] * 6
    assert where.ran_under["precision"] == precision
