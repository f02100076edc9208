"""Masks in batches, on their objects through every augmentation; and a detector's masks, pasted and encoded."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from data_cases import one_line, toy
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as reference
from test_masks import decoded, overlap, whole_boxes
from torch import Tensor
from torch.nn.functional import grid_sample

from benchsuite.data import masks
from benchsuite.data.batches import Batches, EvalBatches, Samples
from benchsuite.data.dataset import GRID, DetectionSet
from benchsuite.data.generated import Generated
from benchsuite.data.masks import encode, paste
from benchsuite.data.transforms import Augment, Flip, IoUCrop, Jitter, PhotometricDistort, ShortSide, ZoomOut
from benchsuite.errors import InputError

RESIZE = ShortSide(short=96, long=160, multiple=32)


class Marked:
    """A generated set whose pictures show the masks: white where one is, the largest object alone in each picture."""

    def __init__(self) -> None:
        whole = Generated(images=8, seed=2, height=128, width=160).open()
        first = np.array([rows.start + whole.areas[rows].argmax() for rows in map(whole.rows, range(8))])
        count, opened = len(first), whole.open_masks()
        chosen = masks.Chosen(opened, first)
        self.data = DetectionSet(
            name="marked",
            classes=whole.classes,
            image_ids=np.arange(count),
            file_names=tuple(map(str, range(count))),
            sizes=whole.sizes[:count],
            boxes=whole.boxes[first],
            labels=whole.labels[first],
            areas=whole.areas[first],
            crowd=np.zeros(count, bool),
            difficult=np.zeros(count, bool),
            offsets=np.arange(count + 1),
            category_ids=whole.category_ids,
            read=lambda index: np.repeat(255 * decoded(chosen.rle(index))[..., None], 3, 2),
            masks=lambda: chosen,
        )


@pytest.mark.parametrize(
    "augment", [(), (Flip(p=1),), (Jitter(low=0.7, high=1),), (ZoomOut(p=1, largest=2), Flip(p=1)), (Flip(), Flip())]
)
def test_masks_stay_on_their_objects(augment: tuple[Augment, ...]) -> None:
    made = Batches(Marked().data, RESIZE, augment, 4, 0, 4, None, masks=True)
    for step in range(4):
        batch = made[step]
        assert batch.masks is not None
        assert (batch.masks.shape, batch.masks.dtype) == ((4, 1, GRID, GRID), torch.bool)
        height, width = batch.images.shape[-2:]
        placed = paste(batch.masks[:, 0], batch.boxes[:, 0], height, width).transpose(1, 2) >= 0.5
        for mask, image, size in zip(placed, batch.images, batch.sizes.tolist(), strict=True):
            seen = image[2, : size[0], : size[1]] > 127  # ZoomOut's canvas has 104 there
            assert overlap(mask[: size[0], : size[1]].numpy(), seen.numpy()) > 0.9


def test_mirrored_twice_is_as_before() -> None:
    sample = Samples(Marked().data, RESIZE, (Flip(p=1), Flip(p=1)), None, masks=True)
    once = Samples(Marked().data, RESIZE, (Flip(p=1),), None, masks=True)
    for index in range(8):
        before, twice, mirrored = sample.get(index), sample.augmented(index, 0, 0), once.augmented(index, 0, 0)
        assert before.masks is not None and twice.masks is not None and mirrored.masks is not None
        assert torch.equal(before.masks, twice.masks)
        assert torch.equal(before.masks.flip(2), mirrored.masks)


def test_colours_do_not_touch_masks() -> None:
    samples = Samples(Marked().data, RESIZE, (PhotometricDistort(p=1),), None, masks=True)
    before, after = samples.get(3), samples.augmented(3, 0, 0)
    assert before.masks is not None and after.masks is not None
    assert torch.equal(before.masks, after.masks)


def test_padding_rows_and_the_unasked(tmp_path: Path) -> None:
    data = whole_boxes(tmp_path).open()
    batch = Batches(data, RESIZE, (), 4, 0, 2, None, masks=True)[0]
    assert batch.masks is not None
    assert batch.masks.flatten(2).any(2).equal(batch.labels >= 0)  # crowds are left out, padding is empty
    parts = batch.split(3)
    assert [len(part.masks) for part in parts if part.masks is not None] == [3, 1]
    assert Batches(data, RESIZE, (), 4, 0, 2, None)[0].masks is None
    assert EvalBatches(data, RESIZE, 4, None)[0].masks is None


def test_masks_that_cannot_be_had() -> None:
    with pytest.raises(InputError) as error:
        Batches(toy().open(), RESIZE, (), 2, 0, 4, None, masks=True)
    one_line(error, "toy train", "no masks")
    with pytest.raises(InputError) as error:
        Batches(Marked().data, RESIZE, (Flip(), IoUCrop()), 2, 0, 4, None, masks=True)
    one_line(error, "transforms.IoUCrop")


# --- pasting


def naive_paste(probabilities: Tensor, box: Sequence[float], height: int, width: int) -> Tensor:
    """Every pixel's centre in the coordinates of the box, by torch's own sampling."""
    left, top, right, bottom = box
    x = ((torch.arange(width) + 0.5 - left) / (right - left)) * 2 - 1
    y = ((torch.arange(height) + 0.5 - top) / (bottom - top)) * 2 - 1
    grid = torch.stack((x[None].expand(height, -1), y[:, None].expand(-1, width)), 2)
    return grid_sample(probabilities[None, None], grid[None], align_corners=False, padding_mode="zeros")[0, 0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40))
def test_pasting_equals_sampling_each_pixel(seed: int, side: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(3, 2, generator=generator) * 30 - 10
    boxes = torch.cat((low, low + 0.5 + torch.rand(3, 2, generator=generator) * 30), 1)
    probabilities = torch.rand(3, side, side, generator=generator)
    pasted = paste(probabilities, boxes, height, width)
    assert pasted.shape == (3, width, height)
    for found, mask, box in zip(pasted, probabilities, boxes.tolist(), strict=True):
        torch.testing.assert_close(found.T, naive_paste(mask, box, height, width), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("at_a_time", [1, 20 * 30 * 2, 2**24])
def test_encoding_equals_pycocotools(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "PIXELS", at_a_time)
    torch.manual_seed(0)
    probabilities = torch.rand(5, 28, 28)
    low = torch.rand(5, 2) * 15
    boxes = torch.cat((low, low + torch.tensor([[3.0, 9.0]]) + torch.rand(5, 2)), 1)
    expected = (paste(probabilities, boxes, 20, 30) >= 0.5).numpy().transpose(2, 1, 0).astype(np.uint8)
    assert expected.any((0, 1)).all()
    assert encode(probabilities, boxes, 20, 30) == [
        rle["counts"] for rle in reference.encode(np.asfortranarray(expected))
    ]


def test_encoding_nothing() -> None:
    assert encode(torch.zeros(0, 28, 28), torch.zeros(0, 4), 20, 30) == []
    (text,) = encode(torch.ones(1, 28, 28), torch.tensor([[5.0, 5, 5, 5]]), 20, 30)  # a box without area
    assert reference.area({"size": [20, 30], "counts": text}) == 0


def test_a_certain_mask_fills_its_box() -> None:
    (text,) = encode(torch.ones(1, 28, 28), torch.tensor([[4.0, 2, 14, 12]]), 20, 30)
    found = decoded({"size": [20, 30], "counts": text})
    expected = np.zeros((20, 30))
    expected[2:12, 4:14] = 1
    assert np.array_equal(found, expected)
