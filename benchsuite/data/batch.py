"""The batch: padded tensors of one shape, moved between devices as one."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from benchsuite.errors import InputError


@dataclass(frozen=True)
class Share:
    """What process `rank` of `of` that train together takes of a batch: of every `block` images in a row, or of all
    together, the same part but for one image. In the order of their ranks the parts are the block again."""

    rank: int = 0
    of: int = 1
    block: int | None = None

    def parts(self, images: int) -> list[range]:
        """The images of each block; InputError where a block has fewer images than there are processes."""
        size = self.block or images
        starts = range(0, images, size)
        if self.of > 1 and min(min(size, images - start) for start in starts) < self.of:
            what = f"solver.micro_batch {self.block}" if self.block else f"a batch of {images} images"
            raise InputError(f"--per-job {self.of}: {what} leaves a device without an image; ask for fewer devices")
        return [self._part(start, min(size, images - start)) for start in starts]

    def blocks(self, images: int) -> list[int]:
        """How many images each block has, of all processes."""
        return [min(self.block or images, images - start) for start in range(0, images, self.block or images)]

    def rows(self, images: int) -> list[int]:
        """All of them, of a batch of `images`."""
        return [row for part in self.parts(images) for row in part]

    def _part(self, start: int, size: int) -> range:
        return range(start + size * self.rank // self.of, start + size * (self.rank + 1) // self.of)


@dataclass(frozen=True)
class ImageBatch:
    """B images and whatever is learnt from them: every other field too has B rows, or is None.

    images  uint8 [B, 3, H, W], RGB
    """

    images: Tensor

    def to(self, device: str | torch.device) -> Self:
        """The same batch on `device`."""
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in self._held()})

    def pin_memory(self) -> Self:
        """The same batch where a GPU can fetch it without the host waiting; torch's DataLoader calls this."""
        return replace(self, **{name: value.pin_memory() for name, value in self._held()})

    def padded(self, height: int, width: int) -> Self:
        """The same batch on a larger frame, padded at the right and bottom."""
        added = width - self.images.shape[-1], height - self.images.shape[-2]
        if added == (0, 0):
            return self
        images = pad(self.images, (0, added[0], 0, added[1]))
        return replace(self, images=images.pin_memory() if self.images.is_pinned() else images)

    def split(self, size: int | list[int]) -> list[Self]:
        """The batch in parts of `size` images, the last one as short as need be, or in parts of these sizes."""
        names, held = zip(*self._held(), strict=True)
        parts = zip(*(torch.split(value, size) for value in held), strict=True)
        return [replace(self, **dict(zip(names, part, strict=True))) for part in parts]

    def _held(self) -> list[tuple[str, Tensor]]:
        return [(name, value) for name, value in vars(self).items() if value is not None]


@dataclass(frozen=True)
class Batch(ImageBatch):
    """B images padded to one size, with at most M boxes each.

    images    uint8 [B, 3, H, W], RGB, padding at the right and bottom (its value does not matter: models mask it)
    sizes     int64 [B, 2]     height, width of the valid area after resizing
    originals int64 [B, 2]     height, width of the image as read
    image_ids int64 [B], uint64 where the split's are
    boxes     float32 [B, M, 4] xyxy in pixels of the resized image; padding rows are 0
    labels    int64 [B, M]     0-based class, -1 for padding
    masks     bool [B, M, G, G] in the coordinates of each box (`DetectionSet.masks`), False in padding rows; None where
              masks are not asked for
    """

    sizes: Tensor
    originals: Tensor
    image_ids: Tensor
    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None


@dataclass(frozen=True)
class Detections:
    """D best detections of each of B images, sorted by falling score, padded.

    boxes  float32 [B, D, 4] xyxy in pixels of the batch's resized image
    scores float32 [B, D]    0 for padding
    labels int64 [B, D]      0-based class, -1 for padding
    masks  float32 [B, D, M, M] probability of foreground in the coordinates of each box, 0 in padding; None where the
           detector finds boxes only
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None
