"""A table whose run is killed again and again, and two runs at once: real trainings, the same bits."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli import toy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

KILLS, ITERATIONS, EVERY = 20, 24, 2
SETTINGS = (
    "model.backbone.depth=18", "input.short=96", "input.long=160", f"solver.iterations={ITERATIONS}",
    "solver.drops=[20]", "post.score_threshold=0.005", "post.per_level=50", "timing=null",
)  # fmt: skip


class Table:
    """Runs of two rows of har-table1 into one store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = toy(folder / "toy")

    def start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", "from benchsuite.cli.entry import main; main()", "run", "har-table1"]
        command += ["--rows", "baseline,sa-1-1-1", "--data", str(self.data), "--checkpoint-every", str(EVERY)]
        command += [part for setting in SETTINGS for part in ("--set", setting)]
        environ = os.environ | {"BENCH_STORE": str(self.folder / "runs"), "OMP_NUM_THREADS": "1"}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, cwd=self.folder, env=environ, **quiet)  # type: ignore[call-overload,no-any-return]

    def progress(self) -> int:
        logs = (self.folder / "runs").glob("partial/*/log.jsonl")
        return sum(file.stat().st_size for file in logs if file.exists()) + 10_000_000 * len(self.artifacts())

    def artifacts(self) -> list[Path]:
        return [file.parent for file in sorted((self.folder / "runs").glob("artifacts/*/artifact.json"))]

    def bits(self) -> dict[str, bytes]:
        """Every file that a repeated run must reproduce, by key and name."""
        names = ("weights.safetensors", "detections.safetensors", "metrics.json")
        files = [folder / name for folder in self.artifacts() for name in names]
        return {f"{file.parent.name}/{file.name}": file.read_bytes() for file in files if file.exists()}

    def rows(self) -> object:
        return json.loads((self.folder / "results" / "har-table1.smoke.toy.json").read_text())["rows"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Table:
    table = Table(tmp_path_factory.mktemp("undisturbed"))
    assert table.start().wait() == 0
    return table


def test_killed_at_twenty_random_moments(undisturbed: Table, tmp_path: Path) -> None:
    table, draw, kills = Table(tmp_path), random.Random(0), 0
    for _ in range(KILLS):
        before, process = table.progress(), table.start()
        while process.poll() is None and table.progress() == before:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.25))
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills >= KILLS // 2  # the table must not be done long before
    assert table.start().wait() == 0
    assert table.bits() == undisturbed.bits()
    assert table.rows() == undisturbed.rows()


def test_two_runs_at_once_share_their_jobs(undisturbed: Table, tmp_path: Path) -> None:
    table = Table(tmp_path)
    runs = [table.start(), table.start()]
    assert [run.wait() for run in runs] == [0, 0]
    assert table.bits() == undisturbed.bits()
    assert table.rows() == undisturbed.rows()
