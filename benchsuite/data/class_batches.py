"""From an opened classification split to batches: `batches[i]` is a pure function of (seed, i), on any number of
workers.

An image as read becomes a square of the network's size by a `View`; random changes of whole batches (`BatchAugment`)
follow. What they draw is a function of (seed, epoch, index), whatever else is in the batch.
"""

from abc import abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset
from torchvision.transforms import v2

from benchsuite.data.batch import ImageBatch, Share
from benchsuite.data.classification import ClassificationSet
from benchsuite.data.transforms import Side, as_tensor, mixed, sample_rng
from benchsuite.errors import InputError
from benchsuite.settings import Part


@dataclass(frozen=True)
class ClassBatch(ImageBatch):
    """B images of one size.

    images  uint8 [B, 3, side, side], RGB
    labels  int64 [B], 0-based class
    """

    labels: Tensor


class View(Part):
    """Slot: how an image as read becomes a square of `side` pixels. A `random` one is for training only."""

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.data",)
    random: ClassVar[bool] = False
    side: Side

    @abstractmethod
    def build(self) -> v2.Transform:
        """A transform of uint8 [..., 3, H, W] to [..., 3, side, side]."""


class Whole(View):
    """The whole image, warped to the square; one of that size stays as it is."""

    def build(self) -> v2.Transform:
        """torchvision's resize, bilinear with antialias."""
        return v2.Resize([self.side, self.side], antialias=True)


class CentreCrop(View):
    """The short side becomes `short` pixels, then the middle is cut out: ImageNet's usual test, 224 of 256."""

    short: Side

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if self.side > self.short:
            raise ValueError(f"side {self.side} does not fit into the short side of {self.short}; make it at most that")
        return self

    def build(self) -> v2.Transform:
        """torchvision's resize and crop."""
        return v2.Compose([v2.Resize(self.short, antialias=True), v2.CenterCrop(self.side)])


class RandomResizedCrop(View):
    """A part of the image, warped to the square: a share of its area from U(`smallest`, 1), of a ratio of width to
    height whose logarithm is even over 3/4 to 4/3 (Szegedy et al. 2015, section 6)."""

    random: ClassVar[bool] = True
    smallest: float = Field(0.08, gt=0, le=1)

    def build(self) -> v2.Transform:
        """torchvision's."""
        return v2.RandomResizedCrop(self.side, scale=(self.smallest, 1.0), antialias=True)


class BatchAugment(Part):
    """Slot: one random change of all images of a batch, decided by `draws` numbers in [0, 1) for each."""

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.data",)
    draws: ClassVar[int]

    @abstractmethod
    def apply(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Images [B, 3, H, W] changed as the numbers [B, draws] say; of the same shape."""


class PadCrop(BatchAugment):
    """Moves the image by up to `pad` pixels in each direction; what comes in is black (He et al. 2016, section 4.2)."""

    draws: ClassVar[int] = 2
    pad: int = Field(4, ge=1)

    def apply(self, images: Tensor, numbers: Tensor) -> Tensor:
        """One window of the padded image, all (2 · pad + 1)² of them equally likely."""
        height, width = images.shape[-2:]
        padded = functional.pad(images, [self.pad] * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # [B, 3, 2 · pad + 1, 2 · pad + 1, H, W], a view
        down, right = (numbers * (2 * self.pad + 1)).long().unbind(1)
        return windows[torch.arange(len(images)), :, down, right]


class BatchFlip(BatchAugment):
    """Mirrors left and right with probability `p`."""

    draws: ClassVar[int] = 1
    p: float = Field(0.5, ge=0, le=1)

    def apply(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Mirrored where the number is below `p`."""
        return torch.where((numbers < self.p)[:, :, None, None], images.flip(3), images)


class Views:
    """Images of a split as a `View` shows them."""

    def __init__(self, data: ClassificationSet, view: View) -> None:
        self.data, self.view, self.transform = data, view, view.build()
        self.labels = torch.from_numpy(data.labels)

    def __call__(self, indices: NDArray[np.int64], seed: int, epoch: int) -> Tensor:
        """uint8 [B, 3, side, side]; what a random view draws depends on (seed, epoch, index)."""
        held = self.data.images
        if isinstance(held, np.ndarray) and not self.view.random:  # all of one size, so all at once
            shown: Tensor = self.transform(torch.from_numpy(held[indices]).permute(0, 3, 1, 2))
            return shown
        return torch.stack([self._one(int(index), seed, epoch) for index in indices])

    def _one(self, index: int, seed: int, epoch: int) -> Tensor:
        image = as_tensor(self.data.read(index))
        if not self.view.random:
            return self.transform(image)  # type: ignore[no-any-return]  # torchvision is untyped
        with sample_rng(seed, epoch, index):
            return self.transform(image)  # type: ignore[no-any-return]


class ClassBatches(Dataset[ClassBatch]):
    """`iterations` training batches of at most `batch` images.

    An epoch is a permutation drawn from (seed, epoch), cut into as few batches as that allows, none of which differs
    from another by more than one image: every epoch shows every image once, and none is left over for a batch that
    BatchNorm could make no statistics of. 200 epochs of CIFAR-100 in batches of 128 are 78,200 iterations.
    """

    def __init__(
        self,
        data: ClassificationSet,
        view: View,
        augment: Sequence[BatchAugment],
        batch: int,
        seed: int,
        iterations: int,
    ) -> None:
        if not len(data):
            raise InputError(f"{data.name}: it has no images to train on; choose another split")
        self.views, self.augment, self.seed, self.iterations = Views(data, view), augment, seed, iterations
        self.images, self.per_epoch = len(data), -(-len(data) // batch)
        self.share = Share()
        self._drawn: tuple[int, NDArray[np.int64], Tensor] | None = None

    def __len__(self) -> int:
        return self.iterations

    def shared(self, share: Share) -> Self:
        """The same batches, of each the images of a share alone."""
        part = copy(self)
        part.share = share
        return part

    def drawn(self, epoch: int) -> tuple[NDArray[np.int64], Tensor]:
        """The epoch's order of images, int64 [N], and of each image the numbers that augmentation uses, [N, draws]."""
        if self._drawn is None or self._drawn[0] != epoch:
            generator = torch.Generator().manual_seed(mixed(self.seed, epoch))
            order = torch.randperm(self.images, generator=generator).numpy()
            numbers = torch.rand(self.images, sum(each.draws for each in self.augment), generator=generator)
            self._drawn = epoch, order, numbers
        return self._drawn[1:]

    def __getitem__(self, iteration: int) -> ClassBatch:
        if not 0 <= iteration < self.iterations:
            raise IndexError(f"iteration {iteration} of {self.iterations}")
        epoch, step = divmod(iteration, self.per_epoch)
        order, numbers = self.drawn(epoch)
        chosen = order[step * self.images // self.per_epoch : (step + 1) * self.images // self.per_epoch]
        chosen = chosen[self.share.rows(len(chosen))]
        images = self.views(chosen, self.seed, epoch)
        used = 0
        for augment in self.augment:
            images = augment.apply(images, numbers[chosen, used : used + augment.draws])
            used += augment.draws
        return ClassBatch(images, self.views.labels[chosen])


class EvalClassBatches(Dataset[ClassBatch]):
    """All images in their order, `batch` at a time, the last batch as short as need be; nothing random."""

    def __init__(self, data: ClassificationSet, view: View, batch: int) -> None:
        self.views, self.batch, self.images = Views(data, view), batch, len(data)

    def __len__(self) -> int:
        return -(-self.images // self.batch)

    def __getitem__(self, step: int) -> ClassBatch:
        if not 0 <= step < len(self):
            raise IndexError(f"batch {step} of {len(self)}")
        indices = np.arange(step * self.batch, min((step + 1) * self.batch, self.images))
        return ClassBatch(self.views(indices, 0, 0), self.views.labels[indices])
