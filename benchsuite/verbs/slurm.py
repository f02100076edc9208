"""`bench run --executor slurm`: the same command on as many nodes as asked for, and nothing left on the login node.

Every worker of the array is a plain `bench run`: they share the store, whose locks give each job to one of them, and
each waits for the inputs that another makes. A worker that Slurm is about to end, for its time or for somebody else's
job, leaves checkpoints and is queued again; one that was killed leaves its locks to the kernel. The artifacts are the
truth: what is there is done, whatever Slurm says of its jobs. After all, one more `bench run` says what came out.
"""

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchsuite.engine.reach import reach
from benchsuite.engine.schedule import RUN
from benchsuite.engine.store import Store
from benchsuite.errors import BenchError, InputError

if TYPE_CHECKING:  # a worker's start is slow enough without torch
    from submitit.core.utils import DelayedSubmission

    from benchsuite.verbs.plan import Plan

MOST_WORKERS = 16
WARNING_SECONDS = 90
"""So long before its limit a worker leaves checkpoints; a quarter of limits that are shorter than six minutes."""
EARLY = 30
"""Seconds by which Slurm sends its signal before it was asked to, at least; it looks twice a minute, at limits too."""
TIMES = 1000
"""How often a worker may reach its limit and be queued again."""
OPTIONS = ("--executor", "--partition", "--gpus", "--cpus", "--time", "--workers", "--slurm")


@dataclass(frozen=True)
class Cluster:
    """What to ask Slurm for, a worker each.

    time  its limit as Slurm writes it: minutes, HH:MM:SS or D-HH:MM:SS
    more  further options of sbatch, `name=value`
    """

    partition: str = ""
    gpus: int = 0
    cpus: int = 1
    time: str = "24:00:00"
    workers: int | None = None
    more: tuple[str, ...] = ()

    @property
    def minutes(self) -> int:
        """The limit, rounded up to a minute; InputError where it is none of Slurm's forms."""
        match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", self.time)
        if match is None:
            raise InputError(f"--time {self.time}: is no time of Slurm's; for instance 90, 4:00:00 or 2-00:00:00")
        days, *parts = (int(part or 0) for part in match.groups())
        if match[1] or match[4]:
            hours, minutes, seconds = parts
        else:  # without days, one number is minutes and two are minutes and seconds
            hours, minutes, seconds = 0, parts[0], parts[1]
        return max(1, (days * 86_400 + hours * 3600 + minutes * 60 + seconds + 59) // 60)

    def options(self) -> dict[str, str]:
        """The further options; InputError for one that is not `name=value`."""
        pairs = [text.partition("=") for text in self.more]
        for (name, equals, _), text in zip(pairs, self.more, strict=True):
            if not (name and equals):
                raise InputError(f"--slurm {text}: is not NAME=VALUE; for instance --slurm account=vision")
        return {name: value for name, _, value in pairs}


class Work:
    """A worker's process on its node: `bench run` with the same arguments."""

    def __init__(self, arguments: Sequence[str], run: str, warning: float) -> None:
        self.arguments, self.run, self.warning = list(arguments), run, warning
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run it; BenchError where it failed, which Slurm shows as a failed job."""
        cpus = os.environ.get("SLURM_CPUS_PER_TASK", "1")
        environment = {"OMP_NUM_THREADS": cpus, **os.environ, RUN: self.run}
        command = [sys.executable, "-c", "from benchsuite.cli.entry import main; main()", *self.arguments]
        self.process = subprocess.Popen(command, env=environment)
        code = self.process.wait()
        if code:
            raise BenchError(f"bench {' '.join(self.arguments)}: ended with {code}; its log says why")
        return code

    def checkpoint(self) -> "DelayedSubmission":
        """Called by submitit at the signal before the limit: jobs leave checkpoints, and the worker is queued again."""
        if self.process is not None:
            self._linger(self.process.pid)
            self.process.send_signal(signal.SIGTERM)
            # The main thread may be waiting for it, under a lock of its own, at this moment.
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(Work(self.arguments, self.run, self.warning))

    def _linger(self, pid: int) -> None:
        """Slurm may give the signal long before, and of a short limit leave no time to get on."""
        until = time.monotonic() + left(os.environ.get("SLURM_JOB_ID", "")) - self.warning
        while time.monotonic() < until and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            time.sleep(0.2)


def left(job: str) -> float:
    """Seconds until Slurm ends a job, for its limit or somebody else's job; 0 where Slurm does not tell."""
    try:
        asked = ["squeue", "-h", "-r", "-j", job, "-o", "%A %L"]
        told = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0.0
    # One of an array's workers has the array's number, for which Slurm tells of them all.
    times = dict(line.split(maxsplit=1) for line in told.splitlines() if " " in line.strip())
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", times.get(job, "").strip())
    if match is None:
        return 0.0
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(days * 86_400 + hours * 3600 + minutes * 60 + seconds)


def submit(plan: "Plan", store: Store, cluster: Cluster, arguments: Sequence[str]) -> str:
    """Queue the workers of one run; one line that says how to follow them.

    InputError where Slurm is not here or refuses, or where the store's locks hold on one host only.
    """
    store.prepare()
    if told := reach(store.root):
        raise InputError(f"{store.root}: {told}; use a store on a file system with locks between hosts")
    try:
        from submitit import SlurmExecutor
    except ImportError:
        raise InputError("--executor slurm: needs submitit; install it with: pip install 'benchsuite[slurm]'") from None
    pending = [job for job in plan.jobs.values() if store.artifact(job.key) is None]
    if not pending:
        return "nothing to do: all jobs are done; run it without --executor for the tables"
    first = [job for job in pending if all(store.artifact(needed.key) for needed in job.inputs.values())]
    workers = cluster.workers or min(MOST_WORKERS, len(first))
    minutes, options = cluster.minutes, cluster.options()
    warning = min(WARNING_SECONDS, minutes * 15)
    folder = store.root / "slurm"
    try:
        executor = SlurmExecutor(folder=folder, max_num_timeout=TIMES)
        executor.update_parameters(
            job_name="bench",
            time=minutes,
            cpus_per_task=cluster.cpus,
            array_parallelism=workers,
            signal_delay_s=max(1, warning - EARLY),
            additional_parameters=options,
            **({"partition": cluster.partition} if cluster.partition else {}),
            **({"gpus_per_node": cluster.gpus} if cluster.gpus else {}),
        )
        run = uuid.uuid4().hex
        with executor.batch():
            jobs = [executor.submit(Work(arguments, run, warning)) for _ in range(workers)]
        array = jobs[0].job_id.partition("_")[0]
    except (RuntimeError, OSError, subprocess.SubprocessError, BenchError) as error:
        raise InputError(f"--executor slurm: {_in_short(error)}") from None
    except Exception as error:  # submitit's own errors have no base of their own
        raise InputError(f"--executor slurm: {type(error).__name__}: {_in_short(error)}") from None
    many = "worker" if workers == 1 else "workers"
    timings = "; timings are of the node that takes them, and --timed-on its device's name takes them into tables here"
    return (
        f"queued {workers} {many} as {array}: see `squeue -j {array}` and `bench status --store {store.root}`; logs "
        f"are in {folder}; results come as without --executor, and that same command then tells what came out"
        + (timings if any(job.device_bound for job in pending) else "")
    )


def _in_short(error: BaseException) -> str:
    return " ".join(str(error).split())[-200:]


def arguments_of(words: Sequence[str]) -> list[str]:
    """The words of a command line without the options that are about the cluster, each of which has a value."""
    kept, skip = [], False
    for word in words:
        name = word.partition("=")[0]
        if skip:
            skip = False
        elif name in OPTIONS:
            skip = "=" not in word
        else:
            kept.append(word)
    return kept
