import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou, clip_boxes_to_image

from benchsuite.models.boxes import clip, decode, encode, iou


def some_boxes(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(*shape, 2, generator=generator) * 100
    return torch.cat((corners, corners + 1 + 60 * torch.rand(*shape, 2, generator=generator)), dim=-1)


@given(st.integers(0, 1000))
def test_iou_equals_torchvisions(seed: int) -> None:
    boxes, anchors = some_boxes(seed, 3, 5), some_boxes(seed + 1, 11)
    expected = torch.stack([box_iou(image, anchors) for image in boxes])
    torch.testing.assert_close(iou(boxes, anchors), expected)


def test_iou_of_nothing_with_nothing_is_zero() -> None:
    assert iou(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0


@given(st.integers(0, 1000))
def test_encode_and_decode_are_torchvisions_and_inverse(seed: int) -> None:
    boxes, anchors = some_boxes(seed, 7), some_boxes(seed + 1, 7)
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    offsets = encode(boxes, anchors)
    torch.testing.assert_close(offsets, coder.encode_single(boxes, anchors))
    torch.testing.assert_close(decode(offsets * 3, anchors), coder.decode_single(offsets * 3, anchors))
    torch.testing.assert_close(decode(offsets, anchors), boxes, atol=1e-3, rtol=1e-4)


def test_decode_bounds_growth() -> None:
    assert decode(torch.tensor([0.0, 0, 1e9, 1e9]), torch.tensor([0.0, 0, 16, 16])).isfinite().all()


def test_clip_each_image_at_its_own_size() -> None:
    boxes, sizes = some_boxes(0, 2, 9) * 2 - 50, torch.tensor([[60, 90], [100, 30]])
    expected = torch.stack([clip_boxes_to_image(b, tuple(s.tolist())) for b, s in zip(boxes, sizes, strict=True)])
    assert torch.equal(clip(boxes, sizes), expected)
