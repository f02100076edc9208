"""A training in several processes of which one is stopped, or whose checkpoint is damaged: the job says so, nothing
hangs, and what comes of it is what an undisturbed training leaves, bit for bit."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_ddp import Until, a_row, children, lines, place, training

from benchsuite.engine.job import Progress
from benchsuite.errors import Interrupted
from benchsuite.loops import ranks
from benchsuite.pipelines.steps import Training


@pytest.fixture(scope="module")
def job() -> Training:
    return training(a_row("ssd"))


@pytest.fixture(scope="module")
def straight(job: Training, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "2"
    job.do(place(folder, 2))
    return folder


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    assert children() == []


def same(one: Path, other: Path) -> bool:
    weights = [(each / "artifact" / "weights.safetensors").read_bytes() for each in (one, other)]
    return weights[0] == weights[1] and lines(one) == lines(other)


class Halting:
    """Stops the process of a rank (SIGSTOP) once so many iterations are reported."""

    def __init__(self, rank: int, wake_after: float | None = None) -> None:
        self.rank, self.wake_after = rank, wake_after
        self.since = 0.0

    def report(self, progress: Progress) -> None:
        if progress.done < 6 or self.since:
            return
        self.since = time.monotonic()
        (pid,) = (each.pid for each in multiprocessing.active_children() if each.name == f"bench-rank-{self.rank}")
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        if self.wake_after is not None:
            threading.Timer(self.wake_after, os.kill, (pid, signal.SIGCONT)).start()


def test_a_stopped_rank_is_waited_for_less_than_a_minute() -> None:
    assert ranks.HALTED_SECONDS + ranks.LAST_WORDS_SECONDS + ranks.TICK_SECONDS < 60


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_rank_that_stays_stopped_ends_the_job_and_it_goes_on(
    tmp_path: Path, job: Training, straight: Path, rank: int, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(ranks, "HALTED_SECONDS", 1.0)
    halting = Halting(rank)
    with pytest.raises(SystemExit):
        job.do(place(tmp_path / "2", 2, report=halting.report, checkpoint_every=4))
    assert 1 < time.monotonic() - halting.since < 30 and children() == []
    assert f"process {rank} of 2 of this training was lost (SIGSTOP)" in capfd.readouterr().out
    done = list[int]()
    job.do(place(tmp_path / "2", 2, report=lambda progress: done.append(progress.done)))
    assert done[0] > 4 and same(straight, tmp_path / "2")


def test_a_rank_that_is_woken_goes_on(tmp_path: Path, job: Training, straight: Path) -> None:
    halting = Halting(1, wake_after=0.7)
    job.do(place(tmp_path / "2", 2, report=halting.report))
    assert time.monotonic() - halting.since > 0.6 and same(straight, tmp_path / "2")


@pytest.mark.parametrize("damage", ["cut", "one bit", "not one"])
def test_a_damaged_checkpoint_of_two_processes(tmp_path: Path, job: Training, straight: Path, damage: str) -> None:
    stopping = Until(8)
    with pytest.raises(Interrupted):
        job.do(place(tmp_path / "2", 2, report=stopping.report, stop=stopping.stop))
    file = tmp_path / "2" / "partial" / "checkpoint.safetensors"
    held = file.read_bytes()
    middle = len(held) // 2
    damaged = {
        "cut": held[:-1],
        "one bit": held[:middle] + bytes([held[middle] ^ 1]) + held[middle + 1 :],
        "not one": b"",
    }
    file.write_bytes(damaged[damage])
    notes, done = list[str](), list[int]()
    job.do(place(tmp_path / "2", 2, note=notes.append, report=lambda progress: done.append(progress.done)))
    assert done[0] == 1 and same(straight, tmp_path / "2")
    (note,) = notes
    assert note.startswith(str(file)) and note.endswith("aside, the training starts again")
    assert file.with_name(f"{file.name}.aside").read_bytes() == damaged[damage]
