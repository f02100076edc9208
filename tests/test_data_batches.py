from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data_cases import SHARED, one_line, shared, toy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data._utils.pin_memory import pin_memory

from benchsuite.data.batch import Batch
from benchsuite.data.batches import Batches, EvalBatches, loader
from benchsuite.data.locate import open_folder
from benchsuite.data.transforms import (
    Augment,
    Fixed,
    Flip,
    Input,
    IoUCrop,
    Jitter,
    PhotometricDistort,
    ShortSide,
    ShortSides,
    ZoomOut,
)
from benchsuite.errors import InputError

RESIZE = ShortSide(short=24, long=40, multiple=16)
SSD = (PhotometricDistort(), ZoomOut(), IoUCrop(), Flip())


def batches(
    augment: tuple[Augment, ...] = (Flip(), Jitter(low=0.7, high=1)),
    batch: int = 2,
    seed: int = 0,
    cache: Path | None = None,
    resize: Input = RESIZE,
) -> Batches:
    return Batches(toy().open(), resize, augment, batch, seed, 40, cache)


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(*pair) for pair in zip(held(one), held(other), strict=True))


def held(batch: Batch) -> list[Tensor]:
    return [value for value in vars(batch).values() if value is not None]


def test_a_batch_as_documented() -> None:
    data = toy().open()
    batch = EvalBatches(data, RESIZE, 2, None)[0]
    assert batch.image_ids.tolist() == [1, 2]
    assert batch.sizes.tolist() == [[24, 36], [36, 24]]
    assert batch.originals.tolist() == [[32, 48], [48, 32]]
    assert (batch.images.shape, batch.images.dtype) == ((2, 3, 48, 48), torch.uint8)
    assert (batch.sizes.dtype, batch.originals.dtype, batch.image_ids.dtype) == (torch.int64,) * 3
    assert (batch.boxes.dtype, batch.labels.dtype) == (torch.float32, torch.int64)
    assert torch.equal(batch.images[0, :, :24, :36], RESIZE.apply(data.read(0)))
    # Scaled by 3/4; the second box was clipped to the image first.
    assert batch.boxes[0].tolist() == [[3, 4.5, 10.5, 13.5], [22.5, 15, 36, 24]]
    assert batch.labels.tolist() == [[0, 1], [2, -1]]
    assert batch.boxes[1, 1].tolist() == [0, 0, 0, 0]


def test_evaluation_keeps_order_and_every_image() -> None:
    evaluation = EvalBatches(toy().open(), RESIZE, 2, None)
    assert [batch.image_ids.tolist() for batch in loader(evaluation, 0, len(evaluation))] == [[1, 2], [3, 4], [5]]
    # Image 3 has a crowd box, which is left out; image 4 has none.
    assert evaluation[1].labels.tolist() == [[2], [-1]]


def test_images_without_boxes_are_not_trained_on() -> None:
    seen = {number for batch in loader(batches(), 0, 40) for number in batch.image_ids.tolist()}
    assert seen == {1, 2, 3, 5}


@pytest.mark.parametrize("augment", [(), (Flip(), Jitter(low=0.7, high=1)), SSD])
def test_pure_function_of_seed_and_iteration(augment: tuple[Augment, ...], tmp_path: Path) -> None:
    first, second = batches(augment), batches(augment, cache=tmp_path)
    torch.manual_seed(1)
    forward = [first[i] for i in range(8)]
    torch.manual_seed(2)
    backward = [second[i] for i in reversed(range(8))][::-1]
    assert all(equal(*pair) for pair in zip(forward, backward, strict=True))


def test_seeds_and_epochs_differ() -> None:
    shapes = {tuple(batches(seed=seed)[i].images.flatten().tolist()) for seed in range(3) for i in range(6)}
    assert len(shapes) > 12


def test_batches_for_a_gpu_are_pinned_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's loader pins by a batch's own method, or else passes it on as it is, without a word."""
    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    batch = batches()[0]
    assert pin_memory(batch) is not batch
    held = [value for value in vars(batch).values() if value is not None]
    assert len(pinned) == len(held) == 6 and all(one is other for one, other in zip(pinned, held, strict=True))


AUGMENTS = [(), (Flip(), Jitter(low=0.7, high=1.3)), (ShortSides(sides=(16, 28), long=36),), SSD]


@pytest.mark.parametrize("resize", [RESIZE, Fixed(height=32, width=48)], ids=["short side", "fixed"])
@pytest.mark.parametrize("augment", AUGMENTS, ids=["none", "jitter", "sides", "ssd"])
def test_no_batch_is_larger_than_the_largest(augment: tuple[Augment, ...], resize: Input) -> None:
    made = batches(augment, batch=3, resize=resize)
    largest, others = made.largest(), [made[index] for index in range(40)]
    for side in (2, 3):
        assert largest.images.shape[side] >= max(batch.images.shape[side] for batch in others)
    assert largest.boxes.shape[1] == max(batch.boxes.shape[1] for batch in others) > 1
    assert len(largest.images) == 3 and (largest.labels >= 0).all()
    assert (largest.boxes[..., 2:] >= largest.boxes[..., :2]).all()
    if not augment:
        assert largest.images.shape[2:] == (
            max(b.images.shape[2] for b in others),
            max(b.images.shape[3] for b in others),
        )


def test_workers_make_the_same_batches_and_leave_the_generator_alone() -> None:
    before = torch.get_rng_state()
    made = list(loader(batches(), 3, 9, workers=2))
    assert all(equal(batch, batches()[i]) for i, batch in zip(range(3, 9), made, strict=True))
    list(loader(batches(), 0, 3))
    assert torch.equal(before, torch.get_rng_state())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 99), st.integers(0, 50))
def test_an_epoch_shows_each_image_at_most_once_grouped_by_aspect(count: int, size: int, seed: int, epoch: int) -> None:
    data = toy("val").open()
    some = np.arange(count) % 3
    rows = np.concatenate([np.arange(data.offsets[i], data.offsets[i + 1]) for i in some])
    many = replace(
        data,
        image_ids=np.arange(count),
        sizes=data.sizes[some],
        offsets=np.concatenate([[0], np.cumsum(np.diff(data.offsets)[some])]),
        **{name: getattr(data, name)[rows] for name in ("boxes", "labels", "areas", "crowd", "difficult")},
    )
    made = Batches(many, RESIZE, (), size, seed, 10, None)
    order = made.order(epoch)
    assert order.shape == (max(1, count // size), size)
    if size <= count:
        assert len(np.unique(order)) == order.size
    portrait = made.portrait[order].mean(axis=1)
    assert ((portrait > 0) & (portrait < 1)).sum() <= 1
    assert np.array_equal(order, Batches(many, RESIZE, (), size, seed, 10, None).order(epoch))


def test_ssd_input_is_warped_after_cropping() -> None:
    made = batches(SSD, resize=Fixed(height=20, width=30), batch=4)
    for step in range(5):
        batch = made[step]
        assert batch.images.shape == (4, 3, 20, 30)
        real = batch.labels >= 0
        assert real.any(1).all()
        assert (batch.boxes[real][:, 2:] <= torch.tensor([30.0, 20.0]) + 1e-4).all()
        assert (batch.boxes[real][:, 2:] > batch.boxes[real][:, :2]).all()


def test_bounds() -> None:
    made = batches()
    assert len(made) == 40
    for wrong in (-1, 40):
        with pytest.raises(IndexError):
            made[wrong]
    with pytest.raises(IndexError):
        EvalBatches(toy().open(), RESIZE, 2, None)[3]


def test_nothing_to_train_on() -> None:
    data = toy().open()
    with pytest.raises(InputError) as error:
        Batches(replace(data, crowd=np.ones(len(data.boxes), bool)), RESIZE, (), 2, 0, 4, None)
    one_line(error, "toy train", "none of its 5 images")


@shared
@pytest.mark.parametrize("name", ["coco_open", "bccd", "voc100"])
def test_real_images(name: str, tmp_path: Path) -> None:
    train, val = (split.open() for split in open_folder(SHARED / name))
    resize = ShortSide(short=96, long=160, multiple=32)
    batch = Batches(train, resize, (Flip(), Jitter(low=0.7, high=1)), 4, 0, 10, None)[3]
    assert (batch.labels >= 0).any(1).all()
    assert batch.images.shape[-2] % 32 == batch.images.shape[-1] % 32 == 0
    last = EvalBatches(val, resize, 8, tmp_path)
    assert last[len(last) - 1].image_ids[-1] == val.image_ids[-1]


def test_an_error_in_a_loader_process_stays_one_line() -> None:
    class Broken(Dataset[Batch]):
        def __getitem__(self, iteration: int) -> Batch:
            raise InputError(f"{iteration}.jpg: cannot be decoded")

    with pytest.raises(InputError, match=r"^3\.jpg: cannot be decoded$"):
        next(loader(Broken(), 3, 5, workers=1))
