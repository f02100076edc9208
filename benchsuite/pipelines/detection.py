"""The jobs every detection table is made of, and the pipeline that strings them together for one row and seed."""

import shutil
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from typing_extensions import override

from benchsuite.data.batches import Batches, EvalBatches, largest_frame, trainable_images
from benchsuite.data.dataset import DetectionData, DetectionSet, require_masks
from benchsuite.data.split import opened, require_same_classes
from benchsuite.data.subset import DetectionSplits
from benchsuite.data.transforms import Augment, Fixed, Input
from benchsuite.engine.environment import device_name
from benchsuite.engine.job import Artifact, Context, Job
from benchsuite.errors import BenchError, InputError
from benchsuite.loops.checkpoint import load_weights
from benchsuite.loops.evaluate import Pass
from benchsuite.loops.predict import predict
from benchsuite.loops.solver import Solver
from benchsuite.loops.timing import Timing, time_detector
from benchsuite.metrics.judged import Floats
from benchsuite.metrics.metric import Found, Metric, columns_of_classes
from benchsuite.models.detector import Detector, Model, Testing
from benchsuite.models.postprocess import PostProcess
from benchsuite.pipelines.cost import Cost
from benchsuite.pipelines.pipeline import Pipeline
from benchsuite.pipelines.steps import Difference, Evaluation, Judgement, Resampling, Scoring, Training
from benchsuite.pipelines.submit import Submission
from benchsuite.settings import Json, once


class Design(Job):
    """A job that finds out what network a row has. Leaves `file`, which tells all of it.

    model  the one that it changes
    """

    file: ClassVar[str]
    adjective: ClassVar[str]

    model: Model

    @property
    def masks(self) -> bool:
        """As the model that it changes."""
        return self.model.masks

    @abstractmethod
    def network(self, artifact: Artifact) -> Model:
        """The network, from an artifact that has `file`."""


class Train(Training):
    """Train a detector. Leaves also the file of the model's design, where it has one.

    `start` is a training to go on from: with its weights, as far as it has them, and after its last iteration.
    """

    data: DetectionData
    input: Input
    augment: tuple[Augment, ...] = ()
    model: Model | Design
    start: "Train | None" = None

    @property
    @override
    def label(self) -> str:
        return f"train {f'{self.model.adjective} ' if isinstance(self.model, Design) else ''}seed {self.seed}"

    @property
    @override
    def effort(self) -> float:
        height, width = self.input.frame
        return super().effort * height * width

    @override
    def require(self) -> None:
        trainable_images(opened(self.data))

    def build(self, num_classes: int, context: Context) -> Detector:
        """The detector as its training starts; a paper's training may take weights from elsewhere."""
        if isinstance(self.model, Design):
            shutil.copyfile(context.inputs["model"].path(self.model.file), context.folder / self.model.file)
        model = network(self.model, context.inputs.get("model"))
        detector = model.build(num_classes)
        model.start(detector)
        if self.start is not None:
            load_weights(detector, context.inputs["start"].path("weights.safetensors"), partly=True)
        return detector

    @property
    @override
    def frame(self) -> tuple[int, int]:
        multiple = self.input.multiple
        height, width = (-(-side // multiple) * multiple for side in largest_frame(self.input, self.augment))
        return height, width

    @property
    @override
    def one_frame(self) -> bool:
        return isinstance(self.input, Fixed) and all(type(each).bound is Augment.bound for each in self.augment)

    @override
    def blank(self, num_classes: int) -> Detector:
        # of a design that is yet to be made, what it changes: near enough to tell its memory
        model = self.model.model if isinstance(self.model, Design) else self.model
        return model.build(num_classes)

    def batches(self, data: DetectionSet, context: Context) -> Batches:
        """With masks where the model learns them."""
        batch, iterations, masks = self.solver.batch, self.solver.iterations, self.model.masks
        return Batches(data, self.input, self.augment, batch, self.seed, iterations, context.cache, masks)

    @property
    def done_before(self) -> int:
        """All of `start`."""
        return 0 if self.start is None else self.start.solver.iterations

    def trained(self, num_classes: int, artifact: Artifact) -> Detector:
        """The detector that this training left in `artifact`."""
        detector = network(self.model, artifact).build(num_classes)
        load_weights(detector, artifact.path("weights.safetensors"))
        return detector


def network(model: Model | Design, artifact: Artifact | None) -> Model:
    """The model, as `artifact` tells where a job designs it."""
    if isinstance(model, Model):
        return model
    assert artifact is not None, "a design is an input"
    return model.network(artifact)


DETECTIONS = "detections.safetensors"


class Detecting(Judgement):
    """Detections of one split. Leaves `detections.safetensors`."""

    data: DetectionData


class Predict(Detecting, Evaluation):
    """Let a trained detector detect."""

    verb: ClassVar[str] = "predict"

    train: Train
    input: Input
    post: PostProcess
    testing: Testing | None = None

    def judge(self, network: Detector, data: DetectionSet, context: Context, how: Pass) -> None:
        """Detect, as the detector is tested."""
        batches = EvalBatches(data, self.input, self.batch, context.cache)
        predict(tested(network, self.testing), batches, data, self.post, context, how)


def found(artifact: Artifact) -> Found:
    """The detections that were left."""
    return Found.load(artifact.path(DETECTIONS))


def tested(detector: Detector, testing: Testing | None) -> Detector:
    """The trained detector as it is tested."""
    return detector if testing is None else testing.wrap(detector)


class Score(Scoring):
    """Score saved detections: what the metric gives, and the number of each class by the name of a column of its own,
    `AP50/aeroplane`."""

    version: ClassVar[int] = 3

    predict: Detecting
    metric: Metric

    @property
    @override
    def decisive(self) -> str:
        return self.metric.of_classes

    @override
    def require(self) -> None:
        data = opened(self.predict.data)
        if data.crowd.all():
            raise InputError(f"{data.name}: none of its {len(data)} images has a box to score; choose another split")

    def scores(self, kept: Artifact) -> Mapping[str, Json]:
        """Read the ground truth, and let the metric count."""
        scores = self.metric.score(self.predict.data.open(), found(kept))
        classes = scores.get("per_class")
        assert isinstance(classes, Mapping)
        return scores | columns_of_classes(classes, self.metric.of_classes)


class Submit(Job):
    """Write detections as a server takes them, whose truth is not here. Leaves `to.product`, of which the user is
    told, and how many detections there are."""

    on_device: ClassVar[bool] = False

    predict: Predict
    to: Submission

    @property
    @override
    def label(self) -> str:
        return f"submission seed {self.predict.train.seed}"

    @property
    def product(self) -> str:
        """As the submission calls it."""
        return self.to.product

    def do(self, context: Context) -> None:
        """Read, convert, write."""
        detections = found(context.inputs["predict"])
        self.to.write(self.predict.data.open(), detections, context.folder / self.product)
        context.write_metrics({"submitted": len(detections)})


class Resample(Resampling):
    """By the metric."""

    predict: Detecting
    metric: Metric

    def values(self, kept: Artifact) -> Floats:
        """Read the ground truth, and let the metric draw."""
        values = self.metric.drawn(self.predict.data.open(), found(kept), self.column)
        assert values is not None, "one of its paired columns"
        return values


class DetectorCost(Cost):
    """Count what a detector costs, as it is tested on one image."""

    model: Model | Design
    testing: Testing | None = None

    def counted(self, inputs: Mapping[str, Artifact]) -> dict[str, int | None]:
        """parameters, macs, anchors."""
        import torch

        from benchsuite.models.cost import macs, parameters

        with torch.device("meta"):
            detector = tested(network(self.model, inputs.get("model")).build(self.classes), self.testing).eval()
            image = torch.empty(1, 3, *self.frame)
        return {
            "parameters": parameters(detector),
            "macs": macs(detector, image),
            "anchors": detector.anchor_count(image),
        }


class Time(Job):
    """Time a trained detector on images of a split, on this device. Leaves what `time_detector` does."""

    device_bound: ClassVar[bool] = True
    measures: ClassVar[tuple[str, ...]] = ("forward_ms", "forward_s", "latency_ms", "latency_s", "fps")

    train: Train
    data: DetectionData
    input: Input
    post: PostProcess
    timing: Timing
    device: str
    testing: Testing | None = None

    @property
    @override
    def label(self) -> str:
        return f"time seed {self.train.seed}"

    @override
    def require(self) -> None:
        self._fits(opened(self.data))

    def _fits(self, data: DetectionSet) -> None:
        if len(data) < self.timing.batch:
            raise InputError(f"{data.name}: has {len(data)} images; lower timing.batch, which is {self.timing.batch}")

    def do(self, context: Context) -> None:
        """Load the weights and measure. BenchError on another device than the one that the key names."""
        here = device_name(context.device)
        if here != self.device:
            raise BenchError(f"timing: planned for {self.device}, but this is {here}; plan with the device to run on")
        data = self.data.open()
        self._fits(data)
        detector = tested(self.train.trained(len(data.classes), context.inputs["train"]), self.testing)
        batches = EvalBatches(data, self.input, self.timing.batch, context.cache)
        whole = min(self.timing.repeats, len(data) // self.timing.batch)
        time_detector(detector, [batches[number] for number in range(whole)], self.post, self.timing, context)


class Detection(Pipeline):
    """Train → Predict → Score, Submit where the truth is a server's, and Cost and Time where a column asks for them."""

    data: DetectionSplits
    input: Input
    augment: tuple[Augment, ...] = ()
    model: Model
    solver: Solver
    post: PostProcess = PostProcess()
    eval_batch: int = Field(1, ge=1)
    metric: Metric
    timing: Timing = Timing()
    testing: Testing | None = None
    submit: Submission | None = None

    @property
    def protocol(self) -> str:
        """The metric's."""
        return self.metric.protocol

    def network(self, seed: int) -> Model | Design:
        """What is trained, tested and counted: a model, or the job that finds it out."""
        return self.model

    def fit(self, seed: int) -> Train:
        """The training of one seed."""
        return self.training(seed)

    def training(self, seed: int, kind: type[Train] = Train, **changes: Any) -> Train:
        """The training of one seed, with `changes` of its settings; InputError for a model of masks without any."""
        data = self.data.cut("train")
        if self.model.masks:
            require_masks(data)
        settings: dict[str, Any] = {
            "data": data,
            "input": self.input,
            "augment": self.augment,
            "solver": self.solver,
            "seed": seed,
        }
        if "model" not in changes:
            settings["model"] = self.network(seed)
        return kind(**settings | changes)

    @once
    def predict(self, seed: int) -> Predict:
        """The row's detections for one seed."""
        return self.predict_on(self.data.cut("val"), seed)

    def predict_on(self, data: DetectionData, seed: int) -> Predict:
        """The detections on a split for one seed; InputError where its classes are not those trained on."""
        fit = self.fit(seed)
        require_same_classes(fit.data, data)
        batch = 1 if self.testing else self.eval_batch
        return Predict(train=fit, data=data, input=self.seen, post=self.post, batch=batch, testing=self.testing)

    @property
    def seen(self) -> Input:
        """The images that the trained detector is tested on."""
        return self.input if self.testing is None else self.testing.input

    def jobs(self, seed: int, device: str) -> Mapping[str, Job]:
        """Score, submission, cost and latency. InputError where there is neither truth to score with nor a submission,
        or no masks for a metric of masks."""
        seen = self.predict(seed)
        jobs: dict[str, Job] = {"cost": self.cost(seed), "time": self.time(seen, device)}
        if seen.data.annotated:
            self._require_scored_masks(seen.data)
            jobs["score"] = Score(predict=seen, metric=self.metric)
        elif self.submit is None:
            raise InputError(
                f"data: {seen.data.name} has no ground truth to score with; choose another val, or `submit` to a server"
            )
        if self.submit is not None:
            sent = seen if self.submit.data is None else self.predict_on(self.submit.data, seed)
            jobs["submission"] = Submit(predict=sent, to=self.submit)
        return jobs

    def _require_scored_masks(self, data: DetectionData) -> None:
        if self.metric.masks:
            require_masks(data)
            if not self.model.masks:
                raise InputError(
                    f"metric: {self.metric.kind()} scores masks, and {self.model.kind()} finds boxes only; choose "
                    "another metric or model"
                )

    def time(self, seen: Predict, device: str) -> Time:
        """How long the detector that makes these detections takes."""
        return Time(
            train=seen.train,
            data=seen.data,
            input=seen.input,
            post=seen.post,
            timing=self.timing,
            device=device,
            testing=seen.testing,
        )

    def cost(self, seed: int) -> DetectorCost:
        """What the network costs at the usual padded input."""
        classes, frame = self.data.val.num_classes, self.seen.frame
        return DetectorCost(model=self.network(seed), classes=classes, frame=frame, testing=self.testing)

    def difference(self, other: Pipeline, seed: int, number: str) -> Job | None:
        """A bootstrap over images, where the metric offers one."""
        if not isinstance(other, Detection) or number not in self.metric.paired_columns:
            return None
        drawn = (Resample(predict=row.predict(seed), metric=self.metric, column=number) for row in (self, other))
        return Difference(**dict(zip(("first", "second"), drawn, strict=True)))
