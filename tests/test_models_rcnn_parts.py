import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, roi_align

from benchsuite.models.fpn import PooledFpn
from benchsuite.models.losses import SmoothL1
from benchsuite.models.rcnn_parts import Proposals, Roi, RoiAlign, Rpn, with_image


def some_boxes(count: int, width: int, height: int) -> Tensor:
    corners = torch.rand(count, 2) * torch.tensor([width, height]) * 0.8
    return torch.cat((corners, corners + 2 + torch.rand(count, 2) * torch.tensor([width, height]) * 0.9), dim=1)


def smooth_l1(x: float, beta: float) -> float:
    return x * x / (2 * beta) if abs(x) < beta else abs(x) - beta / 2


def test_pooled_pyramid() -> None:
    torch.manual_seed(0)
    neck = PooledFpn(channels=6).build((3, 5, 7), (4, 8, 16))
    torch.manual_seed(0)
    theirs = FeaturePyramidNetwork([3, 5, 7], 6)
    assert neck.strides == (4, 8, 16, 32) and neck.channels == (6,) * 4
    maps = [torch.randn(2, channels, side, side) for channels, side in ((3, 20), (5, 10), (7, 5))]
    levels = neck(maps)
    expected = list(theirs({str(i): level for i, level in enumerate(maps)}).values())
    for level, wanted in zip(levels[:3], expected, strict=True):
        assert torch.equal(level, wanted)
    assert torch.equal(levels[3], levels[2][:, :, ::2, ::2])


@pytest.mark.parametrize("sampling", [0, 2])
def test_roi_align_equals_torchvisions(sampling: int) -> None:
    torch.manual_seed(0)
    levels = [torch.randn(2, 4, 256 // stride, 320 // stride) for stride in (4, 8, 16, 32)]
    boxes = [some_boxes(30, 320, 256), some_boxes(7, 320, 256)]
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 5, sampling)
    expected = theirs({str(i): level for i, level in enumerate(levels)}, boxes, [(256, 320), (200, 300)])
    ours = RoiAlign(Roi(size=5, sampling=sampling), (4, 8, 16, 32))
    torch.testing.assert_close(ours(levels, *with_image(boxes)), expected)
    # the strides are known, whatever part of the batch's frame the images fill
    small = [each / 8 for each in boxes]
    assert ours(levels, *with_image(small)).shape == (37, 4, 5, 5)
    torch.testing.assert_close(ours(levels, *with_image(small)), roi_align(levels[0], small, 5, 1 / 4, sampling))


def test_aligned_roi_align() -> None:
    levels, boxes = [torch.randn(2, 3, 10, 12)], [some_boxes(5, 190, 160), some_boxes(3, 190, 160)]
    ours = RoiAlign(Roi(size=4, sampling=0, aligned=True), (16,))(levels, *with_image(boxes))
    torch.testing.assert_close(ours, roi_align(levels[0], boxes, 4, 1 / 16, aligned=True))
    assert not torch.allclose(ours, roi_align(levels[0], boxes, 4, 1 / 16))


def test_boxes_are_pooled_from_the_level_of_their_size() -> None:
    levels = [torch.full((1, 1, 2048 // stride, 2048 // stride), float(stride)) for stride in (4, 8, 16, 32)]
    sides = torch.tensor([10.0, 111.0, 113.0, 223.0, 225.0, 447.0, 449.0, 2000.0])
    boxes = torch.stack((sides * 0, sides * 0, sides, sides), dim=1)
    pooled = RoiAlign(Roi(size=2), (4, 8, 16, 32))(levels, boxes, torch.zeros(len(boxes)).long())
    assert pooled[:, 0, 0, 0].tolist() == [4, 4, 8, 8, 16, 16, 32, 32]


@pytest.mark.parametrize("beta", [0.0, 1 / 9, 1.0])
def test_losses_of_proposals(beta: float) -> None:
    torch.manual_seed(0)
    settings = Rpn(batch=12, positive_fraction=1.0, bbox_regression=SmoothL1(beta=beta))
    network = settings.build(8, (4,))
    labels = [torch.tensor([1.0, 0, -1, 0, 1, 0]), torch.tensor([0.0, -1, -1, 0, 1, 0])]
    objectness, deltas = torch.randn(12, 1), torch.randn(12, 4)
    targets = [torch.randn(6, 4), torch.randn(6, 4)]
    entropy, distance, count = 0.0, 0.0, 0
    for i, label in enumerate(torch.cat(labels).tolist()):
        if label >= 0:  # as many are drawn as there are
            p = 1 / (1 + math.exp(-objectness[i].item()))
            entropy -= math.log(p if label else 1 - p)
            count += 1
        if label == 1:
            distance += sum(smooth_l1(x, beta) for x in (deltas[i] - torch.cat(targets)[i]).tolist())
    found = network.compute_loss(objectness, deltas, labels, targets)
    assert count == 9
    assert [loss.item() for loss in found] == pytest.approx([entropy / count, distance / count], rel=1e-5)


@pytest.mark.parametrize("beta", [0.0, 1 / 9, 1.0])
def test_losses_of_rois(beta: float) -> None:
    torch.manual_seed(0)
    heads = Roi(bbox_regression=SmoothL1(beta=beta)).build((16,), None, 8, 2)
    logits, deltas = torch.randn(5, 3), torch.randn(5, 12)
    labels, targets = [torch.tensor([0, 2, 1]), torch.tensor([0, 2])], [torch.randn(3, 4), torch.randn(2, 4)]
    entropy, distance = 0.0, 0.0
    for i, label in enumerate(torch.cat(labels).tolist()):
        entropy -= logits[i, label].item() - math.log(sum(math.exp(x) for x in logits[i].tolist()))
        if label:
            offsets = deltas[i, 4 * label : 4 * label + 4] - torch.cat(targets)[i]
            distance += sum(smooth_l1(x, beta) for x in offsets.tolist())
    found = heads.losses(logits, deltas, labels, targets)
    assert [loss.item() for loss in found] == pytest.approx([entropy / 5, distance / 5], rel=1e-5)


def test_no_rois_no_loss() -> None:
    heads = Roi().build((16,), None, 8, 2)
    logits, deltas = heads.box_predictor(torch.zeros(0, 8))
    losses = heads.losses(logits, deltas, [torch.zeros(0, dtype=torch.long)], [torch.zeros(0, 4)])
    assert [loss.item() for loss in losses] == [0, 0]
    assert heads.decode(deltas, torch.zeros(0, 4)).shape == (0, 2, 4)
    assert (
        RoiAlign(Roi(), (4, 8))(
            [torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 4, 4)], torch.zeros(0, 4), torch.zeros(0).long()
        ).numel()
        == 0
    )


def test_as_many_proposals_as_the_settings_say() -> None:
    torch.manual_seed(0)
    counts = {"train": Proposals(before_nms=50, after_nms=7), "test": Proposals(before_nms=50, after_nms=5)}
    network = Rpn(**counts, nms=1.0).build(4, (8, 16))  # nothing is suppressed
    levels = {0: torch.randn(2, 4, 8, 8), 1: torch.randn(2, 4, 4, 4)}
    images = ImageList(torch.zeros(2, 3, 64, 64), [(64, 64), (40, 60)])
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    assert [len(boxes) for boxes in network(images, levels, [nothing] * 2)[0]] == [7, 7]
    boxes, losses = network.eval()(images, levels)
    assert [len(each) for each in boxes] == [5, 5] and not losses
    assert boxes[1][:, 0::2].max() <= 60 and boxes[1][:, 1::2].max() <= 40


def test_default_anchors_are_torchvisions() -> None:
    settings = Rpn()
    for stride, side in ((4, 32), (8, 64), (16, 128), (32, 256), (64, 512)):
        shapes = settings.anchors.shapes(stride)
        assert [round((w * h) ** 0.5) for w, h in shapes] == [side] * 3
        assert [h / w for w, h in shapes] == pytest.approx([0.5, 1, 2])


@pytest.mark.parametrize(
    "wrong",
    [
        {"negative": 0.8},
        {"positive": 1.2},
        {"batch": 0},
        {"train": {"before_nms": 100}},
        {"bbox_regression": {"beta": -1}},
        {"anchors": {"scales": []}},
    ],
)
def test_refuses(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        Rpn.model_validate(wrong)
    assert len(caught.value.errors()) == 1
