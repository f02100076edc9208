"""The steps of every row, whatever its network learns: train, evaluate, score, compare. A family of networks says what
its batches are, what it keeps of them, and how that is counted."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar

from pydantic import Field
from safetensors.numpy import load_file, save_file
from torch.utils.data import Dataset
from typing_extensions import override

from benchsuite.data.split import Data
from benchsuite.engine.job import Artifact, Context, Job
from benchsuite.loops.evaluate import Pass
from benchsuite.loops.train import Solver, train
from benchsuite.metrics.judged import Floats
from benchsuite.metrics.metric import Interval
from benchsuite.models.detector import Trainable
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
        """Build from the seed, then train; the same seed gives the same start to every row."""
        import torch

        data = self.data.open()
        torch.manual_seed(self.seed)
        network = self.build(len(data.classes), context)
        batches = self.batches(data, context)
        largest = getattr(batches, "largest", None)  # where batches differ in size
        train(network, batches, self.solver, context, self.seed, loaders(context), self.done_before, largest)

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
