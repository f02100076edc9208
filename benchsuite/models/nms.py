"""Non-maximum suppression in fixed shapes, as one operator: exporters have one for it, and need not look inside."""

import torch
from torch import Tensor
from torchvision.ops import batched_nms

NOTHING = -1.0
"""The score of what is no candidate."""


@torch.library.custom_op("benchsuite::grouped_nms", mutates_args=())
def grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, count: int, iou: float, threshold: float) -> Tensor:
    """Indices int64 of the boxes [N, 4] with a score above `threshold` that no better one of their group overlaps by
    more than `iou`; there are `count` groups, from 0 on."""
    above = (scores > threshold).nonzero().squeeze(1)
    return above[batched_nms(boxes[above].double(), scores[above].double(), groups[above], iou)]


@grouped_nms.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, count: int, iou: float, threshold: float) -> Tensor:
    return groups.new_empty(torch.library.get_ctx().new_dynamic_size())


def best_left(
    boxes: Tensor, scores: Tensor, groups: Tensor, groups_an_image: int, iou: float, threshold: float, count: int
) -> tuple[Tensor, Tensor]:
    """Scores and places [B, min(count, N)] of the best that NMS leaves of boxes [B, N, 4], scores [B, N] and groups
    [B, N] of each image, from 0 on; what is not above `threshold` is no candidate. Padding scores NOTHING."""
    images = len(scores)
    own = groups + groups_an_image * torch.arange(images, device=groups.device).unsqueeze(1)
    flat = scores.flatten()
    kept = grouped_nms(boxes.flatten(0, 1), flat, own.flatten(), images * groups_an_image, iou, threshold)
    left = torch.full_like(flat, NOTHING).scatter(0, kept, flat[kept]).view_as(scores)
    values, places = left.topk(min(count, scores.shape[1]), dim=1)
    return values, places
