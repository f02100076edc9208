"""One training step (forward, backward, SGD) of RetinaNet on ResNet-50: ours against torchvision's, side by side.

Same anchors, trainable parameters, norms and precision: batch 4 of 256×256, 80 classes, HAR-Net's freezing and the
same freezing of torchvision's (its frozen norms), two threads, channels_last. Prints ours / torchvision's.
"""

from collections.abc import Callable

import torch
import torchvision
from pairs import compare, report
from torch import Tensor, nn
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from benchsuite.data.batch import Batch
from benchsuite.models.dense import DenseDetector
from benchsuite.models.retinanet import RetinaNet

IMAGES, SIDE, BOXES, CLASSES = 4, 256, 7, 80


def a_batch() -> Batch:
    corners = torch.rand(IMAGES, BOXES, 2) * (SIDE - 64)
    boxes = torch.cat((corners, corners + 16 + 48 * torch.rand(IMAGES, BOXES, 2)), dim=-1)
    return Batch(
        images=torch.randint(256, (IMAGES, 3, SIDE, SIDE), dtype=torch.uint8),
        sizes=torch.full((IMAGES, 2), SIDE),
        originals=torch.full((IMAGES, 2), SIDE),
        image_ids=torch.arange(IMAGES),
        boxes=boxes,
        labels=torch.randint(CLASSES, (IMAGES, BOXES)),
    )


def freeze(stem_and_first: list[nn.Module], backbone: nn.Module) -> list[nn.Module]:
    """HAR-Net's freezing: stem, first stage, every norm. Returns what must stay in evaluation mode."""
    frozen = [*stem_and_first, *(module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d))]
    for module in frozen:
        module.requires_grad_(False).eval()
    return frozen


def our_model() -> DenseDetector:
    model = RetinaNet().build(CLASSES)
    backbone = model.backbone
    backbone.frozen = freeze([backbone.stages[0], backbone.stages[1]], backbone)
    return model


def torchvision_model() -> torchvision.models.detection.RetinaNet:
    strides = 8, 16, 32, 64, 128
    model = retinanet_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES,
        anchor_generator=AnchorGenerator(
            tuple((4 * stride, int(4 * stride * 2**0.5)) for stride in strides), ((0.5, 1.0, 2.0),) * len(strides)
        ),
        _skip_resize=True,
    )
    model.backbone.fpn.extra_blocks = LastLevelP6P7(2048, 256)  # RetinaNet's P6 is made of C5
    body = model.backbone.body
    freeze([body.conv1, body.layer1], body)
    return model


def measure(repeats: int) -> list[tuple[float, float]]:
    batch = a_batch()
    images = list(batch.images.float() / 255)
    targets = [{"boxes": boxes, "labels": labels} for boxes, labels in zip(batch.boxes, batch.labels, strict=True)]
    ours = our_model().to(memory_format=torch.channels_last)
    theirs = torchvision_model().to(memory_format=torch.channels_last)
    trained = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (ours, theirs)]
    if trained[0] != trained[1]:
        raise SystemExit(f"the models do not train the same parameters: {trained[0]:,} and {trained[1]:,}")
    return compare(step(ours, lambda: ours.losses(batch)), step(theirs, lambda: theirs(images, targets)), repeats)


def step(model: nn.Module, losses: Callable[[], dict[str, Tensor]]) -> Callable[[], None]:
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=1e-4, momentum=0.9, weight_decay=1e-4
    )

    def one() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(torch.stack(list(losses().values())).sum())
        optimizer.step()

    return one


if __name__ == "__main__":
    report("training step", 1.0, measure, repeats=7)
