"""The steps of every row, whatever its network learns: train, evaluate, score, compare. A family of networks says what
its batches are, what it keeps of them, and how that is counted."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, ClassVar

from pydantic import Field
from safetensors.numpy import load_file, save_file
from torch.utils.data import Dataset
from typing_extensions import override

from benchsuite.data.batch import Share
from benchsuite.data.split import Data
from benchsuite.engine.job import Artifact, Context, Execution, Job
from benchsuite.loops.evaluate import Pass
from benchsuite.loops.looks import Looks
from benchsuite.loops.ranks import Alone, spread
from benchsuite.loops.solver import Solver
from benchsuite.loops.train import train
from benchsuite.metrics.judged import Floats
from benchsuite.metrics.metric import Interval
from benchsuite.models.detector import Trainable
from benchsuite.models.memory import Footprint, footprint
from benchsuite.models.recompute import spare
from benchsuite.settings import Json

DRAWS_FILE = "draws.safetensors"


def read_draws(artifact: Artifact) -> dict[str, Floats]:
    """What a job left there, by name, each [1 + draws]."""
    found: dict[str, Floats] = load_file(artifact.path(DRAWS_FILE))
    return found


class Training(Job):
    """Train a network on one split. Leaves `weights.safetensors` and `log.jsonl`."""

    data: Data
    solver: Solver
    seed: int

    @property
    @override
    def label(self) -> str:
        return f"train seed {self.seed}"

    @property
    @override
    def effort(self) -> float:
        return float((self.solver.iterations - self.done_before) * self.solver.batch)

    def do(self, context: Context) -> None:
        """Train, in as many processes as asked for."""
        spread(self.take_part, context)

    def take_part(self, context: Context, team: Alone) -> None:
        """Build from the seed, then train; the same seed gives the same start to every row."""
        import torch

        data = self.data.open()
        torch.manual_seed(self.seed)
        network = self.build(len(data.classes), context)
        batches = team.taken(self.batches(data, context), self.solver.micro_batch)
        largest = getattr(batches, "largest", None)  # where batches differ in size
        looks = self.looks(context) if team.first else None
        if context.execution.compiled and not self.one_frame:
            print("not compiled: its frames are of unlike sizes", flush=True)
            context = replace(context, execution=replace(context.execution, compiled=False))
        workers = loaders(context)
        train(network, batches, self.solver, context, self.seed, workers, self.done_before, largest, team, looks)

    def looks(self, context: Context) -> Looks | None:
        """Evaluations on the way, by the job that will score what this one leaves."""
        scoring = context.judge
        if not (context.execution.eval_every and isinstance(scoring, Scoring)):
            return None
        if not isinstance(evaluation := scoring.predict, Evaluation):
            return None
        data, how = evaluation.data.open(), passing(self.solver, context)

        def judge(network: Any, where: Context) -> Mapping[str, Json]:
            evaluation.judge(network, data, where, how)
            return scoring.scores(Artifact("", where.folder))

        return Looks(context.execution.eval_every, judge, scoring.decisive, context)

    def footprint(self, execution: Execution) -> Footprint:
        """What memory a step takes on one device, told from shapes."""
        import torch

        with torch.device("meta"):
            network = self.blank(self.data.num_classes)
        if execution.recompute:
            spare(network)
        averaged = self.solver.averaging is not None
        return footprint(network, self.images_at_once(execution), self.frame, execution.per_job > 1, averaged)

    def images_at_once(self, execution: Execution) -> int:
        """How many images go through the network at once on one device, at most."""
        last = Share(execution.per_job - 1, execution.per_job, self.solver.micro_batch)
        most = max(map(len, last.parts(self.solver.batch)))
        return min(execution.micro_batch or most, most)

    @property
    @abstractmethod
    def frame(self) -> tuple[int, int]:
        """Height and width of the largest batch."""

    @property
    @abstractmethod
    def one_frame(self) -> bool:
        """Whether all batches are as large as the largest."""

    @abstractmethod
    def blank(self, num_classes: int) -> Trainable[Any]:
        """The network, whatever its weights, on torch's default device."""

    @abstractmethod
    def build(self, num_classes: int, context: Context) -> Trainable[Any]:
        """The network as its training starts."""

    @abstractmethod
    def batches(self, data: Any, context: Context) -> Dataset[Any]:
        """The batches of the opened `data`, one an iteration."""

    @property
    def done_before(self) -> int:
        """The iterations of the schedule that another training did."""
        return 0

    @abstractmethod
    def trained(self, num_classes: int, artifact: Artifact) -> Any:
        """The network that this training left in `artifact`."""


class Judgement(Job):
    """What a network found in one split, whoever trained it under `trained_seed`."""

    data: Data

    @property
    @abstractmethod
    def trained_seed(self) -> int:
        """The seed of the training."""


class Evaluation(Judgement):
    """Let a trained network judge one split."""

    verb: ClassVar[str]

    train: Training
    batch: int = Field(1, ge=1)

    @property
    @override
    def trained_seed(self) -> int:
        return self.train.seed

    @property
    @override
    def label(self) -> str:
        return f"{self.verb} seed {self.trained_seed}"

    def do(self, context: Context) -> None:
        """Load the weights and run over the split in order."""
        data = self.data.open()
        network = self.train.trained(len(data.classes), context.inputs["train"])
        self.judge(network, data, context, passing(self.train.solver, context))

    @abstractmethod
    def judge(self, network: Any, data: Any, context: Context, how: Pass) -> None:
        """Keep in the artifact what the network finds in the opened `data`."""


class Scoring(Job):
    """Count what an evaluation kept. Leaves `metrics.json`."""

    on_device: ClassVar[bool] = False

    predict: Judgement

    @property
    @override
    def label(self) -> str:
        return f"score seed {self.predict.trained_seed}"

    def do(self, context: Context) -> None:
        """Count."""
        context.write_metrics(self.scores(context.inputs["predict"]))

    @property
    @abstractmethod
    def decisive(self) -> str:
        """The number that tells which of two networks is better; more is."""

    @abstractmethod
    def scores(self, kept: Artifact) -> Mapping[str, Json]:
        """The numbers of what an evaluation kept."""


class Resampling(Job):
    """A column of what an evaluation kept, in each of many draws of the split's images with replacement, the same for
    whatever is evaluated on it. Leaves `draws.safetensors`: `values` [1 + draws], the first with every image once."""

    on_device: ClassVar[bool] = False

    predict: Judgement
    column: str

    @property
    @override
    def label(self) -> str:
        return f"resample {self.column} seed {self.predict.trained_seed}"

    def do(self, context: Context) -> None:
        """Read, draw, count."""
        save_file({"values": self.values(context.inputs["predict"])}, context.folder / DRAWS_FILE)

    @abstractmethod
    def values(self, kept: Artifact) -> Floats:
        """[1 + draws]; NaN where undefined."""


class Difference(Job):
    """How sure the difference of two runs of one seed is over images: `first` minus `second`, draw by draw. Leaves
    `metrics.json` with difference, low and high (95 %), empty where it is undefined; and `draws.safetensors` likewise.
    """

    on_device: ClassVar[bool] = False

    first: Resampling
    second: Resampling

    @property
    @override
    def label(self) -> str:
        return f"difference on {self.first.column} seed {self.first.predict.trained_seed}"

    def do(self, context: Context) -> None:
        """Subtract."""
        first, second = (read_draws(context.inputs[side])["values"] for side in ("first", "second"))
        interval = Interval.of(first - second)
        save_file({"values": first - second}, context.folder / DRAWS_FILE)
        context.write_metrics({} if interval is None else asdict(interval))


def loaders(context: Context) -> int:
    """Processes that make batches ahead: as the user says, or none on a CPU, whose cores are busy with the model, else
    a few."""
    if context.execution.loaders is not None:
        return context.execution.loaders
    return 0 if context.device == "cpu" else min(8, context.threads - 1)


def passing(solver: Solver, context: Context) -> Pass:
    """How what `solver` trained is run over a split."""
    return Pass(solver.precision, solver.channels_last, loaders(context))
