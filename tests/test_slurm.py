"""What `--executor slurm` needs no Slurm for; tests/slurm has the rest."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from engine_jobs import Failing, Sleeper

from benchsuite.engine.progress import Reporter
from benchsuite.engine.reach import reach
from benchsuite.engine.schedule import RUN, run_jobs
from benchsuite.engine.slots import Slots
from benchsuite.engine.store import FAILED, Store
from benchsuite.errors import InputError
from benchsuite.verbs.slurm import Cluster, Work, arguments_of, left


@pytest.mark.parametrize(
    ("time", "minutes"),
    [("1", 1), ("90", 90), ("4:00:00", 240), ("2-00:00:00", 2880), ("1-12", 2160), ("10:30", 11), ("0:20", 1)],
)
def test_limits_as_slurm_writes_them(time: str, minutes: int) -> None:
    assert Cluster(time=time).minutes == minutes


@pytest.mark.parametrize("time", ["", "soon", "1h", "-5", "4:00:00:00"])
def test_other_limits_are_one_line(time: str) -> None:
    with pytest.raises(InputError, match=r"--time .*is no time of Slurm's"):
        _ = Cluster(time=time).minutes


def test_more_options() -> None:
    assert Cluster(more=("account=vision", "constraint=a100&ib")).options() == {
        "account": "vision", "constraint": "a100&ib"}  # fmt: skip
    with pytest.raises(InputError, match="--slurm account: is not NAME=VALUE"):
        Cluster(more=("account",)).options()


def test_workers_get_the_same_command_without_the_cluster() -> None:
    kept = ["run", "har-table1", "--tier", "mini", "--set", "solver.lr=0.1", "--out", "x"]
    words = [*kept[:2], "--executor", "slurm", *kept[2:4], "--gpus=1", "--time", "4:00:00", *kept[4:], "--slurm", "a=b"]
    assert arguments_of(words) == kept


NFS = "36 35 0:42 / /data rw,relatime shared:1 - nfs4 server:/export rw,vers=4.2,{}"
ROOT = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"


@pytest.mark.parametrize(
    ("mount", "told"),
    [
        (NFS.format("local_lock=none"), ""),
        (NFS.format("local_lock=flock"), "nfs4 mounted with locks that hold on one host only (local_lock=flock)"),
        (NFS.format("nolock"), "(nolock)"),
        ("40 35 0:9 / /data rw - lustre mgs:/fs rw,localflock", "(localflock)"),
        ("40 35 0:9 / /data rw - lustre mgs:/fs rw,flock", ""),
        ("40 35 0:9 / /data rw - cifs //server/share rw,nobrl", "cifs mounted with locks that hold on one host only"),
        ("40 35 0:9 / /data rw - fuse.sshfs server: rw,user_id=0", "it is on fuse.sshfs, whose locks hold on one host"),
        ("40 35 0:9 / /data/other rw - nfs server:/x rw,nolock", ""),
    ],
)
def test_locks_that_hold_on_one_host_only_are_told(mount: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "mountinfo"
    file.write_text(f"{ROOT}\n{mount}\nnonsense\n")
    found = reach(Path("/data/runs"), file)
    assert (told in found) if told else found == ""
    assert reach(Path("/data/runs"), tmp_path / "none") == ""


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("0:37", 37),
        ("12:05", 725),
        ("1:00:00", 3600),
        ("1-02:03:04", 93_784),
        ("UNLIMITED", 0),
        ("INVALID", 0),
        ("", 0),
    ],
)
def test_the_time_that_slurm_leaves(told: str, seconds: float, slurm: Path) -> None:
    (slurm / "left").write_text(f"7 {told}\n")
    assert left("7") == seconds


def test_the_time_that_slurm_leaves_one_of_an_array(slurm: Path) -> None:
    """Asked for the number of an array, which one of its workers has too, Slurm tells of all."""
    (slurm / "left").write_text("8 1:00\n9 INVALID\n7 0:37\n")
    assert [left(number) for number in ("7", "8", "9", "10")] == [37, 60, 0, 0]


def test_slurm_that_cannot_be_asked_leaves_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert left("7") == 0.0


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a `squeue` that tells what its file `left` says."""
    script = tmp_path / "squeue"
    script.write_text(f"#!/bin/sh\ncat {tmp_path}/left\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


@pytest.mark.parametrize(("told", "lingers"), [("0:04", True), ("0:01", False)])
def test_a_worker_that_is_told_early_goes_on_until_its_warning(
    told: str, lingers: bool, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (slurm / "left").write_text(f"7 {told}\n")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    work = Work(["run", "x"], "run", warning=2.0)
    work.process = subprocess.Popen(["sleep", "60"])
    began = time.monotonic()
    again = work.checkpoint()
    assert (time.monotonic() - began >= 2.0) == lingers
    assert work.process.wait() == -signal.SIGTERM
    assert (again.function.arguments, again.function.run, again.function.warning) == (["run", "x"], "run", 2.0)


def test_a_job_that_failed_is_not_tried_by_each_worker_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, job = Store(tmp_path / "store"), Failing(name="f")

    def go() -> str:
        outcome = run_jobs(
            [job, Sleeper(name="s", trace=str(tmp_path))], store, slots=Slots.on("cpu"), progress=Reporter()
        )
        assert outcome.exit_code == 1
        return outcome.results[job.key].message

    def tries() -> int:
        return (store.partial(job.key) / "job.log").read_text().count("about to fail")

    monkeypatch.setenv(RUN, "first")
    told = go()
    assert tries() == 1 and json.loads((store.partial(job.key) / FAILED).read_text())["run"] == "first"
    assert go() == told and tries() == 1
    monkeypatch.setenv(RUN, "second")
    assert go() == told and tries() == 2
    monkeypatch.delenv(RUN)
    assert go() == told and tries() == 3
