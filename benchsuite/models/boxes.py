"""Boxes as batched tensors: overlap, and the offsets between anchors and boxes. xyxy, absolute pixels, no +1."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torchvision.ops import box_convert

from benchsuite.settings import Settings

LARGEST_GROWTH = math.log(1000 / 16)
"""Bound of dw and dh when decoding, as in Detectron: keeps exp() finite."""


Variance = Annotated[float, Field(gt=0)]


def iou(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Intersection over union of boxes [..., M, 4] with anchors [A, 4], the same for all, or [..., A, 4], each image's
    own -> [..., M, A]; 0 where both have no area."""
    left, top, right, bottom = boxes.unsqueeze(-2).unbind(-1)
    a_left, a_top, a_right, a_bottom = anchors.unsqueeze(-3).movedim(-1, 0).contiguous().unbind(0)
    shared = (torch.minimum(right, a_right) - torch.maximum(left, a_left)).clamp_(min=0)
    shared *= (torch.minimum(bottom, a_bottom) - torch.maximum(top, a_top)).clamp_(min=0)
    areas = (right - left) * (bottom - top) + (a_right - a_left) * (a_bottom - a_top)
    return shared / areas.sub_(shared).clamp_(min=torch.finfo(areas.dtype).tiny)


class BoxCoder(Settings):
    """Offsets (dx, dy, dw, dh) between anchors and boxes (R-CNN, Girshick et al. 2014, app. C), each divided by its
    variance: 0.1, 0.1, 0.2, 0.2 in SSD's family, none elsewhere."""

    variances: tuple[Variance, Variance, Variance, Variance] = (1.0, 1.0, 1.0, 1.0)

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Offsets [..., 4] that move anchors [..., 4] onto boxes [..., 4]."""
        x, y, w, h = box_convert(boxes, "xyxy", "cxcywh").unbind(-1)
        a_x, a_y, a_w, a_h = box_convert(anchors, "xyxy", "cxcywh").unbind(-1)
        offsets = (x - a_x) / a_w, (y - a_y) / a_h, (w / a_w).log(), (h / a_h).log()
        return torch.stack([offset / variance for offset, variance in zip(offsets, self.variances, strict=True)], -1)

    def decode(self, offsets: Tensor, anchors: Tensor) -> Tensor:
        """Boxes [..., 4] from offsets [..., 4] and anchors [..., 4]: the inverse of `encode`, growth bounded."""
        scaled = (offset * variance for offset, variance in zip(offsets.unbind(-1), self.variances, strict=True))
        dx, dy, dw, dh = scaled
        a_x, a_y, a_w, a_h = box_convert(anchors, "xyxy", "cxcywh").unbind(-1)
        w, h = dw.clamp(max=LARGEST_GROWTH).exp() * a_w, dh.clamp(max=LARGEST_GROWTH).exp() * a_h
        boxes: Tensor = box_convert(torch.stack((a_x + dx * a_w, a_y + dy * a_h, w, h), dim=-1), "cxcywh", "xyxy")
        return boxes


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes [B, N, 4] cut at the edges of their images, whose height and width are `sizes` [B, 2]."""
    height, width = sizes.to(boxes.dtype)[:, None, :].unbind(-1)
    return torch.minimum(boxes.clamp(min=0), torch.stack((width, height, width, height), dim=-1))
