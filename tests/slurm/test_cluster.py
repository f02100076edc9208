"""A real Slurm of two nodes on this host does what one machine does, whatever happens to it. Run by `make test-slurm`.

Needs Debian's slurmctld, slurmd, slurm-client and munge, and root; skipped where they are not.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
TOOLS = ("slurmctld", "slurmd", "sbatch", "munged")
TABLES = ("har-table1", "padet-table2")
SMALL = ("--rows", "baseline,sa-1-1-1", "--set", "model.backbone.depth=18")
QUICK = (*SMALL, "--checkpoint-every", "2", "--set", "solver.iterations=60")
LONGER = (*SMALL, "--checkpoint-every", "20", "--set", "solver.iterations=240")
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
        command = [sys.executable, "-c", "from benchsuite.cli import main; main()", *words]
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

    def weights(self) -> dict[str, bytes]:
        """Of every training, by key."""
        return {
            file.parent.name: file.read_bytes() for file in self.folder.glob("runs/artifacts/*/weights.safetensors")
        }


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """What one machine makes of the quick rows, one thread a job."""
    bench = Bench(tmp_path_factory.mktemp("local") / "here", {**os.environ, "OMP_NUM_THREADS": "1"})
    bench("run", "har-table1", *QUICK)
    return bench


def test_tables_on_two_nodes_have_the_numbers_of_one_machine(cluster: dict[str, str], tmp_path: Path) -> None:
    here, there = Bench(tmp_path / "here", cluster), Bench(tmp_path / "there", cluster)
    there.wait(there.submit("run", *TABLES, "--tier", "smoke"))
    here("run", *TABLES, "--tier", "smoke")
    there("run", *TABLES, "--tier", "smoke")
    for table in TABLES:
        assert there.rows(table) == here.rows(table)
    assert there.weights() == here.weights()


def cancelled(bench: Bench, array: str) -> None:
    bench.training()
    subprocess.run(["scancel", array], env=bench.environment, check=True)
    bench.wait(array)


def daemon_killed(bench: Bench, array: str) -> None:
    bench.training()
    folder = Path(bench.environment["SLURM_CONF"]).parent
    for node in ("bench1", "bench2"):
        pid = int((folder / f"slurmd-{node}.pid").read_text())
        os.kill(pid, signal.SIGKILL)
    for node in ("bench1", "bench2"):
        subprocess.run(["slurmd", "-N", node, "-c"], env=bench.environment, check=True)
    subprocess.run(["scancel", array], env=bench.environment, check=True)
    bench.wait(array)


def steps_killed(bench: Bench, array: str) -> None:
    bench.training()
    subprocess.run(["scancel", "--signal=KILL", "--full", array], env=bench.environment, check=True)
    bench.wait(array)


@pytest.mark.parametrize("fault", [cancelled, daemon_killed, steps_killed])
def test_after_a_fault_one_more_run_ends_in_the_same_results(
    fault: Callable[[Bench, str], None], cluster: dict[str, str], local: Bench, tmp_path: Path
) -> None:
    bench = Bench(tmp_path / "there", cluster)
    fault(bench, bench.submit("run", "har-table1", *QUICK))
    bench("run", "har-table1", *QUICK)
    assert bench.rows("har-table1") == local.rows("har-table1")
    assert bench.weights() == local.weights()


def test_a_limit_of_one_minute_is_survived(cluster: dict[str, str], tmp_path: Path) -> None:
    """Workers leave a checkpoint before their limit, are queued again, and go on."""
    bench = Bench(tmp_path / "there", cluster)
    array = bench.submit("run", "har-table1", *LONGER, "--time", "1")
    bench.wait(array)
    logs = "".join(file.read_text() for file in (bench.folder / "runs" / "slurm").glob("*_log.*"))
    assert "timed-out" in logs and "iterations" in logs
    here = Bench(tmp_path / "here", cluster)
    here("run", "har-table1", *LONGER)
    bench("run", "har-table1", *LONGER)
    assert bench.weights() == here.weights() and bench.rows("har-table1") == here.rows("har-table1")


def test_status_is_seen_from_elsewhere(cluster: dict[str, str], tmp_path: Path) -> None:
    bench = Bench(tmp_path / "there", cluster)
    array = bench.submit("run", "har-table1", *QUICK)
    bench.training()
    states = json.loads(bench("status", "--json"))
    assert any(state["working"] and "train" in state["name"] for state in states)
    subprocess.run(["scancel", array], env=bench.environment, check=True)
    bench.wait(array)
