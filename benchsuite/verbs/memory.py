"""`bench plan --memory`: what each training needs of a device's memory, before anyone has the device."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchsuite.engine.job import Execution
from benchsuite.errors import InputError
from benchsuite.models.memory import Footprint
from benchsuite.pipelines.steps import Training
from benchsuite.settings import content_key
from benchsuite.verbs.plan import Plan

GIB = 2**30
ROOM = 70 * GIB
"""What an estimate may say of a device of 80 GB: the rest is for kernels and the allocator's holes."""


@dataclass(frozen=True)
class Need:
    """What a training needs, and others like it. `cures` are options of `bench run` that bring a step which takes more
    than `ROOM` below it, with what it takes then."""

    name: str
    images: int
    frame: tuple[int, int]
    found: Footprint
    cures: Mapping[str, int]

    def form(self) -> dict[str, Any]:
        """JSON, in bytes."""
        found = asdict(self.found)
        return {"name": self.name, "images": self.images, "frame": self.frame, "bytes": found, "cures": self.cures}


def needs(plan: Plan, execution: Execution) -> list[Need]:
    """Of each training that is unlike the others in memory. InputError where a device would be left without image."""
    told: dict[str, Need] = {}
    for key, job in plan.jobs.items():
        if isinstance(job, Training):
            model, images = (job.form.get("model"), job.form["inputs"]), job.images_at_once(execution)
            same = content_key([*model, images, *job.frame, job.data.num_classes])
            if same not in told:
                told[same] = _need(plan.names[key], job, execution)
    return list(told.values())


def _need(name: str, job: Training, execution: Execution) -> Need:
    found = job.footprint(execution)
    cures = {} if found.peak <= ROOM else _cures(job, execution)
    return Need(name, job.images_at_once(execution), job.frame, found, cures)


def _cures(job: Training, execution: Execution) -> dict[str, int]:
    """What alone does it; else what does it together."""
    spared = replace(execution, recompute=True)
    more = [count for count in (2, 4, 8) if count > execution.per_job]
    alone = [] if execution.recompute else [("--recompute", [spared])]
    alone += [("--per-job", [replace(execution, per_job=count) for count in more])]
    both = [("--recompute --per-job", [replace(spared, per_job=count) for count in more])]
    return _first_that_fit(job, alone) or _first_that_fit(job, both)


def _first_that_fit(job: Training, ways: list[tuple[str, list[Execution]]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for words, settings in ways:
        for each in settings:
            try:
                told = job.footprint(each)
            except InputError:  # a device without an image
                break
            if told.peak <= ROOM:
                found[f"{words} {each.per_job}" if words.endswith("job") else words] = told.peak
                break
    return found


def lines(need: Need) -> list[str]:
    """What is to be said of one that takes more than a device of 80 GB has."""
    if need.found.peak <= ROOM:
        return []
    ways = " or ".join(f"{words} ({size / GIB:.0f} GiB)" for words, size in need.cures.items())
    cure = f"run it with {ways}" if ways else "no option brings it below that"
    return [f"{need.name}: takes {need.found.peak / GIB:.0f} GiB, more than {ROOM / GIB:.0f}; {cure}"]
