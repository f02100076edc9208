"""Trainings that diverge or run out of memory end in one line, and leave nothing wrong behind."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from train_cases import Fakes, Tiny, context, run, same, solver

from benchsuite.data.batch import Batch
from benchsuite.engine.job import Progress
from benchsuite.errors import BenchError
from benchsuite.loops import train as training
from benchsuite.loops.train import Run, train
from benchsuite.models import memory


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


def test_a_rehearsal_takes_as_much_memory_as_a_step_in_the_midst(tmp_path: Path) -> None:
    batch = Fakes(images=9)[0]
    here = Run(Tiny(), solver(), context(tmp_path))
    with memory.Alive(here.network.parameters()) as rehearsed:
        here.rehearse(batch)
    here.step(batch, 0)
    momentum = memory.size(each["momentum_buffer"] for each in here.optimizer.state.values())
    with memory.Alive(here.network.parameters()) as stepped:
        here.step(batch, 0)
    assert rehearsed.most >= stepped.most + momentum > stepped.most > 0


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
