"""Lines of the log: means over the steps since the line before, whatever was killed in between."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from train_cases import Fakes, Killed, Tiny, again, context, die_at, outcome, run, same, solver

from benchsuite.loops import checkpoint, log
from benchsuite.loops import train as training
from benchsuite.loops.log import MACHINE, Means, Pace
from benchsuite.loops.train import train

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
