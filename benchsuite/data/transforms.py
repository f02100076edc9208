"""From an image as read to what a detector sees: one deterministic resize (`Input`) and random changes (`Augment`).

Everything random is torchvision's v2 transforms, which draw from torch's global generator; `sample_rng` lends them a
seed that is a pure function of (seed, epoch, index) and puts the generator back, so nothing else notices.
"""

import hashlib
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812 (the field's name for it)
from typing_extensions import override

from benchsuite.settings import Part

# The mean colour of ImageNet, RGB: what SSD fills the canvas with when it zooms out (Liu et al. 2016, section 2.2).
MEAN_COLOUR = (123.0, 117.0, 104.0)
Side = Annotated[int, Field(ge=1, le=16384)]
"""Pixels of a picture's side; the most are 800 MB of one picture."""


def as_tensor(image: NDArray[np.uint8]) -> Tensor:
    """uint8 [H, W, 3] -> uint8 [3, H, W], in the same memory where that may be written."""
    return torch.from_numpy(np.require(image, requirements="W")).permute(2, 0, 1)


class Input(Part):
    """Slot: the deterministic resize of every image. Batches are padded at the right and bottom to `multiple`."""

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.data",)
    multiple: Side = 1

    @abstractmethod
    def target(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing an image of `height` x `width`; a pure function."""

    @property
    @abstractmethod
    def nominal(self) -> tuple[int, int]:
        """Height and width of the usual landscape image after resizing."""

    @property
    def frame(self) -> tuple[int, int]:
        """Height and width of the usual image as a detector sees it, padded: what costs are counted on."""
        height, width = (-(-side // self.multiple) * self.multiple for side in self.nominal)
        return height, width

    def resize(self, image: Tensor) -> Tensor:
        """uint8 [3, H, W] -> uint8 [3, H', W'], bilinear with antialias."""
        size = self.target(*image.shape[-2:])
        resized: Tensor = F.resize(image, list(size), antialias=True)
        return resized.contiguous()

    def apply(self, image: NDArray[np.uint8]) -> Tensor:
        """uint8 [H, W, 3] as read -> uint8 [3, H', W']."""
        return self.resize(as_tensor(image))


class ShortSide(Input):
    """The short side becomes `short` pixels, or less so that the long side is at most `long` (Detectron)."""

    short: Side
    long: Side
    multiple: Side = 128

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.long < self.short:
            raise ValueError(f"long side {self.long} is less than the short side {self.short}; make it at least that")
        return self

    @property
    def nominal(self) -> tuple[int, int]:
        """`short` by `long`."""
        return self.short, self.long

    def target(self, height: int, width: int) -> tuple[int, int]:
        """640x480 (width x height) under 600/1000 becomes 800x600, 640x320 becomes 1000x500."""
        wanted, side = self.short, min(height, width)
        if self.short * max(height, width) > self.long * side:
            wanted, side = self.long, max(height, width)
        # Whole numbers throughout, half rounded up, so that no float decides a pixel.
        resized = [max(1, (2 * length * wanted + side) // (2 * side)) for length in (height, width)]
        return resized[0], resized[1]


class Fixed(Input):
    """Every image is warped to one size, as SSD does."""

    height: Side
    width: Side

    @property
    def nominal(self) -> tuple[int, int]:
        """`height`, `width`."""
        return self.height, self.width

    def target(self, height: int, width: int) -> tuple[int, int]:
        """`height`, `width` of the settings, whatever the image is."""
        return self.height, self.width


class BoxMasks(tv_tensors.TVTensor):  # type: ignore[misc]  # torchvision is untyped
    """Masks [m, G, G] in the coordinates of their boxes. Mirroring mirrors them; what only moves, scales or recolours
    boxes leaves them as they are."""


@F.register_kernel("horizontal_flip", BoxMasks)  # type: ignore[untyped-decorator]
def _mirrored(masks: BoxMasks) -> Tensor:
    mirrored: Tensor = tv_tensors.wrap(masks.flip(-1), like=masks)
    return mirrored


@F.register_kernel("resize", BoxMasks)  # type: ignore[untyped-decorator]
def _as_they_are(masks: BoxMasks, *_: object, **__: object) -> BoxMasks:
    return masks


class Augment(Part):
    """Slot: one random change of image and boxes.

    What `reframes` crops or extends the image as read, so the resize comes after it; all else acts on resized images.
    `masks`: `BoxMasks` come out right. What cuts or turns boxes cannot say so, and is refused where masks are learnt.
    """

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.data",)
    reframes: ClassVar[bool] = False
    masks: ClassVar[bool] = False

    @abstractmethod
    def build(self) -> v2.Transform:
        """A transform of {"image": Image, "boxes": BoundingBoxes, "labels": Tensor}, and "masks": BoxMasks."""

    def bound(self, height: int, width: int) -> tuple[int, int]:
        """The largest height and width that may come of a resized image's."""
        return height, width


class Flip(Augment):
    """Mirrors left and right with probability `p`."""

    masks: ClassVar[bool] = True
    p: float = Field(0.5, ge=0, le=1)

    def build(self) -> v2.Transform:
        """torchvision's horizontal flip."""
        return v2.RandomHorizontalFlip(self.p)


class Jitter(Augment):
    """Scales both sides by one factor drawn from U(low, high) (HAR-Net's released code, 0.7 to 1)."""

    masks: ClassVar[bool] = True
    low: float = Field(gt=0)
    high: float = Field(gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.high < self.low:
            raise ValueError(f"high {self.high} is less than low {self.low}; swap them")
        return self

    def bound(self, height: int, width: int) -> tuple[int, int]:
        """Both sides times `high`."""
        return math.ceil(self.high * height), math.ceil(self.high * width)

    @override
    def build(self) -> v2.Transform:
        return UniformScale(self.low, self.high)


class ShortSides(Augment):
    """Resizes to a short side drawn from `sides`, or less so that the long side is at most `long` (Detectron2)."""

    masks: ClassVar[bool] = True
    sides: Annotated[tuple[Side, ...], Field(min_length=1)]
    long: Side

    def bound(self, height: int, width: int) -> tuple[int, int]:
        """At the largest of `sides`."""
        wanted = ShortSide(short=min(max(self.sides), self.long), long=self.long)
        return wanted.target(height, width)

    def build(self) -> v2.Transform:
        """torchvision's, on images as `Input` has resized them."""
        return v2.RandomShortestSize(list(self.sides), self.long, antialias=True)


class UniformScale(v2.Transform):  # type: ignore[misc]  # torchvision is untyped
    """Resizes image and boxes by one factor from U(low, high)."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws the factor; the new size is rounded to whole pixels."""
        image = next(item for item in flat_inputs if item.ndim == 3)
        factor = float(torch.empty(()).uniform_(self.low, self.high))
        return {"size": [max(1, round(side * factor)) for side in image.shape[-2:]]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resizes one input: image, boxes, or masks of boxes, which stay."""
        return F.resize(inpt, params["size"], antialias=True)


class PhotometricDistort(Augment):
    """Brightness, contrast, saturation, hue and channel order, each changed with probability `p` (SSD, section 2.2)."""

    masks: ClassVar[bool] = True
    p: float = Field(0.5, ge=0, le=1)

    def build(self) -> v2.Transform:
        """torchvision's, with its ranges."""
        return v2.RandomPhotometricDistort(p=self.p)


class ZoomOut(Augment):
    """Places the image on a canvas of up to `largest` times its sides, with probability `p` (SSD, section 3.6)."""

    reframes: ClassVar[bool] = True
    masks: ClassVar[bool] = True
    largest: float = Field(4.0, ge=1)
    p: float = Field(0.5, ge=0, le=1)

    def build(self) -> v2.Transform:
        """torchvision's, on the mean colour."""
        return v2.RandomZoomOut(fill=list(MEAN_COLOUR), side_range=(1.0, self.largest), p=self.p)


class IoUCrop(Augment):
    """A crop with a minimum IoU to some box; boxes whose centre is cut off are left out (SSD, section 2.2)."""

    reframes: ClassVar[bool] = True
    smallest: float = Field(0.3, gt=0, le=1)

    @override
    def build(self) -> v2.Transform:
        return CropOrWhole(self.smallest)


class CropOrWhole(v2.Transform):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's crop, then boxes of less than a pixel are removed with their labels. An image whose boxes would all
    vanish so, or whose smallest crop would hold no pixel, stays whole."""

    def __init__(self, smallest: float) -> None:
        super().__init__()
        self.smallest = smallest
        self.crop = v2.Compose([v2.RandomIoUCrop(min_scale=smallest), v2.SanitizeBoundingBoxes(min_size=1)])

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        """The sample, cropped or as it was."""
        if min(sample["image"].shape[-2:]) * self.smallest < 1:
            return sample
        cropped: dict[str, Any] = self.crop(sample)
        return cropped if len(cropped["labels"]) else sample


def split_at_resize(augment: Sequence[Augment]) -> tuple[list[v2.Transform], list[v2.Transform]]:
    """Transforms before and after the resize: it comes right after the last one that reframes."""
    last = max((place + 1 for place, part in enumerate(augment) if part.reframes), default=0)
    return [part.build() for part in augment[:last]], [part.build() for part in augment[last:]]


def mixed(*parts: int) -> int:
    """A generator's seed from several numbers: the first 64 bits of a hash of them."""
    digest = hashlib.blake2b(" ".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


@contextmanager
def sample_rng(seed: int, epoch: int, index: int) -> Iterator[None]:
    """Torch's CPU generator seeded by (seed, epoch, index) inside, as it was outside. CUDA's are not touched."""
    before = torch.get_rng_state()
    # Not `torch.manual_seed`, which seeds every device and costs a millisecond on a machine with many.
    torch.default_generator.manual_seed(mixed(seed, epoch, index))
    try:
        yield
    finally:
        torch.set_rng_state(before)
