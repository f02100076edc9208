"""The batch: padded tensors of one shape, moved between devices as one."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


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

    def split(self, size: int) -> list[Self]:
        """The batch in parts of `size` images, the last one as short as need be."""
        names, held = zip(*self._held(), strict=True)
        parts = zip(*(value.split(size) for value in held), strict=True)
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
