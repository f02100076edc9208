"""Runs that are killed, interrupted, or not alone. Each run is a process of its own, as `bench run` is."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from engine_jobs import Children, Counter, Echo

from benchsuite.engine.job import Execution, Job
from benchsuite.engine.progress import Reporter
from benchsuite.engine.schedule import run_jobs
from benchsuite.engine.slots import Place, Slots
from benchsuite.engine.store import Store
from benchsuite.engine.worker import Task, serve

EVERY = 5
ITERATIONS = 60
# No main guard, on purpose: workers must not run the caller's script again.
SCRIPT = f"""
import sys
from pathlib import Path
import test_kill
from benchsuite.errors import Interrupted
from benchsuite.engine.progress import Lines
from benchsuite.engine.schedule import run_jobs
from benchsuite.engine.slots import Slots
from benchsuite.engine.store import Store

folder, plan, slots = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
jobs = getattr(test_kill, plan)(folder / "trace")
try:
    store = Store(folder / "store")
    outcome = run_jobs(jobs, store, slots=Slots.on("cpu", slots), progress=Lines(), checkpoint_every={EVERY})
except Interrupted as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
sys.exit(outcome.exit_code)
"""


def counters(trace: Path) -> list[Job]:
    first = [Counter(name=f"c{i}", trace=str(trace), iterations=ITERATIONS, seconds=0.01) for i in range(3)]
    return [*first, *(Echo(name=f"e{i}", after=job, trace=str(trace)) for i, job in enumerate(first))]


def children(trace: Path) -> list[Job]:
    return [Children(name="c0", trace=str(trace))]


class Runs:
    """Starts runs in `folder` and knows all their processes by a mark in the environment."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, uuid.uuid4().hex
        self.trace = folder / "trace"
        self.trace.mkdir(parents=True)
        self.store = Store(folder / "store")

    def start(self, plan: str = "counters", slots: int = 2) -> "subprocess.Popen[str]":
        here = Path(__file__).parent
        environ = os.environ | {"BENCH_TEST_MARK": self.mark, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
        command = [sys.executable, "-c", SCRIPT, str(self.folder), plan, str(slots)]
        return subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def finish(self) -> str:
        process = self.start()
        _, told = process.communicate(timeout=60)
        assert process.returncode == 0, told
        return told

    def lines(self, name: str) -> list[str]:
        file = self.trace / name
        return file.read_text().splitlines() if file.exists() else []

    def wait_for_work(self, before: int) -> None:
        deadline = time.monotonic() + 60
        while self.written() <= before:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def written(self) -> int:
        return sum(file.stat().st_size for file in self.trace.iterdir())

    def processes(self) -> list[str]:
        return list(marked(f"BENCH_TEST_MARK={self.mark}".encode()))

    def gone(self, seconds: float = 2.0) -> bool:
        deadline = time.monotonic() + seconds
        while self.processes():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def results(self) -> dict[str, bytes]:
        found = {}
        for job in counters(self.trace):
            artifact = self.store.verified(job.key)
            found[job.label] = artifact.path("out.txt").read_bytes()
        return found


def marked(mark: bytes) -> Iterator[str]:
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and mark in (folder / "environ").read_bytes():
                yield f"{folder.name} {(folder / 'cmdline').read_bytes()!r}"
        except OSError:
            continue


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    undisturbed = Runs(tmp_path_factory.mktemp("undisturbed"))
    run_jobs(counters(undisturbed.trace), undisturbed.store, slots=Slots.on("cpu"), progress=Reporter())
    return undisturbed.results()


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_the_result_is_the_same(runs: Runs, expected: dict[str, bytes], kills: int) -> None:
    draw = random.Random(kills)
    finished: dict[str, int] = {}
    for _ in range(kills):
        if len(finished) < len(counters(runs.trace)):
            before = runs.written()
            process = runs.start()
            try:
                runs.wait_for_work(before)
                time.sleep(draw.uniform(0.0, 1.2 / kills))
            finally:
                os.kill(process.pid, signal.SIGKILL)
                process.communicate()
            assert runs.gone(), runs.processes()
        done = {job.name: len(runs.lines(job.name)) for job in counters(runs.trace) if runs.store.artifact(job.key)}
        finished = done | finished
    runs.finish()
    assert runs.results() == expected
    for name, length in finished.items():
        assert len(runs.lines(name)) == length, f"{name} was finished and is done again"
    for name in ("c0", "c1", "c2"):
        trace = [int(line) for line in runs.lines(name) if line.isdecimal()]
        assert set(trace) == set(range(1, ITERATIONS + 1))
        redone = [earlier - later + 1 for earlier, later in pairwise(trace)]
        assert max(redone) <= EVERY
        assert len(trace) <= ITERATIONS + kills * EVERY


def test_a_killed_worker_is_replaced_and_redoes_at_most_one_interval(runs: Runs, expected: dict[str, bytes]) -> None:
    process = runs.start(slots=1)
    runs.wait_for_work(0)
    worker = next(_holders(runs.store.root / "locks"))
    os.kill(worker, signal.SIGKILL)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    assert "its worker died (SIGKILL)" in told
    assert runs.results() == expected
    assert sum(len(runs.lines(f"c{i}")) for i in range(3)) <= 3 * (ITERATIONS + 1) + EVERY


def _holders(locks: Path) -> Iterator[int]:
    """Processes that have a lock file open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink().parent == locks:
                yield int(link.parts[2])
        except OSError:
            continue


@pytest.mark.parametrize(("number", "group"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_an_interrupted_run_leaves_checkpoints_and_redoes_nothing(
    runs: Runs, expected: dict[str, bytes], number: int, group: bool
) -> None:
    process = runs.start()
    runs.wait_for_work(0)
    time.sleep(0.15)
    (os.killpg if group else os.kill)(process.pid, number)  # Ctrl-C in a terminal goes to the whole group
    _, told = process.communicate(timeout=10)
    assert process.returncode == 130, told
    assert "interrupted: 0 of 6 jobs are finished and kept" in told
    assert runs.gone(), runs.processes()
    runs.finish()
    assert runs.results() == expected
    for name in ("c0", "c1", "c2"):
        assert [line for line in runs.lines(name) if line.isdecimal()] == [str(i + 1) for i in range(ITERATIONS)]


def test_a_second_interrupt_kills_and_nothing_started_by_a_job_stays(runs: Runs) -> None:
    process = runs.start("children")
    runs.wait_for_work(0)
    assert len(runs.processes()) >= 4  # run, fork server, worker, its child
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=5)
    assert process.returncode == 130, told
    assert runs.gone(), runs.processes()


def test_killed_while_the_server_starts_and_with_children_of_jobs(runs: Runs) -> None:
    process = runs.start("children")
    time.sleep(0.8)
    process.kill()
    process.communicate()
    assert runs.gone(), runs.processes()
    process = runs.start("children")
    runs.wait_for_work(0)
    process.kill()
    process.communicate()
    assert runs.gone(), runs.processes()


def test_two_runs_at_once_share_one_store(runs: Runs, expected: dict[str, bytes]) -> None:
    processes = [runs.start(slots=2), runs.start(slots=1)]
    told = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert runs.results() == expected
    for name in ("c0", "c1", "c2"):
        assert len(runs.lines(name)) == ITERATIONS + 1
    for name in ("e0", "e1", "e2"):
        assert runs.lines(name) == ["done"]


def test_the_second_run_goes_on_where_the_first_was_killed(runs: Runs, expected: dict[str, bytes]) -> None:
    first, second = runs.start(slots=1), runs.start(slots=1)
    runs.wait_for_work(0)
    time.sleep(0.2)
    first.kill()
    first.communicate()
    _, told = second.communicate(timeout=60)
    assert second.returncode == 0, told
    assert runs.results() == expected
    for name in ("c0", "c1", "c2"):
        assert len(runs.lines(name)) <= ITERATIONS + 1 + EVERY


@pytest.mark.parametrize(
    ("sent", "told"), [("b''", ""), (r"b'\x80\x04\x95\x10'", ""), ("b'c__none\\nx\\n.'", "__none")]
)
def test_a_run_that_dies_before_it_says_what_to_do_leaves_no_traceback(sent: str, told: str) -> None:
    """What a worker is to do comes through a pipe; a kill may close it at any byte."""
    script = f"""
import os, sys
from multiprocessing import spawn
import benchsuite.engine.preload
read, write = os.pipe()
os.write(write, {sent})
os.close(write)
try:
    spawn._main(read, 0)
except Exception:
    sys.excepthook(*sys.exc_info())
sys.stderr.flush()
os._exit(1)  # as the fork server ends what it forked
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert told in ended.stderr and bool(ended.stderr) == bool(told)


def test_a_worker_that_nobody_hears_any_more_ends_without_a_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its scheduler may die while it works, or between two tasks."""
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    job = Echo(name="a", trace=str(tmp_path))
    ours.send(Task(job, 1, "a", EVERY, Execution()))
    ours.close()
    worker = multiprocessing.get_context("fork").Process(
        target=serve, args=(theirs, dict(os.environ), Place("cpu", 1), tmp_path / "store", {})
    )
    Store(tmp_path / "store").prepare()
    worker.start()
    worker.join(30)
    assert worker.exitcode == 0
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
