"""A job: one piece of work with settings, inputs that are other jobs, and a key; what it gets and what it leaves."""

import json
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from benchsuite.errors import BenchError, InputError
from benchsuite.settings import Json, Part, canonical, content_key


@dataclass(frozen=True)
class Artifact:
    """What a finished job left in the store: a folder of files, and `metrics.json` where it measured something."""

    key: str
    folder: Path

    def path(self, name: str) -> Path:
        """A file of the artifact."""
        return self.folder / name

    @cached_property
    def metrics(self) -> dict[str, float | None]:
        """What the job measured; empty where it measures nothing."""
        file = self.folder / "metrics.json"
        return json.loads(file.read_text()) if file.exists() else {}


@dataclass(frozen=True)
class Progress:
    """One report of a running job; `total` 0 when the amount is unknown."""

    done: int
    total: int
    unit: str = "iterations"
    loss: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Execution:
    """How jobs are done, where that is the user's choice of the moment: it enters no key.

    deterministic  equal work gives equal bits on a GPU too, at some cost; on a CPU it does in any case
    loaders        processes that make batches ahead; None leaves it to the job
    per_job        processes, each with a device of its own, that do one training together
    recompute      a training makes activations again instead of keeping them
    micro_batch    of how many images at once a training whose norms are frozen passes its batches; None for all
    compiled       a training on frames of one size compiles its backbone, neck and head
    eval_every     iterations of a training between evaluations on the way; 0 for none
    """

    deterministic: bool = False
    loaders: int | None = None
    per_job: int = 1
    recompute: bool = False
    micro_batch: int | None = None
    compiled: bool = False
    eval_every: int = 0

    def __post_init__(self) -> None:
        if self.compiled and self.recompute:
            raise InputError("--compile with --recompute: a compiler decides itself what to keep; drop one")
        if self.micro_batch and self.per_job > 1:
            raise InputError(
                f"--micro-batch {self.micro_batch} with --per-job {self.per_job}: devices have parts of the batch "
                "anyway; drop one, or use --recompute"
            )


@dataclass(frozen=True)
class Context:
    """What a job may use while it works.

    `folder` becomes the artifact when `do` returns; `partial` outlives a kill and is where checkpoints go;
    `cache` is shared by all jobs of a store (decoded images). `stop()` is true once the user asked to stop: the job
    then leaves a checkpoint and raises `Interrupted`. `note` tells the user a line. What it writes into `ran_under` is
    recorded with its artifact.
    `judge` is a job that scores what this one will leave, where there is one: for evaluations on the way.
    """

    folder: Path
    partial: Path
    cache: Path
    inputs: Mapping[str, Artifact] = field(default_factory=dict)
    device: str = "cpu"
    threads: int = 1
    checkpoint_every: int = 500
    report: Callable[[Progress], None] = lambda progress: None
    note: Callable[[str], None] = lambda text: None
    stop: Callable[[], bool] = lambda: False
    execution: Execution = field(default_factory=Execution)
    ran_under: dict[str, Json] = field(default_factory=dict)
    judge: "Job | None" = None

    def write_metrics(self, metrics: Mapping[str, Json]) -> None:
        """Leave numbers in `metrics.json`. BenchError for one that is not finite: None stands for what is undefined."""
        for name, value in metrics.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise BenchError(
                    f"{name} is {value}, which is no measurement; see the training's log, or mend the metric"
                )
        (self.folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")


class Job(Part):
    """A piece of work. Fields that are jobs are its inputs and enter the key by their own keys; equal keys run once.

    A `device_bound` job is a timing: it runs alone on its device, whose name is among its settings. One that is not
    `on_device` computes with no network and leaves GPUs to others. `product` is a file
    of the artifact that is made for the user, who is told where it lies. `measures` are numbers that the job is there
    for: a row whose table has a column for none of them does without it.
    """

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.pipelines", "benchsuite.papers")
    device_bound: ClassVar[bool] = False
    on_device: ClassVar[bool] = True
    measures: ClassVar[tuple[str, ...]] = ()

    @property
    def inputs(self) -> dict[str, "Job"]:
        """The fields that are jobs."""
        return {name: value for name in type(self).model_fields if isinstance(value := getattr(self, name), Job)}

    @cached_property
    def form(self) -> dict[str, Json]:
        """Canonical form with inputs replaced by their keys: what the key is the hash of, kept beside the artifact."""
        own = canonical(self.model_copy(update=dict.fromkeys(self.inputs)))
        assert isinstance(own, Mapping)
        return {**own, "inputs": {name: job.key for name, job in self.inputs.items()}}

    @cached_property
    def key(self) -> str:
        """Hash of the form: equal keys are the same work."""
        return content_key(self.form)

    @cached_property
    def alike(self) -> str:
        """Hash of the form without seeds: jobs in which it is equal take about as long."""
        own = {name: value for name, value in self.form.items() if name not in ("seed", "inputs")}
        return content_key({**own, "inputs": {name: job.alike for name, job in self.inputs.items()}})

    @property
    def effort(self) -> float:
        """How much work it is beside others of its kind, in any unit."""
        return 1.0

    @property
    def product(self) -> str:
        """The file or folder of the artifact that is made for the user; none by default."""
        return ""

    @property
    def work(self) -> str:
        """What it is counted as in totals, the first word of its label: a paper's own training is a `Train` as well."""
        return self.label.partition(" ")[0].capitalize()

    @property
    @abstractmethod
    def label(self) -> str:
        """A few words for progress and plan, for instance `train RetinaNet seed 0`."""

    @abstractmethod
    def do(self, context: Context) -> None:
        """Do the work: read `context.inputs`, write files into `context.folder`."""
