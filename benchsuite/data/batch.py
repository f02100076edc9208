"""The batch: padded tensors of one shape, moved between devices as one."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B images padded to one size, with at most M boxes each.

    images    uint8 [B, 3, H, W], RGB, padding at the right and bottom (its value does not matter: models mask it)
    sizes     int64 [B, 2]     height, width of the valid area after resizing
    originals int64 [B, 2]     height, width of the image as read
    image_ids int64 [B]
    boxes     float32 [B, M, 4] xyxy in pixels of the resized image; padding rows are 0
    labels    int64 [B, M]     0-based class, -1 for padding
    """

    images: Tensor
    sizes: Tensor
    originals: Tensor
    image_ids: Tensor
    boxes: Tensor
    labels: Tensor

    def to(self, device: str | torch.device) -> "Batch":
        """The same batch on `device`."""
        moved = {name: value.to(device, non_blocking=True) for name, value in vars(self).items()}
        return replace(self, **moved)


@dataclass(frozen=True)
class Detections:
    """D best detections of each of B images, sorted by falling score, padded.

    boxes  float32 [B, D, 4] xyxy in pixels of the batch's resized image
    scores float32 [B, D]    0 for padding
    labels int64 [B, D]      0-based class, -1 for padding
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
