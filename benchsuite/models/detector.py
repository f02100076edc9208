"""The contracts between networks and the loops that train them and let them predict."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Generic, Self, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from benchsuite.data.batch import Batch, Detections, ImageBatch
from benchsuite.data.transforms import Input
from benchsuite.models.postprocess import Candidates, PostProcess, select
from benchsuite.models.weights import hash_of, load_into, read, sha256
from benchsuite.settings import Json, Part

B = TypeVar("B", bound=ImageBatch)


class Trainable(nn.Module, ABC, Generic[B]):
    """A network that knows its losses on batches of one kind.

    A module within it may have `lr_factor` and `decay_factor`, numbers that the learning rate and the weight decay of
    its own parameters are multiplied by, `is_norm = True` where it is a norm torch does not know (`Solver.norm_decay`),
    `recomputed = True` where it keeps much for its backward pass that is quickly made again (`models.recompute`), and
    `observe() -> dict[str, Tensor | float]`, scalars that the training log keeps: it is asked after every step, and a
    line has the mean.
    """

    @abstractmethod
    def losses(self, batch: B) -> dict[str, Tensor]:
        """Scalar losses by name; their sum is minimised."""

    def static_parts(self) -> list[nn.Module]:
        """The parts whose work hangs on the frame of a batch alone, not on what is seen: good for a compiler."""
        parts = (getattr(self, name, None) for name in ("backbone", "neck", "head"))
        return [part for part in parts if isinstance(part, nn.Module)]

    def imagined(self, images: Tensor) -> Tensor:
        """Of normalised images [B, 3, H, W] on the meta device: a scalar that takes as much memory as the losses of
        such images. Of a network that looks at numbers to tell shapes, a stand-in with the most there can be."""
        found = [each.float().sum() for each in tree_leaves(self(images))]
        return torch.stack(found).sum()


class Detector(Trainable[Batch]):
    """A detector for K foreground classes (background is not counted). Its `forward` maps normalised images
    [B, 3, H, W] to raw predictions: the part of the work that costs are counted on."""

    normalised: nn.Module

    def images(self, batch: Batch) -> Tensor:
        """The normalised images of a batch, as `forward` takes them."""
        images: Tensor = self.normalised(batch)
        return images

    def anchor_count(self, images: Tensor) -> int | None:
        """How many anchors normalised images [B, 3, H, W] get, each; None for a detector without anchors."""
        return None

    @abstractmethod
    def candidates(self, batch: Batch, post: PostProcess) -> Candidates:
        """Scored boxes, before any is suppressed; the batch's boxes and labels are not looked at. Their number and
        shape hang on the batch's frame alone, so that an exporter can follow. Of `post` only what spares work counts:
        `per_level`."""

    def detect(self, batch: Batch, post: PostProcess) -> Detections:
        """Detections in pixels of the resized images: the best candidates, and what a detector finds beside boxes."""
        return select(self.candidates(batch, post), post)


class Model(Part):
    """Slot: settings of a whole detector. `masks`: it learns and finds masks too, and its batches need them.

    weights_file  one's own weights that its training starts from, backbone and heads: tensors by the detector's names
                  (as `weights.safetensors` of a training in the store), as .safetensors or a torch file of tensors
                  alone; its hash is in the key, its place is not
    """

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.models", "benchsuite.papers")
    masks: ClassVar[bool] = False

    weights_file: Path | None = Field(None, exclude=True)

    def identity(self) -> Json:
        """First digits of the SHA-256 of `weights_file`, `absent` where it is not here; None without one."""
        return None if self.weights_file is None else hash_of(self.weights_file)

    def require(self) -> None:
        """MissingData if `weights_file` is not on this machine."""
        if self.weights_file is not None:
            sha256(self.weights_file)

    def deviations(self) -> tuple[str, ...]:
        """That it starts from the user's own weights."""
        return (
            () if self.weights_file is None else (f"detector from the user's own weights, SHA-256 {self.identity()}",)
        )

    def start(self, detector: Detector) -> None:
        """Copy `weights_file` into a detector as it was built. InputError where it is not of this detector."""
        if self.weights_file is not None:
            load_into(detector, read(self.weights_file), self.weights_file)

    @abstractmethod
    def build(self, num_classes: int) -> Detector:
        """Build it for `num_classes` foreground classes, weights drawn from the global torch generator."""


class Testing(Part):
    """Slot: how a trained detector is tested, where that is more than a pass over images of the training's size."""

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.models", "benchsuite.papers")

    @property
    @abstractmethod
    def input(self) -> Input:
        """The images it wants, one at a time."""

    @abstractmethod
    def wrap(self, detector: Detector) -> Detector:
        """A detector for such images, made of the trained one; it is not trained."""


class Backbone(Part):
    """Slot: settings of a feature extractor. What it builds maps [B, 3, H, W] to maps of falling resolution and has
    `channels` and `strides`, one number a map, and `mean` and `std` of the input in 0..1."""

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.models", "benchsuite.papers")

    @abstractmethod
    def build(self) -> nn.Module:
        """Build it, load weights, edit, freeze: in this order."""


class Features(nn.Module):
    """A backbone at work: [B, 3, H, W] to a list of maps with `channels` and `strides`, one number a map.

    mean, std  of the input in 0..1, per channel, as the weights expect
    frozen     modules that stay in evaluation mode while the rest trains
    added      modules within the frozen ones that train all the same
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __init__(self) -> None:
        super().__init__()
        self.frozen: Sequence[nn.Module] = ()
        self.added: Sequence[nn.Module] = ()

    def train(self, mode: bool = True) -> Self:
        """As everywhere, but frozen modules stay in evaluation mode."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        for module in self.added:
            module.train(mode)
        return self


class Edit(Part):
    """Slot: a change of a backbone that stands for itself, whatever the backbone is: units after blocks, other
    convolutions. Edits come after the weights are loaded and before anything is frozen."""

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.models", "benchsuite.papers")

    @abstractmethod
    def apply(self, features: Features) -> Sequence[nn.Module]:
        """Change `features` in place. What is returned, the modules without pretrained weights, is never frozen.

        InputError where the backbone has no place for it.
        """
