"""Tables of image classification: train a classifier, let it classify a split, count; and what the model costs."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from safetensors.numpy import load_file
from typing_extensions import override

from benchsuite.data.class_batches import BatchAugment, ClassBatches, EvalClassBatches, View
from benchsuite.data.classification import ClassificationData, ClassificationSet, ClassificationSplits
from benchsuite.data.locate import open_class_folder
from benchsuite.data.split import require_same_classes
from benchsuite.engine.job import Artifact, Context, Job
from benchsuite.loops.checkpoint import load_weights
from benchsuite.loops.classify import classify
from benchsuite.loops.evaluate import Pass
from benchsuite.loops.solver import Solver
from benchsuite.metrics.classification import PROTOCOL, drawn, ranks, top_k
from benchsuite.metrics.judged import Floats
from benchsuite.models.classifier import Classifier, LinearClassifier
from benchsuite.pipelines.cost import Cost
from benchsuite.pipelines.pipeline import Pipeline
from benchsuite.pipelines.steps import Difference, Evaluation, Resampling, Scoring, Training
from benchsuite.settings import Json, Settings, once

Column = Literal["top1", "top5", "top1_error", "top5_error"]
COLUMNS: Mapping[Column, int] = {"top1": 1, "top5": 5, "top1_error": 1, "top5_error": 5}
PTFLOPS_SIDE = 224


class TrainClassifier(Training):
    """Train a classifier."""

    data: ClassificationData
    view: View
    augment: tuple[BatchAugment, ...] = ()
    model: LinearClassifier

    def build(self, num_classes: int, context: Context) -> Classifier:
        """The classifier as its training starts."""
        return self.model.build(num_classes)

    @property
    @override
    def frame(self) -> tuple[int, int]:
        return self.view.side, self.view.side

    @property
    @override
    def one_frame(self) -> bool:
        return True

    @override
    def blank(self, num_classes: int) -> Classifier:
        return self.model.build(num_classes)

    def batches(self, data: ClassificationSet, context: Context) -> ClassBatches:
        """In the view of training."""
        return ClassBatches(data, self.view, self.augment, self.solver.batch, self.seed, self.solver.iterations)

    def trained(self, num_classes: int, artifact: Artifact) -> Classifier:
        """The classifier that this training left in `artifact`."""
        classifier = self.model.build(num_classes)
        load_weights(classifier, artifact.path("weights.safetensors"))
        return classifier


class Classify(Evaluation):
    """Let a trained classifier judge. Leaves `logits.safetensors`."""

    verb: ClassVar[str] = "classify"

    train: TrainClassifier
    data: ClassificationData
    view: View

    def judge(self, network: Classifier, data: ClassificationSet, context: Context, how: Pass) -> None:
        """In the view of testing."""
        classify(network, EvalClassBatches(data, self.view, self.batch), context, how)


class ScoreClasses(Scoring):
    """Count the images whose class is the best, or among the best five: `top1`, `top5` and their errors, without `top5`
    where there are fewer classes."""

    predict: Classify

    @property
    @override
    def decisive(self) -> str:
        return "top1"

    def scores(self, kept: Artifact) -> Mapping[str, Json]:
        """Of the logits."""
        logits, labels = _judged(kept)
        return top_k(logits, labels, [k for k in (1, 5) if k <= logits.shape[1]])


class ResampleClasses(Resampling):
    """Of top-1, top-5 or their errors."""

    predict: Classify
    column: Column

    def values(self, kept: Artifact) -> Floats:
        """Of the places that the true classes have."""
        accuracy = drawn(ranks(*_judged(kept)), COLUMNS[self.column])
        return 100 - accuracy if self.column.endswith("_error") else accuracy


def _judged(artifact: Artifact) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    held = load_file(artifact.path("logits.safetensors"))
    return held["logits"], held["labels"]


class ClassifierCost(Cost):
    """Count what a classifier costs. Leaves also gmac_ptflops_224, MACs at 224×224 as the tool ptflops counts them
    (`models.cost.ptflops_macs`), in units of 10^9."""

    measures: ClassVar[tuple[str, ...]] = (*Cost.measures, "gmac_ptflops_224")

    model: LinearClassifier

    def counted(self, inputs: Mapping[str, Artifact]) -> dict[str, int | None]:
        """parameters, macs, macs_ptflops_224; there are no anchors."""
        import torch

        from benchsuite.models.cost import macs, parameters, ptflops_macs

        with torch.device("meta"):
            classifier = self.model.build(self.classes)
            image = torch.empty(1, 3, *self.frame)
            large = torch.empty(1, 3, PTFLOPS_SIDE, PTFLOPS_SIDE)
        return {
            "parameters": parameters(classifier),
            "macs": macs(classifier, image),
            "macs_ptflops_224": ptflops_macs(classifier, large),
            "anchors": None,
        }


class Classification(Pipeline):
    """TrainClassifier → Classify → ScoreClasses, and ClassifierCost where a column asks for it.

    input        how images are shown when the classifier is tested, and when it is trained unless `train_input` says
    augment      random changes of training batches
    """

    data: ClassificationSplits
    input: View
    train_input: View | None = None
    augment: tuple[BatchAugment, ...] = ()
    model: LinearClassifier
    solver: Solver
    eval_batch: int = Field(128, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.input.random:
            raise ValueError(
                f"input '{self.input.kind()}' is random; give it as train_input, and input one that is not"
            )
        if self.train_input is not None and self.train_input.side != self.input.side:
            sides = f"{self.train_input.side} and input {self.input.side}"
            raise ValueError(f"train_input has side {sides}; give both the same")
        return self

    @classmethod
    def splits_of(cls, folder: Path) -> Mapping[str, Settings]:
        """CIFAR-100's layout, or one folder a class."""
        return dict(zip(("train", "val"), open_class_folder(folder), strict=True))

    @property
    def protocol(self) -> str:
        """Top-1 and top-5."""
        return PROTOCOL

    def fit(self, seed: int) -> TrainClassifier:
        """The training of one seed."""
        return TrainClassifier(
            data=self.data.cut("train"),
            view=self.train_input or self.input,
            augment=self.augment,
            model=self.model,
            solver=self.solver,
            seed=seed,
        )

    @once
    def classify(self, seed: int) -> Classify:
        """The judgement of one seed; InputError where the classes of val are not those trained on."""
        fit, val = self.fit(seed), self.data.cut("val")
        require_same_classes(fit.data, val)
        return Classify(train=fit, data=val, view=self.input, batch=self.eval_batch)

    def cost(self, seed: int) -> ClassifierCost:
        """What the model costs, which is the same for all seeds."""
        side = self.input.side
        return ClassifierCost(model=self.model, classes=self.data.val.num_classes, frame=(side, side))

    def jobs(self, seed: int, device: str) -> Mapping[str, Job]:
        """The score and the cost."""
        return {"score": ScoreClasses(predict=self.classify(seed)), "cost": self.cost(seed)}

    def difference(self, other: Pipeline, seed: int, number: str) -> Job | None:
        """A bootstrap over images, on the measured columns."""
        if not isinstance(other, Classification) or number not in COLUMNS:
            return None
        sides = (ResampleClasses(predict=row.classify(seed), column=number) for row in (self, other))
        return Difference(**dict(zip(("first", "second"), sides, strict=True)))
