"""ssd.py: torchvision's SSD300 with the same weights, its losses and mined negatives; levels, heads, bad input."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from benchsuite.data.batch import Batch
from benchsuite.errors import InputError
from benchsuite.models.anchors import Anchors, Shape
from benchsuite.models.boxes import BoxCoder
from benchsuite.models.default_boxes import DefaultBoxes
from benchsuite.models.dense import DenseDetector
from benchsuite.models.losses import Softmax
from benchsuite.models.normed import Normed
from benchsuite.models.postprocess import Hard, PostProcess
from benchsuite.models.resnet import ResNet
from benchsuite.models.ssd import SSD, Boxes513, Extra, Extras, Head, L2Norm
from benchsuite.models.ssd_sizes import Boxes321, Extras300, Extras321, Extras512
from benchsuite.models.vgg import Vgg

POST = PostProcess(score_threshold=0.01, per_level=None, per_class=400, nms=Hard(iou=0.45), per_image=200)
THEIR_MAPS = (38, 19, 10, 5, 3, 1)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def torchvisions() -> Any:
    """Torchvision's SSD300, built without the time that initial weights take: they are to be filled in."""
    with torch.device("meta"):
        theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=21)
    generator = theirs.anchor_generator
    theirs.anchor_generator = DefaultBoxGenerator(
        generator.aspect_ratios, scales=generator.scales, steps=generator.steps
    )
    return theirs.to_empty(device="cpu")


class Theirs(Anchors):
    """Torchvision's anchors of SSD300."""

    def per_cell(self, levels: int) -> tuple[int, ...]:
        return (4, 6, 6, 6, 4, 4)

    def make(self, maps: tuple[Shape, ...], strides: tuple[int, ...], frame: Shape) -> Tensor:
        images = ImageList(torch.empty(1, 3, *frame), [frame])
        found: Tensor = torchvisions().anchor_generator(images, [torch.empty(1, 1, *shape) for shape in maps])[0]
        return found


SSD300 = SSD(backbone=Vgg(), neck=L2Norm(of=Extras300()), anchors=Theirs())


def pair() -> tuple[Any, Any]:
    """Ours and torchvision's with the same weights; heads large enough that scores are far apart."""
    torch.manual_seed(0)
    ours: Any = SSD300.build(20)
    theirs = torchvisions()
    for layer in ours.head.cls_logits:
        layer.weight.data *= 4
    body = theirs.backbone
    for network, parts in (
        (ours.backbone, (body.features, body.extra[0])),
        (ours.neck.of, (body.extra[1:],)),
        (ours.head.cls_logits, (theirs.head.classification_head,)),
        (ours.head.bbox_regression, (theirs.head.regression_head,)),
    ):
        values = [value for part in parts for value in part.parameters()]
        for value, weights in zip(values, network.parameters(), strict=True):
            value.data = weights.data
    body.scale_weight.data = ours.neck.scale.data.flatten()
    theirs.transform.image_mean, theirs.transform.image_std = list(ours.backbone.mean), list(ours.backbone.std)
    return ours, theirs


def batch() -> Batch:
    boxes = torch.tensor(
        [[[20.0, 30, 120, 200], [150, 10, 290, 280], [5, 5, 40, 30]], [[60, 60, 250, 240], [0, 0, 0, 0], [0, 0, 0, 0]]]
    )
    sizes = torch.tensor([[300, 300]] * 2)
    images = torch.randint(0, 256, (2, 3, 300, 300), dtype=torch.uint8)
    return Batch(images, sizes, sizes, torch.arange(2), boxes, torch.tensor([[3, 7, 19], [11, -1, -1]]))


def test_as_torchvisions_ssd300() -> None:
    """Losses and detections of the same images with the same weights, torchvision's anchors taken over."""
    ours, theirs = pair()
    assert parameters(ours) == parameters(theirs) == 26_285_486
    seen = batch()
    images = list(seen.images / 255)
    with torch.no_grad():
        wanted = theirs.train()(
            images,
            [{"boxes": boxes[labels >= 0], "labels": labels[labels >= 0] + 1}
             for boxes, labels in zip(seen.boxes, seen.labels, strict=True)],
        )  # fmt: skip
        found = ours.train().losses(seen)
        expected = theirs.eval()(images)
        detections = ours.eval().detect(seen, POST)
    for name in ("classification", "bbox_regression"):
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-4)
    for image, reference in enumerate(expected):
        real = detections.labels[image] >= 0
        assert real.sum() == len(reference["scores"]) == 200
        torch.testing.assert_close(detections.scores[image], reference["scores"], rtol=1e-4, atol=1e-4)
        assert torch.equal(detections.labels[image], reference["labels"] - 1)
        torch.testing.assert_close(detections.boxes[image], reference["boxes"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_matching_and_mined_negatives_are_torchvisions(seed: int) -> None:
    """From random predictions: equal losses, and gradients at the same anchors, which are the positives and the mined
    negatives."""
    torch.manual_seed(seed)
    theirs = torchvisions()
    anchors = Theirs().make(tuple((side, side) for side in THEIR_MAPS), (), (300, 300))
    corners = torch.rand(3, 5, 4) * 140
    boxes = torch.cat((corners[..., :2], corners[..., :2] + corners[..., 2:] + 8), dim=-1)
    labels = torch.randint(0, 20, (3, 5))
    labels[1, 2:] = labels[2] = -1  # an image with padding, and one with nothing
    logits, offsets = (torch.randn(3, len(anchors), size).requires_grad_() for size in (21, 4))

    targets = [{"boxes": b[ls >= 0], "labels": ls[ls >= 0] + 1} for b, ls in zip(boxes, labels, strict=True)]
    matched = [
        theirs.proposal_matcher(box_iou(t["boxes"], anchors)) if len(t["boxes"]) else torch.full((len(anchors),), -1)
        for t in targets
    ]
    wanted = theirs.compute_loss(targets, {"bbox_regression": offsets, "cls_logits": logits}, [anchors] * 3, matched)
    wanted_at = torch.autograd.grad(sum(wanted.values()), (logits, offsets))

    detector = object.__new__(DenseDetector)
    nn.Module.__init__(detector)
    detector.settings = SSD300
    found = detector.losses_of(logits, offsets, anchors, boxes, labels)
    found_at = torch.autograd.grad(found["classification"] + found["bbox_regression"], (logits, offsets))
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-5, atol=1e-5)
    for ours_at, theirs_at in zip(found_at, wanted_at, strict=True):
        assert torch.equal(ours_at.abs().sum(-1) > 0, theirs_at.abs().sum(-1) > 0)
        torch.testing.assert_close(ours_at, theirs_at, rtol=1e-4, atol=1e-6)
    assert torch.equal(detector.settings.assignment.match(anchors, boxes, labels), torch.stack(matched))
    assert not found_at[0][2].any(), "an image without boxes has no positives to mine negatives for"


def test_loss_of_zero_logits() -> None:
    """4 ln 21 = 12.178 for each positive, which gets three negatives."""
    logits, targets = torch.zeros(2, 50, 21), torch.full((2, 50), -1)
    targets[0, :4] = 3
    targets[1, 7] = 0
    assert float(Softmax(mining=3).sum(logits, targets)) / 5 == pytest.approx(4 * math.log(21))
    assert 4 * math.log(21) == pytest.approx(12.178, abs=1e-4)


def test_a_truth_equal_to_an_anchor_is_nothing_to_learn() -> None:
    anchors = Boxes513().make(((65, 65), (33, 33), (17, 17), (9, 9), (5, 5), (3, 3), (1, 1)), (), (513, 513))
    some = anchors[[0, 16900, 25843]]
    coder = SSD().coder
    assert coder == BoxCoder(variances=(0.1, 0.1, 0.2, 0.2))
    torch.testing.assert_close(coder.encode(some, some), torch.zeros(3, 4))


def test_extra_levels_of_513() -> None:
    with torch.device("meta"):
        neck = Extras().build((512, 1024, 2048), (8, 16, 32))
        levels = neck.eval()([torch.empty(1, c, f, f) for c, f in ((512, 65), (1024, 33), (2048, 17))])
    assert [tuple(level.shape[1:]) for level in levels[3:]] == [(1024, 9, 9), (512, 5, 5), (256, 3, 3), (256, 1, 1)]
    assert neck.channels == tuple(level.shape[1] for level in levels)
    assert [parameters(block) for block in neck.blocks] == [5_771_776, 1_444_096, 361_600, 328_832]


@pytest.mark.parametrize(
    ("extras", "channels", "cells"),
    [
        (Extras321(), (512, 1024, 2048), [41, 21, 11, 6, 3, 1]),
        (Extras300(), (512, 1024), [38, 19, 10, 5, 3, 1]),
        (Extras512(), (512, 1024), [64, 32, 16, 8, 4, 2, 1]),
    ],
)
def test_levels_of_other_sizes(extras: Extras, channels: tuple[int, ...], cells: list[int]) -> None:
    with torch.device("meta"):
        neck = extras.build(channels, (8, 16, 32)[: len(channels)]).eval()
        levels = neck([torch.empty(1, c, f, f) for c, f in zip(channels, cells, strict=False)])
    assert [level.shape[-1] for level in levels] == cells


def test_l2norm_is_the_length_of_each_cell() -> None:
    neck = L2Norm(of=Extras(blocks=(Extra(squeeze=2, channels=3),), norm=False), scale=20).build((4,), (8,))
    x = torch.randn(2, 4, 5, 6)
    found = neck([x])
    for image in range(2):
        for row in range(5):
            for column in range(6):
                cell = x[image, :, row, column]
                torch.testing.assert_close(found[0][image, :, row, column], 20 * cell / cell.square().sum().sqrt())
    torch.testing.assert_close(found[1], neck.of([x])[1]), "the next level is made of the map as it was"


def test_a_normed_neck_gets_maps_of_one_scale() -> None:
    neck = Normed(of=Extras(blocks=(Extra(squeeze=2, channels=3),), norm=False)).build((4, 5), (8, 16))
    maps = [10 + 8 * torch.randn(2, 4, 8, 6), 0.1 * torch.randn(2, 5, 4, 4)]
    levels = neck(maps)
    for level, x in zip(levels[:2], maps, strict=True):
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        torch.testing.assert_close(level, (x - mean) / (variance + 1e-5).sqrt())
    assert (neck.channels, neck.strides) == ((4, 5, 3), (8, 16, 32))
    torch.testing.assert_close(levels[2], neck.of(levels[:2])[2])


def test_head_orders_cells_then_anchors_then_classes() -> None:
    head = Head().build((3, 2), (8, 16), (2, 1), 5)
    levels = [torch.randn(2, 3, 2, 3), torch.randn(2, 2, 1, 1)]
    logits, offsets = head(levels)
    assert logits.shape == (2, 13, 5) and offsets.shape == (2, 13, 4)
    predicted = head.cls_logits[0](levels[0])  # [B, anchor · class, H, W]
    for row in range(2):
        for column in range(3):
            for anchor in range(2):
                at = (row * 3 + column) * 2 + anchor
                torch.testing.assert_close(logits[:, at], predicted[:, anchor * 5 : anchor * 5 + 5, row, column])
    torch.testing.assert_close(offsets[:, 12], head.bbox_regression[1](levels[1])[:, :, 0, 0])


def small(**changes: object) -> DenseDetector:
    anchors = DefaultBoxes(scales=(0.1, 0.2, 0.4, 0.6, 0.8), ratios=((2,), (2, 3), (2,), (2,)))
    settings = SSD(backbone=ResNet(depth=18), neck=Extras(blocks=(Extra(squeeze=8, channels=16),)), anchors=anchors)
    return settings.model_copy(update=changes).build(3)


def test_too_small_an_input_is_one_line() -> None:
    with torch.device("meta"):
        detector = SSD().build(20).eval()
        with pytest.raises(
            InputError, match=r"no cell is left for level 7, after a level of 2×2; take a larger"
        ) as told:
            detector(torch.empty(1, 3, 321, 321))
    assert "\n" not in str(told.value)


def test_a_batch_of_one_image_with_a_level_of_one_cell_is_one_line() -> None:
    detector = small().train()
    image = torch.randn(1, 3, 64, 64)
    with pytest.raises(InputError, match=r"single value at level 4, 1×1 cells of one image; let solver.batch") as told:
        detector(image)
    assert "\n" not in str(told.value)
    assert detector(image.repeat(2, 1, 1, 1))[0].shape == (2, 8 * 8 * 4 + 4 * 4 * 6 + 2 * 2 * 4 + 4, 4)
    assert detector.eval()(image)[0].shape[0] == 1


def test_anchors_of_other_levels_are_one_line() -> None:
    with torch.device("meta"), pytest.raises(InputError, match="default boxes for 6 levels, and the model has 7"):
        SSD(anchors=Boxes321()).build(20)
