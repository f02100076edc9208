"""How long jobs took in a store, and by that how long others will: what to begin with, and the time left.

<root>/times.jsonl has a line for every job that was done in one go: what it is like, where it ran, and for how long.
It serves guesses alone. A line that cannot be read is passed over, and a store without the file works as well.
"""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median

from benchsuite.engine.job import Job

TIMES = "times.jsonl"
READ = 1 << 20
"""Bytes of the file that are read, the latest: some 8,000 jobs."""


def note(root: Path, job: Job, where: str, seconds: float) -> None:
    """Remember that `job` took so long `where` (see `place`)."""
    line = {"alike": job.alike, "kind": job.kind(), "effort": job.effort, "where": where, "seconds": round(seconds, 3)}
    with suppress(OSError):
        handle = os.open(root / TIMES, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.write(handle, (json.dumps(line) + "\n").encode())  # one write: runs share the file
        finally:
            os.close(handle)


def place(device: str, threads: int) -> str:
    """Where times are comparable: a kind of device, and on a CPU the threads. `cuda` or `cpu/2`."""
    return f"cpu/{threads}" if device == "cpu" else device.partition(":")[0]


class Times:
    """What a store remembers."""

    def __init__(self, root: Path) -> None:
        self._alike: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        self._paces: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        for line in _lines(root / TIMES):
            with suppress(ValueError, TypeError, KeyError):
                known = json.loads(line)
                seconds, effort, where = float(known["seconds"]), float(known["effort"]), str(known["where"])
                for place in (where, _device(where)):
                    self._alike[str(known["alike"]), place].append(seconds)
                    self._paces[str(known["kind"]), place].append(seconds / max(effort, 1.0))

    def guess(self, job: Job, where: str) -> float | None:
        """Seconds: those of jobs that differ in seeds alone, else by the pace of its kind; with these threads if there
        is an example, else with others. None without any."""
        if alike := self._of_like(job, where):
            return median(alike)
        for place in (where, _device(where)):
            if paces := self._paces.get((job.kind(), place)):
                return median(paces) * max(job.effort, 1.0)
        return None

    def knows(self, job: Job, where: str) -> bool:
        """Whether a job that differs in seeds alone was done there, on any number of threads."""
        return bool(self._of_like(job, where))

    def _of_like(self, job: Job, where: str) -> list[float]:
        return self._alike.get((job.alike, where)) or self._alike.get((job.alike, _device(where))) or []


def _device(where: str) -> str:
    """Of a `place`, without its threads."""
    return where.partition("/")[0]


def _lines(file: Path) -> list[bytes]:
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - READ))
            return opened.read().splitlines()
    except OSError:
        return []


def longest_first(jobs: Sequence[Job], cost: Callable[[Job], float]) -> list[Job]:
    """By the time of a job and of the longest chain of those that wait for it; equal ones in the order given, in which
    inputs come before what needs them."""
    length: dict[str, float] = {}
    for job in reversed(jobs):
        own = length[job.key] = length.get(job.key, 0.0) + cost(job)
        for needed in job.inputs.values():
            length[needed.key] = max(length.get(needed.key, 0.0), own)
    return sorted(jobs, key=lambda job: -length[job.key])
