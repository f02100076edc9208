"""From the bytes of a batch to what a backbone expects."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchsuite.data.batch import Batch


class Normalise(nn.Module):
    """Images with mean 0 and variance 1, 0 in the padding; `mean` and `std` of a channel are of values in 0..1."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        middle, spread = torch.tensor(mean), torch.tensor(std)
        self.register_buffer("scale", (1 / (255 * spread)).view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", (-middle / spread).view(-1, 1, 1), persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """Float [B, 3, H, W] of uint8 images [B, 3, H, W], whose valid areas are `batch.sizes`."""
        height, width = batch.images.shape[-2:]
        rows = torch.arange(height, device=batch.images.device) < batch.sizes[:, :1]
        columns = torch.arange(width, device=batch.images.device) < batch.sizes[:, 1:]
        inside = rows[:, None, :, None] & columns[:, None, None, :]
        return torch.addcmul(self.shift, batch.images, self.scale) * inside
