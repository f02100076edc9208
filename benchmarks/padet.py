"""PADet at 384×384 with VGG-16: what its second matching costs, and what aligned features cost.

python benchmarks/padet.py [--repeats N] [--json]

Two threads, channels_last, two things in turn, ratios of medians over pairs. Matching: both stages, initial anchors and
promoted ones, for 32 images of 18,400 anchors with 1 to 25 boxes (7 on average), against one training step (forward,
backward, SGD) of 4 such images; target ≤ 0.25. The FAM: forward, and forward and backward, of [4, 256, 48, 48] with
disentangled offsets, against the same without offsets (a plain 3×3 convolution, BatchNorm, ReLU); reported.
"""

import argparse
import json
from collections.abc import Callable
from statistics import median

import torch
from pairs import compare, quieten
from torch import Tensor, nn

from benchsuite.data.batch import Batch
from benchsuite.papers.padet import Adjustment, Disentangled, Fam, PADet, PADetDetector, Scoring
from benchsuite.papers.padet_matching import match

SIDE, CLASSES, MOST = 384, 80, 25
TARGET = 0.25


def a_batch(images: int) -> Batch:
    """Noise; as many boxes as COCO's images have, most of them few."""
    counts = torch.empty(images).exponential_(1 / 6).long().add_(1).clamp_(max=MOST)
    counts[0] = MOST
    corners = torch.rand(images, MOST, 2) * (SIDE - 64)
    boxes = torch.cat((corners, corners + 8 + 120 * torch.rand(images, MOST, 2)), dim=-1).clamp_(max=SIDE)
    labels = torch.randint(CLASSES, (images, MOST))
    labels[torch.arange(MOST) >= counts.unsqueeze(1)] = -1
    return Batch(
        images=torch.randint(256, (images, 3, SIDE, SIDE), dtype=torch.uint8),
        sizes=torch.full((images, 2), SIDE),
        originals=torch.full((images, 2), SIDE),
        image_ids=torch.arange(images),
        boxes=boxes,
        labels=labels,
    )


def matching() -> Callable[[], object]:
    """Both stages; the promoted anchors lie as an untrained adjustment moves them."""
    model, batch = PADet(), a_batch(32)
    maps = tuple((side, side) for side in (48, 24, 12, 6, 3, 1))
    anchors = model.anchors.grid(maps, (), (SIDE, SIDE), torch.device("cpu"))
    x = torch.randn(32, len(anchors), 4)

    def both() -> None:
        match(model.assignment, anchors, batch.boxes, batch.labels)
        match(model.assignment, model.coder.decode(x, anchors), batch.boxes, batch.labels)

    return both


def step() -> Callable[[], object]:
    """A training step of the whole detector at batch 4."""
    built = PADet(scoring=Scoring(), adjustment=Adjustment(), alignment=Disentangled()).build(CLASSES)
    assert isinstance(built, PADetDetector)
    model, batch = built.to(memory_format=torch.channels_last), a_batch(4)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4)

    def one() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(torch.stack(list(model.losses(batch).values())).sum())
        optimizer.step()

    return one


def fams(backward: bool) -> tuple[Callable[[], object], Callable[[], object]]:
    """The FAM with offsets that are not 0, and without."""
    offsets = Disentangled().build(256, 6)
    for parameter in offsets.parameters():
        nn.init.normal_(parameter, std=0.1)
    features = torch.randn(4, 256, 48, 48).contiguous(memory_format=torch.channels_last)
    adjusted = torch.randn(4, 24, 48, 48).contiguous(memory_format=torch.channels_last)

    def call(unit: Fam) -> Callable[[], object]:
        unit.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        def one() -> Tensor:
            with torch.set_grad_enabled(backward):
                out: Tensor = unit(features.requires_grad_(backward), adjusted.requires_grad_(backward))
            if backward:
                out.sum().backward()  # type: ignore[no-untyped-call]
            return out

        return one

    return call(Fam(256, offsets)), call(Fam(256, None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    quieten()
    measured = {
        "both matchings of 32 images against a training step of 4": compare(matching(), step(), options.repeats),
        "FAM against a plain convolution, forward": compare(*fams(False), 5 * options.repeats),
        "FAM against a plain convolution, forward and backward": compare(*fams(True), 5 * options.repeats),
    }
    ratios = {name: median(ours / theirs for ours, theirs in pairs) for name, pairs in measured.items()}
    if options.json:
        print(json.dumps({"name": "PADet", "ratios": ratios, "target of the first": TARGET, "pairs": measured}))
        return
    for name, ratio in ratios.items():
        ours, theirs = (1e3 * median(side) for side in zip(*measured[name], strict=True))
        target = f"target ≤ {TARGET}; " if "matchings" in name else ""
        print(f"{name}: {ratio:.3f} ({target}{ours:.0f} ms against {theirs:.0f} ms)")


if __name__ == "__main__":
    main()
