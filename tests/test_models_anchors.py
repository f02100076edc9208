import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torchvision.models.detection.anchor_utils import AnchorGenerator

from benchsuite.models.anchors import PyramidAnchors

STRIDES = (8, 16, 32, 64, 128)
CPU = torch.device("cpu")


def maps(height: int, width: int) -> tuple[tuple[int, int], ...]:
    return tuple((math.ceil(height / stride), math.ceil(width / stride)) for stride in STRIDES)


def count(anchors: PyramidAnchors, height: int, width: int) -> int:
    return len(anchors.grid(maps(height, width), STRIDES, (height, width), CPU))


def test_counts_of_har_net() -> None:
    nine = PyramidAnchors(scales=(1, 2 ** (1 / 3), 2 ** (2 / 3)))
    assert count(PyramidAnchors(), 640, 1024) == 81_840
    assert count(nine, 640, 1024) == 122_760
    assert count(PyramidAnchors(), 600, 1000) == 75_462
    assert [h * w for h, w in maps(640, 1024)] == [10240, 2560, 640, 160, 40]


def test_sides_of_har_net() -> None:
    square = PyramidAnchors(ratios=(1,))
    sides = [width for stride in STRIDES for width, _ in square.shapes(stride)]
    assert sides[:2] == pytest.approx([32, 45.25], abs=0.01)
    assert sides[-2:] == pytest.approx([512, 724.08], abs=0.01)


def test_ratio_is_height_over_width_at_equal_area() -> None:
    shapes = PyramidAnchors(scales=(1,)).shapes(8)
    assert [height / width for width, height in shapes] == pytest.approx([0.5, 1, 2])
    assert [height * width for width, height in shapes] == pytest.approx([32**2] * 3)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3), st.sampled_from([0.0, 0.5]))
def test_equals_a_loop(shapes: list[tuple[int, int]], offset: float) -> None:
    anchors = PyramidAnchors(offset=offset)
    strides = STRIDES[: len(shapes)]
    expected = []
    for (height, width), stride in zip(shapes, strides, strict=True):
        for row in range(height):
            for column in range(width):
                for w, h in anchors.shapes(stride):
                    x, y = (column + offset) * stride, (row + offset) * stride
                    expected.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    torch.testing.assert_close(anchors.grid(tuple(shapes), strides, (0, 0), CPU), torch.tensor(expected))


def test_order_and_place_are_torchvisions() -> None:
    # torchvision rounds the corners, so whole numbers are compared: ratio 1 and even sides
    reference = AnchorGenerator(((32, 64), (64, 128)), ((1.0,),) * 2)
    grids = reference.grid_anchors([[2, 3], [1, 2]], [[torch.tensor(8)] * 2, [torch.tensor(16)] * 2])
    ours = PyramidAnchors(scales=(1, 2), ratios=(1,)).grid(((2, 3), (1, 2)), (8, 16), (0, 0), CPU)
    assert torch.equal(ours, torch.cat(grids))


def test_kept_grid_may_be_trained_with_after_inference() -> None:
    with torch.inference_mode():
        grid = PyramidAnchors(base=5).grid(((2, 2),), (8,), (16, 16), CPU)
    assert not grid.is_inference()
    assert PyramidAnchors(base=5).grid(((2, 2),), (8,), (16, 16), CPU) is grid


@pytest.mark.parametrize("wrong", [{"scales": ()}, {"ratios": (0,)}, {"base": -4}, {"offset": 2}])
def test_refuses(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PyramidAnchors.model_validate(wrong)
