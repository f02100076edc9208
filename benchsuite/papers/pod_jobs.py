"""POD's experiments (Peng et al., arXiv 1909.02225, sections 3 and 4): a training with learnt scales (GSL), their means
over images, the dilations these are decomposed to, and a training of the network that has them (FD).

    sec. 3.1, last sentence; 4.4    Scales
    sec. 3.2                        Decompose
    sec. 3.3, 4.1                   an FD network is trained from ImageNet, or from the GSL network (WT): Transfer
    tables 1, 2, 4, 5               Plain, Gsl, Fd
    table 3, fig. 6                 Distribution

A job of an FD network is keyed by the job that will make its dilations, so that all is planned before anything runs.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.utils.data import Subset
from typing_extensions import override

from benchsuite.data.batch import Batch
from benchsuite.data.batches import EvalBatches
from benchsuite.data.dataset import DetectionData, DetectionSet
from benchsuite.data.split import opened
from benchsuite.data.transforms import Augment, Input
from benchsuite.engine.job import Artifact, Context, Job
from benchsuite.errors import InputError
from benchsuite.loops import checkpoint
from benchsuite.loops.evaluate import evaluate
from benchsuite.loops.solver import Solver
from benchsuite.models.detector import Detector, Edit, Model
from benchsuite.models.postprocess import PostProcess
from benchsuite.models.resnet import Pretrained
from benchsuite.papers import pod
from benchsuite.papers.pod_decompose import Dilations, decompose_all
from benchsuite.pipelines.detection import Design, Detection, Train
from benchsuite.pipelines.pipeline import Pipeline
from benchsuite.pipelines.steps import passing
from benchsuite.settings import Json, Settings


def edited(model: Model, edit: Edit) -> Model:
    """The model with one more edit of its backbone; InputError for a backbone that takes none."""
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, Pretrained):
        raise InputError(f"model: {model.kind()} has no backbone that can be edited; use one with resnet.ResNet")
    return model.changed(backbone=backbone.changed(edits=(*(backbone.edits or ()), edit)))


def learners(detector: Detector) -> dict[str, pod.GslConv]:
    """The convolutions of a detector that learn a scale, by layer."""
    return {module.name: module for module in detector.modules() if isinstance(module, pod.GslConv)}


# --- jobs


class Scales(Job):
    """Measure the scales that a GSL network predicts, image by image, without flip ("we randomly sample 500+ images").

    Leaves `scales.safetensors`, float64 [images, layers, 2], and `metrics.json`: mean and population deviation over the
    images of each layer and direction, `R31_h` and `R31_h_std`.
    """

    train: Train
    data: DetectionData
    input: Input
    images: PositiveInt
    seed: int = 0

    @property
    @override
    def label(self) -> str:
        return f"scales of {self.images} images seed {self.train.seed}"

    @override
    def require(self) -> None:
        self._fits(opened(self.data))

    def _fits(self, data: DetectionSet) -> None:
        if self.images > len(data):
            raise InputError(f"{data.name}: has {len(data)} images, scales of {self.images} are asked for; "
                             "lower measure.images")  # fmt: skip

    def do(self, context: Context) -> None:
        """Run over images drawn from `seed`, one at a time: padding to a batch would be averaged too."""
        data = self.data.open()
        self._fits(data)
        chosen = np.sort(np.random.default_rng(self.seed).choice(len(data), self.images, replace=False))
        detector = self.train.trained(len(data.classes), context.inputs["train"])
        convs = learners(detector)
        if not convs:
            raise InputError("scales: this model learns none; train one with the edit pod.Gsl")

        def run(batch: Batch) -> None:
            detector.detect(batch, PostProcess())

        def keep(batch: Batch, _: None) -> Tensor:
            return torch.cat([conv.scales for conv in convs.values() if conv.scales is not None]).double()

        images = Subset(EvalBatches(data, self.input, 1, context.cache), chosen.tolist())
        how = passing(self.train.solver, context)
        rows = evaluate(detector, images, run, keep, context, "measuring scales", "lower the input size", how)
        scales = torch.stack(rows).cpu()
        known: dict[str, Json] = {
            "layers": list(convs),
            "channels": {name: conv.weight.shape[0] for name, conv in convs.items()},
            "train": context.inputs["train"].key,
        }
        checkpoint.save(context.folder / "scales.safetensors", {"scales": scales}, known)
        context.write_metrics({"images": self.images, **spread(list(convs), scales)})


def spread(layers: list[str], scales: Tensor) -> dict[str, float]:
    """Mean and population deviation over the images of scales [images, layers, 2], by layer and direction."""
    means, deviations = scales.mean(0).tolist(), scales.std(0, correction=0).tolist()
    found: dict[str, float] = {}
    for layer, mean, deviation in zip(layers, means, deviations, strict=True):
        for direction, middle, width in zip("hw", mean, deviation, strict=True):
            found |= {f"{layer}_{direction}": middle, f"{layer}_{direction}_std": width}
    return found


class LayerScales(Job):
    """One direction of measured scales as a row of Table 3. Leaves `metrics.json`: mean `R31` and deviation `R31_std`
    over the images, for each layer."""

    on_device: ClassVar[bool] = False

    scales: Scales
    direction: Literal["h", "w"]

    @property
    @override
    def label(self) -> str:
        return f"pick scales in {self.direction} seed {self.scales.train.seed}"

    def do(self, context: Context) -> None:
        """Pick them out."""
        found = context.inputs["scales"].metrics
        mark = f"_{self.direction}"
        context.write_metrics({name.replace(mark, ""): value for name, value in found.items() if mark in name})


class Decompose(Design):
    """Decompose the means of measured scales, in full precision, to the FD network of `model`. Leaves `dilations.json`.

    reduce  see pod.Fd
    """

    on_device: ClassVar[bool] = False

    file: ClassVar[str] = "dilations.json"
    adjective: ClassVar[str] = "FD"

    scales: Scales
    reduce: pod.Reduce = "centre"

    @property
    @override
    def label(self) -> str:
        return f"decompose seed {self.scales.train.seed}"

    def do(self, context: Context) -> None:
        """Sec. 3.2, layer by layer. InputError where a scale is negative or not a number."""
        means, channels = mean_scales(context.inputs["scales"])
        decompose_all(means, channels).save(context.folder / self.file)

    def network(self, artifact: Artifact) -> Model:
        """The FD network; InputError where the dilations cannot be read."""
        return edited(self.model, pod.Fd(dilations=Dilations.load(artifact.path(self.file)), reduce=self.reduce))


def mean_scales(measured: Artifact) -> tuple[dict[str, tuple[float, float]], dict[str, int]]:
    """Mean (d_h, d_w) and output channels of each layer, from what `Scales` left."""
    file = measured.path("scales.safetensors")
    tensors, state = checkpoint.load(file, f"delete {measured.folder} and run again")
    channels = state["channels"]
    assert isinstance(channels, Mapping)
    means = {name: (float(h), float(w)) for name, (h, w) in zip(channels, tensors["scales"].mean(0), strict=True)}
    return means, {name: int(str(count)) for name, count in channels.items()}


class Transfer(Train):
    """Train an FD network from the weights of the network whose scales it has (FD-WT)."""

    gsl: Train

    @property
    @override
    def label(self) -> str:
        return f"train FD-WT seed {self.seed}"

    def build(self, num_classes: int, context: Context) -> Detector:
        """The FD network with weights cut from the other's; InputError where they are of another model."""
        detector = super().build(num_classes, context)
        file = context.inputs["gsl"].path("weights.safetensors")
        cure = "take the weights of the GSL network whose scales were decomposed"
        tensors, _ = checkpoint.load(file, cure)
        checkpoint.fill(detector, pod.transfer(detector, tensors), file, cure)
        return detector


# --- rows


class Measure(Settings):
    """Of how many images the scales are averaged, and the seed that draws them."""

    images: PositiveInt = 512
    seed: int = 0


class Plain(Detection):
    """A baseline. `solver` is the 1× schedule, in all rows; `schedule` how many times as long this row trains.

    gsl, measure  how scales are learnt and measured, in the rows that do
    """

    schedule: Annotated[float, Field(gt=0)] = 1
    gsl: pod.Gsl = pod.Gsl()
    measure: Measure = Measure()

    @override
    def fit(self, seed: int) -> Train:
        return self.training(seed, solver=stretched(self.solver, self.schedule))

    def learn(self, seed: int) -> Train:
        """The training that learns the scales, 1×."""
        return self.training(seed, model=edited(self.model, self.gsl))

    def scales(self, seed: int, split: str = "train") -> Scales:
        """What is measured of it on a split."""
        images, drawn = self.measure.images, self.measure.seed
        return Scales(train=self.learn(seed), data=self.data.cut(split), input=self.input, images=images, seed=drawn)


def stretched(solver: Solver, times: float) -> Solver:
    """The schedule `times` as long, its warm-up as it was; half an iteration is rounded up."""
    iterations, *drops = (math.floor(times * count + 0.5) for count in (solver.iterations, *solver.drops))
    return solver.changed(iterations=iterations, drops=drops)


class Gsl(Plain):
    """A network with learnt scales, tested as it was trained."""

    def network(self, seed: int) -> Model:
        """With a predictor of scales at each 3×3."""
        return edited(self.model, self.gsl)


class Distribution(Gsl):
    """The learnt scales of a GSL network themselves, in one direction, over images of one split (Table 3)."""

    direction: Literal["h", "w"]
    split: Literal["train", "val"] = "train"

    @property
    def protocol(self) -> str:
        """No detections are scored."""
        return "learnt scales"

    def jobs(self, seed: int, device: str) -> Mapping[str, Job]:
        """The means."""
        return {"scales": LayerScales(scales=self.scales(seed, self.split), direction=self.direction)}

    def difference(self, other: Pipeline, seed: int, number: str) -> Job | None:
        """None: deviations over images are columns of their own."""
        return None


class Fd(Plain):
    """A fast-deployment network: learn scales, measure, decompose, train the decomposed network.

    weights           what it starts from: `pretrained`, as the baseline does, or `gsl` (WT)
    reduce            see pod.Fd
    finetune_augment  changes of its training images, where they are others than the GSL network's
    """

    weights: Literal["pretrained", "gsl"] = "pretrained"
    reduce: pod.Reduce = "centre"
    finetune_augment: tuple[Augment, ...] | None = None

    def network(self, seed: int) -> Decompose:
        """Known once the scales are."""
        return Decompose(model=self.model, scales=self.scales(seed), reduce=self.reduce)

    def fit(self, seed: int) -> Train:
        """The second training."""
        augment = self.augment if self.finetune_augment is None else self.finetune_augment
        changes: dict[str, Any] = {"solver": stretched(self.solver, self.schedule), "augment": augment}
        if self.weights == "pretrained":
            return self.training(seed, **changes)
        return self.training(seed, Transfer, gsl=self.learn(seed), **changes)
