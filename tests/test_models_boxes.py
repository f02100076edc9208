import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder as TorchvisionCoder
from torchvision.ops import box_iou, clip_boxes_to_image

from benchsuite.models.boxes import BoxCoder, clip, iou


def some_boxes(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(*shape, 2, generator=generator) * 100
    return torch.cat((corners, corners + 1 + 60 * torch.rand(*shape, 2, generator=generator)), dim=-1)


@given(st.integers(0, 1000))
def test_iou_equals_torchvisions(seed: int) -> None:
    boxes, anchors = some_boxes(seed, 3, 5), some_boxes(seed + 1, 11)
    expected = torch.stack([box_iou(image, anchors) for image in boxes])
    torch.testing.assert_close(iou(boxes, anchors), expected)


def naive_iou(first: list[float], second: list[float]) -> float:
    low, high = (max(first[i], second[i]) for i in (0, 1)), (min(first[i], second[i]) for i in (2, 3))
    width, height = (max(0.0, b - a) for a, b in zip(low, high, strict=True))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return width * height / (areas - width * height)


@given(st.integers(0, 1000))
def test_iou_with_anchors_that_move_equals_a_loop(seed: int) -> None:
    boxes, anchors = some_boxes(seed, 3, 5), some_boxes(seed + 1, 3, 4)
    expected = [
        [[naive_iou(box, anchor) for anchor in anchors[i].tolist()] for box in boxes[i].tolist()] for i in range(3)
    ]
    torch.testing.assert_close(iou(boxes, anchors), torch.tensor(expected))
    assert torch.equal(iou(boxes, anchors[:1].expand(3, -1, -1)), iou(boxes, anchors[0]))


def test_iou_of_nothing_with_nothing_is_zero() -> None:
    assert iou(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0


@given(st.integers(0, 1000), st.sampled_from([(1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2), (0.1, 0.2, 0.3, 0.4)]))
def test_encode_and_decode_are_torchvisions_and_inverse(
    seed: int, variances: tuple[float, float, float, float]
) -> None:
    boxes, anchors = some_boxes(seed, 7), some_boxes(seed + 1, 7)
    coder, reference = BoxCoder(variances=variances), TorchvisionCoder([1 / variance for variance in variances])
    offsets = coder.encode(boxes, anchors)
    torch.testing.assert_close(offsets, reference.encode_single(boxes, anchors))
    far = coder.decode(offsets * 3, anchors)
    torch.testing.assert_close(far, reference.decode_single(offsets * 3, anchors), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(coder.decode(offsets, anchors), boxes, atol=1e-3, rtol=1e-4)


def test_variances_are_what_offsets_are_divided_by() -> None:
    """padet.spec 7: half a side to the right and down, grown by e^0.2."""
    anchor, offsets = torch.tensor([0.4, 0.3, 0.6, 0.7]), torch.tensor([1.0, -1, 0.5, -0.5])
    x, y, w, h = 0.52, 0.46, 0.2210342, 0.3619350
    expected = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    torch.testing.assert_close(BoxCoder(variances=(0.1, 0.1, 0.2, 0.2)).decode(offsets, anchor), expected)
    with pytest.raises(ValidationError):
        BoxCoder(variances=(0.1, 0.1, 0.2, 0.0))


def test_decode_bounds_growth() -> None:
    assert BoxCoder().decode(torch.tensor([0.0, 0, 1e9, 1e9]), torch.tensor([0.0, 0, 16, 16])).isfinite().all()


def test_clip_each_image_at_its_own_size() -> None:
    boxes, sizes = some_boxes(0, 2, 9) * 2 - 50, torch.tensor([[60, 90], [100, 30]])
    expected = torch.stack([clip_boxes_to_image(b, tuple(s.tolist())) for b, s in zip(boxes, sizes, strict=True)])
    assert torch.equal(clip(boxes, sizes), expected)
