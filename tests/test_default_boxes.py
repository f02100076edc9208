"""SSD's anchors against the numbers that the papers print and a loop over cells."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.image_list import ImageList

from benchsuite.errors import InputError
from benchsuite.models.default_boxes import DefaultBoxes

CPU = torch.device("cpu")
FEW, MORE = (2.0,), (2.0, 3.0)

ASSD513 = DefaultBoxes(
    scales=(0.04, 0.10, 0.26, 0.42, 0.58, 0.74, 0.90, 1.06),
    ratios=(FEW, MORE, MORE, MORE, MORE, FEW, FEW),
    steps=(8, 16, 31, 57, 103, 171, 513),
)
ASSD321 = DefaultBoxes(
    scales=(0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
    ratios=(FEW, MORE, MORE, MORE, FEW, FEW),
    steps=(8, 16, 30, 54, 107, 321),
)
SSD300 = DefaultBoxes(
    scales=(0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
    ratios=(FEW, MORE, MORE, MORE, FEW, FEW),
    steps=(8, 16, 32, 64, 100, 300),
)
SSD512 = ASSD513.model_copy(update={"steps": (8, 16, 32, 64, 128, 256, 512)})


def square(*sides: int) -> tuple[tuple[int, int], ...]:
    return tuple((side, side) for side in sides)


@pytest.mark.parametrize(
    ("boxes", "side", "maps", "counts"),
    [
        (ASSD513, 513, (65, 33, 17, 9, 5, 3, 1), [16900, 6534, 1734, 486, 150, 36, 4]),
        (ASSD321, 321, (41, 21, 11, 6, 3, 1), [6724, 2646, 726, 216, 36, 4]),
        (SSD300, 300, (38, 19, 10, 5, 3, 1), [5776, 2166, 600, 150, 36, 4]),
        (SSD512, 512, (64, 32, 16, 8, 4, 2, 1), [16384, 6144, 1536, 384, 96, 16, 4]),
    ],
)
def test_anchors_of_each_level(boxes: DefaultBoxes, side: int, maps: tuple[int, ...], counts: list[int]) -> None:
    """25,844, 10,352, 8,732 and 24,564 anchors (assd.spec.md, section 6)."""
    per_cell = boxes.per_cell(len(maps))
    assert [f * f * per for f, per in zip(maps, per_cell, strict=True)] == counts
    found = boxes.grid(square(*maps), (), (side, side), CPU)
    assert found.shape == (sum(counts), 4) and found.dtype == torch.float32
    torch.testing.assert_close(found, naive(boxes, side, maps), atol=1e-3, rtol=0)


def naive(boxes: DefaultBoxes, side: int, maps: tuple[int, ...]) -> torch.Tensor:
    rows = []
    for level, cells in enumerate(maps):
        step = boxes.steps[level] if boxes.steps else side / cells
        scale, following = boxes.scales[level], boxes.scales[level + 1]
        shapes = [(scale, scale), (math.sqrt(scale * following),) * 2]
        for ratio in boxes.ratios[level]:
            wide, narrow = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            shapes += [(wide, narrow), (narrow, wide)]
        for y in range(cells):
            for x in range(cells):
                for width, height in shapes:
                    centre = (x + 0.5) * step, (y + 0.5) * step
                    half = width * side / 2, height * side / 2
                    rows.append([centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1]])
    return torch.tensor(rows)


def test_first_anchor_of_513() -> None:
    """(.5·8/513, same, .04, .04) as fractions of the input: nothing is clipped."""
    x1, y1, x2, y2 = ASSD513.grid(square(65, 33, 17, 9, 5, 3, 1), (), (513, 513), CPU)[0].tolist()
    assert ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1) == pytest.approx((4, 4, 20.52, 20.52))
    assert x1 < 0


def test_counts_outside() -> None:
    """At 513, 906 centres lie outside the image and 70 anchors are wider or higher (spec, section 5, item 11)."""
    found = ASSD513.grid(square(65, 33, 17, 9, 5, 3, 1), (), (513, 513), CPU)
    centres, sides = (found[:, :2] + found[:, 2:]) / 2, found[:, 2:] - found[:, :2]
    assert int((centres > 513).any(1).sum()) == 906
    assert int((sides > 513).any(1).sum()) == 70


def test_even_steps_divide_the_input_in_both_directions() -> None:
    boxes = DefaultBoxes(scales=(0.1, 0.2, 0.3), ratios=((), FEW))
    found = boxes.grid(((2, 4), (1, 2)), (), (20, 80), CPU)
    centres, sides = (found[:, :2] + found[:, 2:]) / 2, found[:, 2:] - found[:, :2]
    assert boxes.per_cell(2) == (2, 4) and len(found) == 2 * 8 + 4 * 2
    assert centres[0].tolist() == pytest.approx([10, 5]) and centres[-1].tolist() == pytest.approx([60, 10])
    assert sides[0].tolist() == pytest.approx([8, 2]), "a scale is a fraction of each side"


def test_as_torchvisions_ssd300() -> None:
    """Its anchors but for the clipping, with its own scales."""
    generator = ssd300_vgg16(weights=None, weights_backbone=None).anchor_generator
    ours = SSD300.model_copy(update={"scales": tuple(generator.scales)})
    generator.clip = False
    images = ImageList(torch.empty(1, 3, 300, 300), [(300, 300)])
    maps = (38, 19, 10, 5, 3, 1)
    theirs = generator(images, [torch.empty(1, 1, side, side) for side in maps])[0]
    assert torch.equal(ours.grid(square(*maps), (), (300, 300), CPU), theirs)


def test_kept_for_the_next_call_and_usable_in_training() -> None:
    maps, frame = square(38, 19, 10, 5, 3, 1), (300, 300)
    with torch.inference_mode():
        first = SSD300.grid(maps, (), frame, CPU)
    assert SSD300.grid(maps, (), frame, CPU) is first
    assert not first.is_inference()


def test_a_scale_falls_between_its_neighbours() -> None:
    for boxes in (ASSD513, ASSD321):
        assert all(finer < coarser for finer, coarser in pairwise(boxes.scales))


def test_an_input_that_does_not_fit_is_one_line() -> None:
    with pytest.raises(InputError, match=r"default boxes for 7 levels, and the model has 6; give ratios"):
        ASSD513.per_cell(6)
    with pytest.raises(InputError, match=r"a step of 8 px divides an input of 321×321 into 41×41 cells") as raised:
        ASSD513.grid(square(65, 33, 17, 9, 5, 3, 1), (), (321, 321), CPU)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"scales": [0.1, 0.2]}, "2 scales for 2 levels of ratios; give 3"),
        ({"steps": [8]}, "1 steps for 2 levels of ratios; give 2"),
        ({"ratios": [[2], [-1]]}, "greater than 0"),
    ],
)
def test_bad_settings(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        DefaultBoxes.model_validate({"scales": [0.1, 0.2, 0.3], "ratios": [[2], [2, 3]], **wrong})
