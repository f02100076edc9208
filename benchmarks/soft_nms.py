"""Exact Soft-NMS of 5,000 boxes in 80 classes: ours against torchvision's `batched_nms`, which only drops boxes.

python benchmarks/soft_nms.py [--repeats N] [--json]

Boxes lie around objects, a dozen on each, as detections do. Targets: ≤ 3 × with classes of like size, ≤ 6 × with 1,000
of the boxes in one class. Two threads. The outcome is first held against a naive loop in double precision: both of
Soft-NMS's decays, within 1e-6.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from statistics import median

import torch
from pairs import compare, quieten
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from benchsuite.models.postprocess import Soft

BOXES, CLASSES, LONG, AROUND = 5_000, 80, 1_000, 12
WIDTH, HEIGHT = 1_000.0, 600.0
METHODS = Soft(), Soft(method="linear")


def around_objects(counts: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [N, 4], scores [N] and classes [N], `counts` of each class, AROUND of them on an object."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    objects = sum(counts) // AROUND
    centres = torch.rand(objects, 2) * torch.tensor([WIDTH, HEIGHT])
    sides = 20 + 150 * torch.rand(objects, 2)
    # Objects in the order of the boxes, so that those of an object are of one class but where a class ends.
    at = torch.arange(len(labels)).div(AROUND, rounding_mode="floor").clamp(max=objects - 1)
    middle = centres[at] + 0.12 * sides[at] * torch.randn(len(labels), 2)
    half = sides[at] * torch.exp(0.15 * torch.randn(len(labels), 2)) / 2
    shuffled = torch.randperm(len(labels))
    scores = 0.05 + 0.95 * torch.rand(len(labels))
    return torch.cat([middle - half, middle + half], 1)[shuffled], scores, labels[shuffled]


def naive(boxes: Tensor, scores: Tensor, labels: Tensor, soft: Soft) -> Tensor:
    """Decayed scores [N], 0 where dropped: class by class, box by box."""
    found = torch.zeros(len(boxes), dtype=torch.double)
    for label in torch.unique(labels):
        members = (labels == label).nonzero().flatten()
        overlaps, left = box_iou(boxes[members].double(), boxes[members].double()), scores[members].double()
        while left.max() >= soft.floor:
            best = left.argmax()
            found[members[best]] = left[best]
            left = left * soft.decay(overlaps[best].clone())
            left[best] = 0
    return found


def error(boxes: Tensor, scores: Tensor, labels: Tensor, soft: Soft) -> float:
    """Largest difference of a score from the naive loop's."""
    kept, values = soft.suppress(boxes, scores, labels)
    found = torch.zeros(len(boxes), dtype=torch.double).index_put_((kept,), values.double())
    expected = naive(boxes, scores, labels, soft)
    edge = (found - soft.floor).abs().minimum((expected - soft.floor).abs()) < 1e-6  # may fall on either side
    return float((found - expected).abs().masked_fill(edge, 0).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    quieten()
    even = [BOXES // CLASSES + (label < BOXES % CLASSES) for label in range(CLASSES)]
    rest, others = BOXES - LONG, CLASSES - 1
    uneven = [LONG, *(rest // others + (label < rest % others) for label in range(others))]
    results = []
    for name, counts, target in ("balanced", even, 3.0), ("1,000 in one class", uneven, 6.0):
        boxes, scores, labels = around_objects(counts)
        theirs = partial(batched_nms, boxes, scores, labels, 0.5)
        for soft in METHODS:
            pairs = compare(partial(soft.suppress, boxes, scores, labels), theirs, options.repeats)
            result = {
                "name": f"{soft.method}, {name}",
                "ratio": median(mine / other for mine, other in pairs),
                "target": target,
                "error": error(boxes, scores, labels, soft),
                "pairs": pairs,
            }
            results.append(result)
            if not options.json:
                mine, other = (1e3 * median(side) for side in zip(*pairs, strict=True))
                print(
                    f"Soft-NMS {result['name']}: {result['ratio']:.2f} × batched_nms (target ≤ {target:.0f}; "
                    f"{mine:.1f} ms against {other:.1f} ms), off the naive loop by {result['error']:.0e}"
                )
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
