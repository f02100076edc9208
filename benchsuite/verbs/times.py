"""How long jobs will take: as the user says, or as the store remembers of their like."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from benchsuite.engine.job import Job
from benchsuite.engine.slots import Slots
from benchsuite.engine.store import Store
from benchsuite.engine.times import Times, place
from benchsuite.errors import InputError, nearest

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def seconds_of(option: str, text: str) -> float:
    """Seconds of `24h`, `1h30m`, `90s`; InputError for others."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InputError(f"{option} {text}: is no time; for instance 24h, 1h30m or 90s")
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def told_of(texts: Sequence[str], works: Collection[str]) -> dict[str, float]:
    """Seconds by work (`Job.work`, in small letters) of `train=20m`; InputError for works that are none."""
    pairs = [text.partition("=") for text in texts]
    for work, _, _ in pairs:
        if work.strip().lower() not in works:
            raise InputError(f"--takes {work}: no job of the plan is called so; {nearest(work, sorted(works))}")
    return {work.strip().lower(): seconds_of(f"--takes {work}", time) for work, _, time in pairs}


@dataclass(frozen=True)
class Estimates:
    """Seconds of jobs on a device: `told` goes before what the store remembers (`engine.times`)."""

    store: Store
    times: Times
    slots: Slots
    told: Mapping[str, float]

    @classmethod
    def on(cls, store: Store, device: str, told: Mapping[str, float]) -> "Estimates":
        """On `cpu`, `cuda`, `cuda:N` or `auto`, one job at a time."""
        return cls(store, Times(store.root), Slots.on(device), told)

    def of(self, job: Job) -> float | None:
        """None where nobody knows."""
        if job.work.lower() in self.told:
            return self.told[job.work.lower()]
        return self.times.guess(job, self._where(job))

    def guessed(self, job: Job) -> bool:
        """Whether what `of` tells is but the pace of unlike jobs, of another tier perhaps."""
        return job.work.lower() not in self.told and not self.times.knows(job, self._where(job))

    def _where(self, job: Job) -> str:
        alone = [its for its in self.slots.places if job.on_device or its.device == "cpu"] or list(self.slots.places)
        threads = self.slots.cores if job.device_bound else alone[0].threads
        return place(alone[0].device, threads)
