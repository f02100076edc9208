"""The jobs every detection table is made of, and the pipeline that strings them together for one row and seed."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import ClassVar

from pydantic import Field

from benchsuite.data.batches import Batches, EvalBatches
from benchsuite.data.dataset import DetectionData, no_masks
from benchsuite.data.subset import Splits
from benchsuite.data.transforms import Augment, Input
from benchsuite.engine.environment import device_name
from benchsuite.engine.job import Artifact, Context, Job
from benchsuite.errors import InputError, MissingData
from benchsuite.loops.predict import load_weights, predict
from benchsuite.loops.timing import Timing, time_detector
from benchsuite.loops.train import Solver, train
from benchsuite.metrics.metric import Found, Metric
from benchsuite.models.detector import Detector, Model, Testing
from benchsuite.models.postprocess import PostProcess
from benchsuite.pipelines.pipeline import Pipeline, loaders
from benchsuite.settings import Json


class Train(Job):
    """Train a model on one split. Leaves `weights.safetensors` and `log.jsonl`.

    `start` is a training to go on from: with its weights, as far as it has them, and after its last iteration.
    """

    data: DetectionData
    input: Input
    augment: tuple[Augment, ...] = ()
    model: Model
    solver: Solver
    seed: int
    start: "Train | None" = None

    @property
    def label(self) -> str:
        """For progress and plan."""
        return f"train seed {self.seed}"

    def do(self, context: Context) -> None:
        """Build from the seed, then train; the same seed gives the same start to every row."""
        import torch

        data = self.data.open()
        torch.manual_seed(self.seed)
        detector = self.build(len(data.classes), context)
        solver = self.solver
        batches = Batches(
            data, self.input, self.augment, solver.batch, self.seed, solver.iterations, context.cache, self.model.masks
        )
        start = 0
        if self.start is not None:
            load_weights(detector, context.inputs["start"].path("weights.safetensors"), partly=True)
            start = self.start.solver.iterations
        train(detector, batches, solver, context, self.seed, loaders(context), start)

    def build(self, num_classes: int, context: Context) -> Detector:
        """The detector as its training starts, before `start`; a paper's training may make it of other inputs."""
        return self.model.build(num_classes)

    def trained(self, num_classes: int, artifact: Artifact) -> Detector:
        """The detector that this training left in `artifact`."""
        detector = self.model.build(num_classes)
        load_weights(detector, artifact.path("weights.safetensors"))
        return detector


class Predict(Job):
    """Let a trained model detect on one split. Leaves `detections.safetensors`."""

    train: Train
    data: DetectionData
    input: Input
    post: PostProcess
    batch: int = Field(1, ge=1)
    testing: Testing | None = None

    @property
    def label(self) -> str:
        """For progress and plan."""
        return f"predict seed {self.train.seed}"

    def do(self, context: Context) -> None:
        """Load the weights and run over the split in order."""
        data = self.data.open()
        detector = tested(self.train.trained(len(data.classes), context.inputs["train"]), self.testing)
        batches = EvalBatches(data, self.input, self.batch, context.cache)
        solver = self.train.solver
        precision, channels_last = solver.precision, solver.channels_last
        predict(detector, batches, data, self.post, context, precision, channels_last, loaders(context))


def found(artifact: Artifact) -> Found:
    """The detections that a `Predict` left."""
    return Found.load(artifact.path("detections.safetensors"))


def tested(detector: Detector, testing: Testing | None) -> Detector:
    """The trained detector as it is tested."""
    return detector if testing is None else testing.wrap(detector)


class Score(Job):
    """Score saved detections. Leaves `metrics.json`."""

    version: ClassVar[int] = 2

    predict: Predict
    metric: Metric

    @property
    def label(self) -> str:
        """For progress and plan."""
        return f"score seed {self.predict.train.seed}"

    def do(self, context: Context) -> None:
        """Read ground truth and detections, and let the metric count."""
        context.write_metrics(self.metric.score(self.predict.data.open(), found(context.inputs["predict"])))


class Difference(Job):
    """How sure the difference of two runs of one seed is over images: paired bootstrap of `first` minus `second` on a
    column. Leaves `metrics.json` with difference, low and high (95 %)."""

    first: Predict
    second: Predict
    metric: Metric
    column: str

    @property
    def label(self) -> str:
        """For progress and plan."""
        return f"difference on {self.column} seed {self.first.train.seed}"

    def do(self, context: Context) -> None:
        """Draw images with replacement, the same ones for both."""
        first, second = (found(context.inputs[name]) for name in ("first", "second"))
        interval = self.metric.paired(self.first.data.open(), second, first, self.column)
        context.write_metrics({} if interval is None else asdict(interval))


class Time(Job):
    """Time a model's forward pass and post-processing on this device; weights do not matter. Leaves `metrics.json`
    and the raw samples."""

    device_bound: ClassVar[bool] = True

    model: Model
    classes: int
    input: Input
    post: PostProcess
    timing: Timing
    device: str
    testing: Testing | None = None

    @property
    def label(self) -> str:
        """For progress and plan."""
        return "time"

    def do(self, context: Context) -> None:
        """Build from a fixed seed and measure."""
        import torch

        torch.manual_seed(0)
        detector = tested(self.model.build(self.classes), self.testing)
        time_detector(detector, self.input.frame, self.post, self.timing, context)


def require_masks(data: DetectionData) -> None:
    """InputError where a split is here and has no masks."""
    with suppress(MissingData):
        if not data.has_masks():
            raise no_masks(data.name)


class Detection(Pipeline):
    """Train → Predict → Score, and Time where it is asked for."""

    data: Splits
    input: Input
    augment: tuple[Augment, ...] = ()
    model: Model
    solver: Solver
    post: PostProcess = PostProcess()
    eval_batch: int = Field(1, ge=1)
    metric: Metric
    timing: Timing | None = None
    testing: Testing | None = None

    @property
    def protocol(self) -> str:
        """The metric's."""
        return self.metric.protocol

    def predict(self, seed: int) -> Predict:
        """The row's detections for one seed."""
        return self.predict_on(self.data.cut("val"), seed)

    def predict_on(self, data: DetectionData, seed: int) -> Predict:
        """The detections on a split for one seed; InputError where its classes are not those trained on."""
        fit = self.fit(seed)
        if fit.data.classes != data.classes:
            raise InputError(
                f"data: {fit.data.name} has {len(fit.data.classes)} classes and {data.name} {len(data.classes)}; "
                "train and val need the same classes in the same order"
            )
        batch = 1 if self.testing else self.eval_batch
        return Predict(train=fit, data=data, input=self.seen, post=self.post, batch=batch, testing=self.testing)

    def fit(self, seed: int) -> Train:
        """The training of one seed; InputError for a model of masks where there are none."""
        data = self.data.cut("train")
        if self.model.masks:
            require_masks(data)
        return Train(data=data, input=self.input, augment=self.augment, model=self.model, solver=self.solver, seed=seed)

    @property
    def seen(self) -> Input:
        """The images that the trained detector is tested on."""
        return self.input if self.testing is None else self.testing.input

    def jobs(self, seed: int) -> Mapping[str, Job]:
        """The score, and the latency where `timing` is set. InputError for a metric of masks where there are none."""
        seen = self.predict(seed)
        if self.metric.masks:
            require_masks(seen.data)
            if not self.model.masks:
                raise InputError(
                    f"metric: {self.metric.kind()} scores masks, and {self.model.kind()} finds boxes only; choose "
                    "another metric or model"
                )
        last: dict[str, Job] = {"score": Score(predict=seen, metric=self.metric)}
        if self.timing is not None:
            last["time"] = Time(
                model=self.model,
                classes=len(seen.data.classes),
                input=self.seen,
                post=self.post,
                timing=self.timing,
                device=device_name(os.environ.get("BENCH_DEVICE", "auto")),
                testing=self.testing,
            )
        return last

    def difference(self, other: Pipeline, seed: int, column: str) -> Job | None:
        """A bootstrap over images, where the metric offers one."""
        if not isinstance(other, Detection) or column not in self.metric.paired_columns:
            return None
        return Difference(first=self.predict(seed), second=other.predict(seed), metric=self.metric, column=column)

    def inspect(self) -> dict[str, Json]:
        """Counted on the meta device at the usual padded input."""
        import torch

        from benchsuite.models.cost import macs, parameters

        height, width = self.seen.frame
        with torch.device("meta"):
            detector = tested(self.model.build(len(self.data.val.classes)), self.testing)
            image = torch.empty(1, 3, height, width)
        return {
            "parameters": parameters(detector),
            "macs": macs(detector, image),
            "input": [3, height, width],
            "anchors": detector.anchor_count(image),
        }
