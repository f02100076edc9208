"""A real Slurm of two nodes on this host does what one machine does, whatever happens to it. Run by `make test-slurm`.

Needs Debian's slurmctld, slurmd, slurm-client and munge, and root; skipped where they are not.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from benchsuite.verbs.slurm import left

HERE = Path(__file__).parent
TOOLS = ("slurmctld", "slurmd", "sbatch", "munged")
TABLES = ("har-table1", "padet-table2")
CHANGES = (
    "model.backbone.depth=18", "model.neck.channels=16", "model.head.channels=16", "input.short=64", "input.long=128"
)  # fmt: skip
SMALL = ("--checkpoint-every", "5", *(word for change in CHANGES for word in ("--set", change)))
QUICK = ("har-table1", "--rows", "baseline,sa-1-1-1", *SMALL, "--set", "solver.iterations=60")
LONGER = ("har-table1", "--rows", "baseline", *SMALL, "--set", "solver.iterations=100")
TIME_TO_STOP = 18  # seconds of each minute of its limit, before whose end a worker leaves checkpoints: 15, and some
SECONDS = 600

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or not all(map(shutil.which, TOOLS)), reason="no Slurm here, or not root"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands reach a cluster of this test's own."""
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([HERE / "cluster.sh", "start", folder], check=True, capture_output=True, text=True)
    environment = {**os.environ, "SLURM_CONF": started.stdout.split()[-1], "OMP_NUM_THREADS": "1"}
    yield environment
    subprocess.run(["scancel", "--state=RUNNING", "--state=PENDING", "-u", "root"], env=environment, check=False)
    subprocess.run([HERE / "cluster.sh", "stop", folder], check=True)


class Bench:
    """`bench` in a folder with a store of its own."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        folder.mkdir()
        self.folder, self.environment = folder, environment

    def __call__(self, *words: str) -> str:
        command = [sys.executable, "-c", "from benchsuite.cli.entry import main; main()", *words]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout + done.stderr

    def submit(self, *words: str) -> str:
        """The number of the array."""
        told = self(*words, "--executor", "slurm", "--partition", "main", "--cpus", "1", "--workers", "2")
        return told.partition(" as ")[2].partition(":")[0]

    def queued(self, array: str) -> list[str]:
        """State of each of its workers."""
        asked = ["squeue", "-h", "-r", "-j", array, "-o", "%T"]
        return subprocess.run(asked, env=self.environment, capture_output=True, text=True).stdout.split()

    def wait(self, array: str, until: Callable[[list[str]], bool] = lambda states: not states) -> None:
        for _ in range(SECONDS * 2):
            if until(self.queued(array)):
                return
            time.sleep(0.5)
        logs = [file.read_text()[-1500:] for file in sorted((self.folder / "runs" / "slurm").glob("*_log.*"))]
        pytest.fail(f"{self.queued(array)} after {SECONDS} s\n" + "\n".join(logs))

    def training(self) -> None:
        """Wait until a training has begun and left a checkpoint."""
        for _ in range(SECONDS * 2):
            if any((self.folder / "runs" / "partial").glob("*/checkpoint.safetensors")):
                return
            time.sleep(0.5)
        pytest.fail("no training began")

    def rows(self, name: str) -> Any:
        """Numbers of a results file, by row, and the keys they hang on."""
        content = json.loads((self.folder / "results" / f"{name}.smoke.json").read_text())
        return {row["id"]: (row.get("measured"), row.get("keys")) for row in content["rows"]}

    def limits(self) -> int:
        """How often a worker was told of its limit."""
        return sum(file.read_text().count("timed-out") for file in self.folder.glob("runs/slurm/*_log.*"))

    def slow_down(self, array: str, minutes: int) -> None:
        """Stop the process that trains but for a moment now and then, until its worker was told of its limit."""
        until, before, told = time.monotonic() + SECONDS + 120 * minutes, 0, False
        while not told:
            assert time.monotonic() < until and self.queued(array), "no training reached its limit"
            limits, training = self.limits(), self.trains()
            before, told = (before, limits > before) if training else (limits, False)
            if training and self.left(array) > minutes * TIME_TO_STOP:
                send(training, signal.SIGSTOP)
                for _ in range(0 if told else 50):  # nobody takes it for lost so soon
                    if self.limits() > before:
                        return
                    time.sleep(0.2)
                if not told:
                    send(training, signal.SIGCONT)
            time.sleep(0.1 * minutes)

    def trains(self) -> list[int]:
        """Processes that work on a training that left a checkpoint."""
        kept = (self.folder / "runs" / "partial").glob("*/checkpoint.safetensors")
        return [pid for file in kept for pid in holders(self.folder / "runs" / "locks" / file.parent.name)]

    def left(self, array: str) -> float:
        """Seconds until Slurm ends the first of the workers that run."""
        asked = ["squeue", "-h", "-r", "-j", array, "-t", "RUNNING", "-o", "%A"]
        workers = subprocess.run(asked, env=self.environment, capture_output=True, text=True).stdout.split()
        return min((left(worker) for worker in workers), default=0.0)

    def weights(self) -> dict[str, bytes]:
        """Of every training, by key."""
        return {
            file.parent.name: file.read_bytes() for file in self.folder.glob("runs/artifacts/*/weights.safetensors")
        }


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """What one machine makes of the quick rows, two jobs at once of one thread each."""
    bench = Bench(tmp_path_factory.mktemp("local") / "here", {**os.environ, "OMP_NUM_THREADS": "1"})
    bench("run", *QUICK, "--slots", "2")
    return bench


def test_tables_on_two_nodes_have_the_numbers_of_one_machine(cluster: dict[str, str], tmp_path: Path) -> None:
    here, there = Bench(tmp_path / "here", cluster), Bench(tmp_path / "there", cluster)
    there.wait(there.submit("run", *TABLES, "--tier", "smoke"))
    here("run", *TABLES, "--tier", "smoke", "--slots", "2")
    there("run", *TABLES, "--tier", "smoke")
    for table in TABLES:
        assert there.rows(table) == here.rows(table)
    assert there.weights() == here.weights()


def cancelled(bench: Bench, array: str) -> None:
    subprocess.run(["scancel", array], env=bench.environment, check=True)


def steps_killed(bench: Bench, array: str) -> None:
    subprocess.run(["scancel", "--signal=KILL", "--full", array], env=bench.environment, check=True)


def preempted(bench: Bench, array: str) -> None:
    """Ended for somebody else's job, where the cluster queues such jobs again."""
    subprocess.run(["scontrol", "requeue", array], env=bench.environment, check=True)


def daemon_killed(bench: Bench, array: str) -> None:
    """Slurm takes the node for lost and queues its worker again, while that goes on beside it, unknown to Slurm."""
    pid = Path(bench.environment["SLURM_CONF"]).with_name("slurmd-bench2.pid")
    os.kill(int(pid.read_text()), signal.SIGKILL)
    asked = ["sinfo", "-h", "-n", "bench2", "-o", "%t"]
    for _ in range(SECONDS):
        state = subprocess.run(asked, env=bench.environment, capture_output=True, text=True, check=True).stdout
        if state.startswith("down"):
            break
        time.sleep(1)
    else:
        pytest.fail(f"a killed slurmd leaves its node {state}")
    subprocess.run(["slurmd", "-N", "bench2", "-c"], env=bench.environment, check=True)


@pytest.mark.parametrize("fault", [cancelled, steps_killed, preempted, daemon_killed])
def test_after_a_fault_one_more_run_ends_in_the_same_results(
    fault: Callable[[Bench, str], None], cluster: dict[str, str], local: Bench, tmp_path: Path
) -> None:
    bench = Bench(tmp_path / "there", cluster)
    array = bench.submit("run", *QUICK)
    bench.training()
    states = json.loads(bench("status", "--json"))
    assert any(state["working"] and "train" in state["name"] for state in states), "as seen from elsewhere"
    fault(bench, array)
    bench.wait(array)
    bench("run", *QUICK)
    assert bench.rows("har-table1") == local.rows("har-table1")
    assert bench.weights() == local.weights()


def holders(lock: Path) -> list[int]:
    """Processes that have a lock's file open."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if link.readlink() == lock:
                found.append(int(link.parts[2]))
    return found


def send(pids: list[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def test_a_limit_of_one_minute_is_survived(
    cluster: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker leaves a checkpoint before its limit, is queued again, and goes on.

    However fast the machine, the limit comes first: the training is stopped most of the time until then. And however
    slow, it begins before: the limit is of more minutes where one would go by with starting.
    """
    monkeypatch.setenv("SLURM_CONF", cluster["SLURM_CONF"])
    here, there = Bench(tmp_path / "here", cluster), Bench(tmp_path / "there", cluster)
    began = time.monotonic()
    here("run", *LONGER)
    minutes = math.ceil((time.monotonic() - began) / 60)
    array = there.submit("run", *LONGER, "--time", str(minutes))
    there.slow_down(array, minutes)
    assert not there.weights(), "the limit came before the end"
    there.wait(array)
    assert there.weights(), "and the end all the same, without another run"
    there("run", *LONGER)
    assert there.weights() == here.weights() and there.rows("har-table1") == here.rows("har-table1")
