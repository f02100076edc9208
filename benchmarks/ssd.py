"""SSD300 on VGG-16, ours against torchvision's `ssd300_vgg16` with the same weights, two threads, channels_last.

Prints ours / torchvision's of a forward pass and of a training step (forward, losses, backward, SGD), both of batch 2.
"""

import argparse
import json
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from pairs import compare, quieten
from torch import Tensor, nn
from torchvision.models.detection import ssd300_vgg16

from benchsuite.data.batch import Batch
from benchsuite.models.ssd import SSD, L2Norm
from benchsuite.models.ssd_sizes import Boxes300, Extras300
from benchsuite.models.vgg import Vgg

IMAGES, SIDE, BOXES, CLASSES = 2, 300, 4, 20
SSD300 = SSD(backbone=Vgg(), neck=L2Norm(of=Extras300()), anchors=Boxes300())


def a_batch() -> Batch:
    corners = torch.rand(IMAGES, BOXES, 2) * (SIDE - 100)
    sizes = torch.full((IMAGES, 2), SIDE)
    return Batch(
        images=torch.randint(256, (IMAGES, 3, SIDE, SIDE), dtype=torch.uint8),
        sizes=sizes,
        originals=sizes,
        image_ids=torch.arange(IMAGES),
        boxes=torch.cat((corners, corners + 20 + 80 * torch.rand(IMAGES, BOXES, 2)), dim=-1),
        labels=torch.randint(CLASSES, (IMAGES, BOXES)),
    )


def models() -> tuple[Any, Any]:
    """Ours and torchvision's; weights do not matter for time, as long as both have as many."""
    ours = SSD300.build(CLASSES).to(memory_format=torch.channels_last)
    theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=CLASSES + 1, trainable_backbone_layers=5)
    theirs = theirs.to(memory_format=torch.channels_last)
    trained = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (ours, theirs)]
    if trained[0] != trained[1]:
        raise SystemExit(f"the models do not train the same parameters: {trained[0]:,} and {trained[1]:,}")
    return ours, theirs


def forwards(ours: Any, theirs: Any, repeats: int) -> list[tuple[float, float]]:
    images = torch.randn(IMAGES, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return compare(lambda: ours(images), lambda: theirs.head(list(theirs.backbone(images).values())), repeats)


def steps(ours: Any, theirs: Any, repeats: int) -> list[tuple[float, float]]:
    batch = a_batch()
    images = list(batch.images.float() / 255)
    targets = [{"boxes": boxes, "labels": labels + 1} for boxes, labels in zip(batch.boxes, batch.labels, strict=True)]
    return compare(step(ours, lambda: ours.losses(batch)), step(theirs, lambda: theirs(images, targets)), repeats)


def step(model: nn.Module, losses: Callable[[], dict[str, Tensor]]) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-7, momentum=0.9, weight_decay=5e-4)

    def one() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(torch.stack(list(losses().values())).sum())
        optimizer.step()

    return one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    quieten()
    ours, theirs = models()
    for name, measure in (("SSD300, forward pass", forwards), ("SSD300, training step", steps)):
        pairs = measure(ours, theirs, options.repeats)
        ratio = median(mine / other for mine, other in pairs)
        mine, other = (1e3 * median(side) for side in zip(*pairs, strict=True))
        if options.json:
            print(json.dumps({"name": name, "ratio": ratio, "target": 1.0, "pairs": pairs}))
        else:
            print(f"{name}: {ratio:.3f} × torchvision (target ≤ 1.0; {mine:.0f} ms against {other:.0f} ms)")


if __name__ == "__main__":
    main()
