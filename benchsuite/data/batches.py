"""From an opened split to padded batches: `batches[i]` is a pure function of (seed, i), on any number of workers."""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

from benchsuite.data.batch import Batch, ImageBatch, Share
from benchsuite.data.cache import reader
from benchsuite.data.dataset import GRID, DetectionSet
from benchsuite.data.transforms import Augment, BoxMasks, Input, mixed, sample_rng, split_at_resize
from benchsuite.errors import BenchError, InputError

B = TypeVar("B", bound=ImageBatch)


@dataclass(frozen=True)
class Sample:
    """An image uint8 [3, H, W] with boxes float32 [m, 4] in its pixels, labels int64 [m] and, where they are asked for,
    masks bool [m, G, G] in the coordinates of the boxes."""

    image: Tensor
    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None


class Samples:
    """Single images with their trainable boxes, resized and augmented.

    `masks` also gives each box its mask; InputError where the data has none or an augmentation cannot take them along.
    """

    def __init__(
        self, data: DetectionSet, resize: Input, augment: Sequence[Augment], cache: Path | None, masks: bool = False
    ) -> None:
        self.data, self.resize = data, resize
        self.augment = tuple(augment)
        self.before, self.after = split_at_resize(augment)
        if masks and (lost := [part.kind() for part in augment if not part.masks]):
            raise InputError(f"augment: masks cannot follow {lost[0]}; leave it out, or choose a model of boxes")
        self.masks = data.open_masks() if masks else None
        self.read = reader(data, None if self.before else resize, cache)
        self.kept = data.trainable

    def get(self, index: int) -> Sample:
        """Image `index` as the cache holds it, boxes in its pixels."""
        owned = self.data.rows(index)
        rows = np.arange(owned.start, owned.stop)[self.kept[owned]]
        image = self.read(index)
        boxes = torch.from_numpy(self.data.inside(rows)).float()
        labels = torch.from_numpy(self.data.labels[rows])
        masks = None if self.masks is None else torch.from_numpy(self.masks.grids(rows))
        return Sample(image, scaled(boxes, tuple(self.data.sizes[index]), image.shape[-2:]), labels, masks)

    def augmented(self, index: int, seed: int, epoch: int) -> Sample:
        """Image `index` with the random changes of this epoch."""
        sample = self.get(index)
        if not self.before and not self.after:
            return sample
        with sample_rng(seed, epoch, index):
            for transform in self.before:
                sample = _apply(transform, sample)
            if self.before:
                image = self.resize.resize(sample.image)
                boxes = scaled(sample.boxes, sample.image.shape[-2:], image.shape[-2:])
                sample = replace(sample, image=image, boxes=boxes)
            for transform in self.after:
                sample = _apply(transform, sample)
        return sample

    def collate(self, indices: Sequence[int], samples: Sequence[Sample]) -> Batch:
        """Pad to the largest image, rounded up to `multiple`, and to the most boxes, at least one."""
        multiple = self.resize.multiple
        sizes = torch.tensor([sample.image.shape[-2:] for sample in samples])
        height, width = ((sizes.amax(0) + multiple - 1) // multiple * multiple).tolist()
        most = max(1, *(len(sample.labels) for sample in samples))
        images = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)
        boxes = torch.zeros(len(samples), most, 4)
        labels = torch.full((len(samples), most), -1)
        masks = None if self.masks is None else torch.zeros(len(samples), most, GRID, GRID, dtype=torch.bool)
        for row, sample in enumerate(samples):
            images[row, :, : sample.image.shape[-2], : sample.image.shape[-1]] = sample.image
            boxes[row, : len(sample.boxes)] = sample.boxes
            labels[row, : len(sample.labels)] = sample.labels
            if masks is not None and sample.masks is not None:
                masks[row, : len(sample.masks)] = sample.masks
        chosen = np.asarray(indices)
        originals = torch.from_numpy(self.data.sizes[chosen].astype(np.int64))
        return Batch(images, sizes, originals, torch.from_numpy(self.data.image_ids[chosen]), boxes, labels, masks)


def trainable_images(data: DetectionSet) -> NDArray[np.int64]:
    """Indices of the images that have a box to train on; InputError where there is none."""
    boxes = np.concatenate([[0], np.cumsum(data.trainable)])
    usable = np.flatnonzero(boxes[data.offsets[1:]] > boxes[data.offsets[:-1]])
    if not len(usable):
        raise InputError(f"{data.name}: none of its {len(data)} images has a box to train on; choose another split")
    return usable


def largest_frame(
    resize: Input, augment: Sequence[Augment], sizes: Sequence[tuple[int, int]] | None = None
) -> tuple[int, int]:
    """Height and width that hold every image of these `sizes`, resized and augmented, before padding; of any image of
    the usual shape, upright ones too, where they are not known."""
    nominal = resize.nominal
    frames = [resize.target(*size) for size in sizes or (nominal, nominal[::-1])]
    for each in augment:
        frames = [each.bound(*frame) for frame in frames]
    heights, widths = zip(*frames, strict=True)
    return max(heights), max(widths)


class Batches(Dataset[Batch]):
    """`iterations` training batches of `batch` images that have boxes.

    An epoch is a permutation drawn from (seed, epoch), cut to whole batches and grouped into landscape and portrait
    so that little is padded; its batches then come in random order. Sets smaller than a batch repeat images.
    `masks` asks for masks with the boxes.
    """

    def __init__(
        self,
        data: DetectionSet,
        input: Input,
        augment: Sequence[Augment],
        batch: int,
        seed: int,
        iterations: int,
        cache: Path | None,
        masks: bool = False,
    ) -> None:
        self.samples = Samples(data, input, augment, cache, masks)
        self.batch, self.seed, self.iterations = batch, seed, iterations
        self.usable = trainable_images(data)
        self.portrait = data.sizes[:, 0] > data.sizes[:, 1]
        self.share = Share()
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return self.iterations

    def largest(self) -> Batch:
        """A batch as large as one can get: the highest and the widest image in it, each with as many boxes as any has.
        Noise and made-up boxes: nothing is read."""
        samples, generator = self.samples, torch.Generator().manual_seed(0)
        # what is drawn before the resize may be of any shape
        sizes = None if samples.before else np.unique(samples.data.sizes[self.usable], axis=0).tolist()
        height, width = largest_frame(samples.resize, samples.augment, sizes)
        most = int(np.add.reduceat(samples.kept, samples.data.offsets[self.usable]).max())
        corners = torch.rand(2, most, 2, generator=generator).sort(dim=0).values * torch.tensor([width, height])
        masks = None if samples.masks is None else torch.ones(most, GRID, GRID, dtype=torch.bool)
        image = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
        sample = Sample(image, corners.movedim(0, 1).flatten(1), torch.zeros(most, dtype=torch.int64), masks)
        images = len(self.share.rows(self.batch))
        return samples.collate([int(self.usable[0])] * images, [sample] * images)

    def shared(self, share: Share) -> Self:
        """The same batches, of each the images of a share alone."""
        part = copy(self)
        part.share = share
        return part

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return max(1, len(self.usable) // self.batch)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Indices of the images of each batch of an epoch, int64 [per_epoch, batch]."""
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(mixed(self.seed, epoch))
            shuffled = self.usable[torch.randperm(len(self.usable), generator=generator).numpy()]
            chosen = np.resize(shuffled, self.per_epoch * self.batch)
            grouped = chosen[np.argsort(self.portrait[chosen], kind="stable")].reshape(-1, self.batch)
            self._order = epoch, grouped[torch.randperm(self.per_epoch, generator=generator).numpy()]
        return self._order[1]

    def __getitem__(self, iteration: int) -> Batch:
        if not 0 <= iteration < self.iterations:
            raise IndexError(f"iteration {iteration} of {self.iterations}")
        epoch, step = divmod(iteration, self.per_epoch)
        indices = [int(index) for index in self.order(epoch)[step][self.share.rows(self.batch)]]
        return self.samples.collate(indices, [self.samples.augmented(index, self.seed, epoch) for index in indices])


class EvalBatches(Dataset[Batch]):
    """All images in their order, `batch` at a time, the last batch as short as need be; nothing random."""

    def __init__(self, data: DetectionSet, input: Input, batch: int, cache: Path | None) -> None:
        self.samples = Samples(data, input, (), cache)
        self.batch = batch

    def __len__(self) -> int:
        return -(-len(self.samples.data) // self.batch)

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < len(self):
            raise IndexError(f"batch {step} of {len(self)}")
        indices = range(step * self.batch, min((step + 1) * self.batch, len(self.samples.data)))
        return self.samples.collate(indices, [self.samples.get(index) for index in indices])


def loader(batches: Dataset[B], start: int, stop: int, workers: int = 0, device: str = "cpu") -> Iterator[B]:
    """Batches `start` to `stop - 1` in order, made ahead by `workers` processes, in pinned memory where they are for a
    GPU; 0 makes them here.

    The global generator is left alone. A daemonic process must keep to 0: it may not start others.
    """
    if not workers:
        return (batches[iteration] for iteration in range(start, stop))
    made = _ahead(batches, start, stop, workers, pinned=device != "cpu")
    return (_or_raise(batch) for batch in made)


class _Told(Dataset["B | BenchError"]):
    """Batches whose errors are values: raised in a loader process, they would arrive as a page of traceback."""

    def __init__(self, batches: Dataset[B]) -> None:
        self.batches = batches

    def __getitem__(self, iteration: int) -> "B | BenchError":
        try:
            return self.batches[iteration]
        except BenchError as error:
            return error


def _or_raise(batch: "B | BenchError") -> B:
    if isinstance(batch, BenchError):
        raise batch
    return batch


def _ahead(batches: Dataset[B], start: int, stop: int, workers: int, pinned: bool) -> "Iterator[B | BenchError]":
    return iter(
        DataLoader(
            _Told(batches),
            batch_size=None,
            sampler=range(start, stop),
            num_workers=workers,
            pin_memory=pinned,
            generator=torch.Generator(),
            multiprocessing_context="fork",  # shares the memory-mapped cache
        )
    )


def scaled(boxes: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """xyxy boxes [m, 4] of an image of `old` (height, width) in pixels of the same image resized to `new`."""
    y, x = (after / before for after, before in zip(new, old, strict=True))
    return boxes * boxes.new_tensor([x, y, x, y])


def _apply(transform: torch.nn.Module, sample: Sample) -> Sample:
    marked = tv_tensors.BoundingBoxes(sample.boxes, format="XYXY", canvas_size=sample.image.shape[-2:])
    inputs = {"image": tv_tensors.Image(sample.image), "boxes": marked, "labels": sample.labels}
    if sample.masks is not None:
        inputs["masks"] = sample.masks.as_subclass(BoxMasks)
    changed = transform(inputs)
    masks = None if sample.masks is None else changed["masks"].as_subclass(Tensor)
    return Sample(changed["image"].as_subclass(Tensor), changed["boxes"].as_subclass(Tensor), changed["labels"], masks)
