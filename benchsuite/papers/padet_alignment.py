"""PADet's Feature Alignment Module (sec. 3.2, fig. 5): a deformable convolution whose offsets ΔD are made of the
features, or of what the Anchor Promotion Module makes of the anchors.

Shapes: B images, A anchors in a cell, K points of a kernel, features X [B, C, H, W], x [B, 4A, H, W] with the channels
(dx, dy, dw, dh) of each anchor, X_l and X_s [B, 2A, H, W] the dx, dy and the dw, dh of x, ΔD [B, 2K, H, W].
"""

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d
from typing_extensions import override

from benchsuite.papers.padet_decoder import msra

KERNEL = 9
"""K: the points of a 3×3 kernel."""
Read: TypeAlias = Literal["location", "shape", "both"]
"""X_l, X_s, or both."""


def split(adjusted: Tensor, detach: bool) -> tuple[Tensor, Tensor]:
    """X_l and X_s of x; with `detach` no gradient passes to it."""
    read = adjusted.detach() if detach else adjusted
    of_anchors = read.view(len(read), -1, 4, *read.shape[2:])
    return of_anchors[:, :, :2].flatten(1, 2), of_anchors[:, :, 2:].flatten(1, 2)


class ImplicitOffsets(nn.Module):
    """F(X)."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    @override
    def forward(self, features: Tensor, adjusted: Tensor | None) -> Tensor:
        offsets: Tensor = self.conv(features)
        return offsets


class ExplicitOffsets(nn.Module):
    """F(X_l), F(X_s) or F(X_l; X_s)."""

    def __init__(self, conv: nn.Conv2d, of: Read, detach: bool) -> None:
        super().__init__()
        self.conv, self.of, self.detach = conv, of, detach

    @override
    def forward(self, features: Tensor, adjusted: Tensor) -> Tensor:
        location, shape = split(adjusted, self.detach)
        read = {"location": location, "shape": shape}.get(self.of)
        offsets: Tensor = self.conv(torch.cat((location, shape), dim=1) if read is None else read)
        return offsets


class DisentangledOffsets(nn.Module):
    """F(X_l) + G(X_s)."""

    def __init__(self, location: nn.Conv2d, shape: nn.Conv2d, detach: bool) -> None:
        super().__init__()
        self.location, self.shape, self.detach = location, shape, detach

    @override
    def forward(self, features: Tensor, adjusted: Tensor) -> Tensor:
        location, shape = split(adjusted, self.detach)
        # c, "shared by all the filter kernels", is a vector (dy, dx); repeated whole, point by point.
        offsets: Tensor = self.location(location).repeat(1, KERNEL, 1, 1) + self.shape(shape)
        return offsets


class Fam(nn.Module):
    """ReLU(BN(conv(X, ΔD))), a deformable 3×3 convolution (Dai et al. 2017); an ordinary one without offsets."""

    def __init__(self, channels: int, offsets: nn.Module | None) -> None:
        super().__init__()
        self.conv = msra(nn.Conv2d(channels, channels, 3, padding=1, bias=False))
        self.norm = nn.BatchNorm2d(channels)
        self.offsets = offsets

    @override
    def forward(self, features: Tensor, adjusted: Tensor | None) -> Tensor:
        """[B, C, H, W] of features alike and x [B, 4A, H, W], which may be None where the offsets do not want it."""
        aligned = (
            self.conv(features) if self.offsets is None else self.moved(features, self.offsets(features, adjusted))
        )
        out: Tensor = self.norm(aligned).relu()
        return out

    def moved(self, features: Tensor, offsets: Tensor) -> Tensor:
        """The convolution at points moved by offsets [B, 2K, H, W]."""
        # There is no such kernel in bfloat16; autocast does not know the meta device, on which costs are counted.
        with torch.autocast("cpu" if features.is_meta else features.device.type, enabled=False):
            aligned: Tensor = deform_conv2d(features.float(), offsets.float(), self.conv.weight.float(), padding=1)
        return aligned
