"""Matching and losses of RetinaNet, forward and backward: ours on the padded batch, torchvision's image by image.

Batch 4 of 640×1024 (81,840 anchors), 80 classes, 1 to 20 boxes an image as COCO has them. Prints ours / torchvision's.
"""

import torch
from pairs import compare, report
from torchvision.models.detection import retinanet_resnet50_fpn

from benchsuite.models.anchors import PyramidAnchors
from benchsuite.models.retinanet import RetinaNet

STRIDES = (8, 16, 32, 64, 128)
HEIGHT, WIDTH, CLASSES = 640, 1024, 80
BOXES = (3, 20, 1, 7)


def measure(repeats: int) -> list[tuple[float, float]]:
    maps = tuple((HEIGHT // stride, WIDTH // stride) for stride in STRIDES)
    anchors = PyramidAnchors().grid(maps, STRIDES, (HEIGHT, WIDTH), torch.device("cpu"))
    logits = (torch.randn(len(BOXES), len(anchors), CLASSES) - 4.6).requires_grad_()
    offsets = (torch.randn(len(BOXES), len(anchors), 4) / 10).requires_grad_()
    targets = [truth(count) for count in BOXES]
    boxes = torch.nn.utils.rnn.pad_sequence([target["boxes"] for target in targets], batch_first=True)
    labels = torch.nn.utils.rnn.pad_sequence(
        [target["labels"] for target in targets], batch_first=True, padding_value=-1
    )
    with torch.device("meta"):  # the losses need no weights
        model = RetinaNet().build(CLASSES)
        reference = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES)

    def ours() -> None:
        found = model.losses_of(logits, offsets, anchors, boxes, labels)
        torch.autograd.grad(list(found.values()), (logits, offsets))

    def theirs() -> None:
        found = reference.compute_loss(
            targets, {"cls_logits": logits, "bbox_regression": offsets}, [anchors] * len(BOXES)
        )
        torch.autograd.grad(list(found.values()), (logits, offsets))

    return compare(ours, theirs, repeats)


def truth(count: int) -> dict[str, torch.Tensor]:
    corners = torch.rand(count, 2) * torch.tensor([WIDTH, HEIGHT]) * 0.8
    sides = 16 * 2 ** (4 * torch.rand(count, 2))
    return {"boxes": torch.cat((corners, corners + sides), dim=1), "labels": torch.randint(CLASSES, (count,))}


if __name__ == "__main__":
    report("matching and losses", 0.5, measure, repeats=15)
