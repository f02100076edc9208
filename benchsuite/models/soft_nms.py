"""Soft-NMS (Bodla et al., ICCV 2017, arXiv 1704.04503, figure 2), exact, for all groups of boxes at once.

A group is one class of one image. Groups of like size are the rows of padded tables [G, M]; each round picks the best
box of every row and decays the rest of the row, so a table takes as many rounds as its longest row has boxes. Where the
factors of all pairs of a table fit into a few megabytes they are made once; those of a larger table when needed,
and the boxes and rows that are done are dropped every few rounds.

Shapes: N boxes, G rows, M columns; corners [4, G, M] are x1, y1, −x2, −y2, so that one maximum gives an intersection.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

ROUNDS = 16  # between two looks at what is left: each look waits for the device and sorts
PAIRS = 1 << 22  # largest table of pairs: 16 MB

Decay = Callable[[Tensor], Tensor]


def segments(scores: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
    """Sort by owner, then by falling score; equal scores keep their order.

    scores [N], owners int64 [N] → order int64 [N], rank int64 [N] of each sorted element within its owner.
    """
    order = scores.argsort(descending=True, stable=True)
    order = order[owners[order].argsort(stable=True)]
    _, counts = torch.unique_consecutive(owners[order], return_counts=True)
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    return order, torch.arange(len(order), device=order.device) - starts


def soft_nms(boxes: Tensor, scores: Tensor, groups: Tensor, decay: Decay, floor: float) -> tuple[Tensor, Tensor]:
    """Pick boxes by falling score, decaying those of the same group that overlap a picked one.

    boxes [N, 4] xyxy, scores [N], groups int64 [N] of any values; `decay` maps IoU to the factor (1 for IoU 0) and may
    overwrite its argument. Boxes that fall below `floor` (> 0) are dropped; of equal boxes the earlier comes first.
    Returns indices int64 [K] of the kept boxes, grouped in no particular order, and their decayed scores [K].
    """
    order, rank = segments(scores, groups)
    _, row, counts = torch.unique_consecutive(groups[order], return_inverse=True, return_counts=True)
    sizes = counts.sub(1).clamp(min=1).log2().div(2, rounding_mode="floor")  # at most four times apart in a table
    kept, values = [order[:0]], [scores[:0]]
    for size in torch.unique(sizes):
        inside = (sizes == size)[row]
        cells = torch.unique_consecutive(row[inside], return_inverse=True)[1], rank[inside]
        members = order[inside]
        shape = int(cells[0][-1]) + 1, int(cells[1].max()) + 1
        table = scores.new_zeros(shape).index_put_(cells, scores[members])
        index = members.new_zeros(shape).index_put_(cells, members)
        corners = boxes.new_zeros(4, *shape)
        corners[:, cells[0], cells[1]] = (boxes[members] * boxes.new_tensor([1, 1, -1, -1])).T
        for best, picked in _suppress(table, index, corners, decay, floor):
            kept.append(picked[best >= floor])
            values.append(best[best >= floor])
    return torch.cat(kept), torch.cat(values)


def _suppress(
    table: Tensor, index: Tensor, corners: Tensor, decay: Decay, floor: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores and indices [G, rounds] of the boxes picked from a table of scores, until all left is below `floor`."""
    while table.numel() * table.shape[1] > PAIRS:
        yield _pick(table, index, partial(_factors, corners, _areas(corners), decay))
        alive = table >= floor
        counts = alive.sum(1)
        rows, width = counts.nonzero().squeeze(1), int(counts.max())
        table, place = table[rows].sort(stable=True, dim=1, descending=True)
        table, place = table[:, :width].contiguous(), place[:, :width]
        index = index[rows].gather(1, place)
        corners = corners[:, rows].gather(2, place.expand(4, -1, -1))
    height, width = table.shape
    pairs = _pair_factors(corners, decay).flatten(0, 1)
    offset = torch.arange(height, device=table.device).unsqueeze(1) * width
    while width and bool((table >= floor).any()):
        yield _pick(table, index, lambda place: pairs.index_select(0, (place + offset).flatten()))


def _pick(table: Tensor, index: Tensor, factors: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """A few rounds: take the best of each row, multiply it by the factors [G, M] of its place [G, 1], 0 there."""
    rounds = []
    for _ in range(min(ROUNDS, table.shape[1])):
        best, place = table.max(1, keepdim=True)
        table.mul_(factors(place))
        rounds.append((best, place))
    best, place = (torch.cat(parts, 1) for parts in zip(*rounds, strict=True))
    return best, index.gather(1, place)


def _areas(corners: Tensor) -> Tensor:
    # Clamped so that boxes without area have IoU 0, not 0 / 0.
    return (corners[:2] + corners[2:]).prod(0).clamp_(min=1e-12)


def _factors(corners: Tensor, areas: Tensor, decay: Decay, place: Tensor) -> Tensor:
    """Factors [G, M] of each row's boxes for the one at `place` [G, 1] of the row; 0 for itself: it is gone."""
    sides = torch.maximum(corners, corners.gather(2, place.expand(4, -1, -1)))
    return decay(_iou(sides, areas + areas.gather(1, place))).scatter_(1, place, 0)


def _pair_factors(corners: Tensor, decay: Decay) -> Tensor:
    """The same for every place: [G, M, M]."""
    areas = _areas(corners)
    sides = torch.maximum(corners.unsqueeze(3), corners.unsqueeze(2))
    factors = decay(_iou(sides, areas.unsqueeze(2) + areas.unsqueeze(1)))
    factors.diagonal(dim1=1, dim2=2).zero_()
    return factors


def _iou(sides: Tensor, areas: Tensor) -> Tensor:
    """IoU from the corners [4, …] of the intersections and the sums of both areas; overwrites both."""
    extent = sides[:2].add_(sides[2:]).clamp_(max=0)  # negative width and height: their product is the intersection
    overlap = extent[0].mul_(extent[1])
    return overlap.div_(areas.sub_(overlap))
