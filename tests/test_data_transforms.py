import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torchvision import tv_tensors

from benchsuite.data.transforms import (
    Augment,
    Fixed,
    Flip,
    IoUCrop,
    Jitter,
    PhotometricDistort,
    ShortSide,
    ZoomOut,
    sample_rng,
    split_at_resize,
)

EVERY = (Flip(p=1), Jitter(low=0.7, high=1), PhotometricDistort(), ZoomOut(p=1), IoUCrop())


def sample(height: int = 40, width: int = 60) -> dict[str, torch.Tensor]:
    image = torch.arange(3 * height * width).remainder(251).to(torch.uint8).view(3, height, width)
    boxes = torch.tensor([[4.0, 5, 24, 30], [30, 10, 60, 40]])
    marked = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width))
    return {"image": tv_tensors.Image(image), "boxes": marked, "labels": torch.tensor([3, 7])}


def test_har_net_sizes() -> None:
    """har-net.spec.md, section 7, item 15 (width x height there)."""
    resize = ShortSide(short=600, long=1000)
    assert resize.target(480, 640) == (600, 800)
    assert resize.target(320, 640) == (500, 1000)
    assert resize.multiple == 128
    assert ShortSide(short=750, long=1125).target(480, 640) == (750, 1000)  # item 11


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 900), st.integers(0, 900))
def test_short_side_limits(height: int, width: int, short: int, more: int) -> None:
    resize = ShortSide(short=short, long=short + more)
    new = resize.target(height, width)
    assert max(new) <= short + more
    assert min(new) == short or max(new) == short + more
    assert resize.target(width, height) == new[::-1]
    scale = max(new) / max(height, width)
    assert abs(min(new) - min(height, width) * scale) <= max(1, 0.5 * (1 + min(height, width) / max(height, width)))


def test_apply_resizes_pixels() -> None:
    image = np.full((480, 640, 3), (10, 20, 30), np.uint8)
    small = ShortSide(short=60, long=100).apply(image)
    assert (small.shape, small.dtype) == ((3, 60, 80), torch.uint8)
    assert small.is_contiguous()
    assert small[:, 30, 40].tolist() == [10, 20, 30]
    assert Fixed(height=7, width=9).apply(image).shape == (3, 7, 9)
    image.flags.writeable = False
    assert torch.equal(ShortSide(short=480, long=640).apply(image)[0], torch.full((480, 640), 10))


def test_bad_settings() -> None:
    for make in (
        lambda: ShortSide(short=600, long=500),
        lambda: Jitter(low=1, high=0.7),
        lambda: Flip(p=1.5),
        lambda: Fixed(height=0, width=3),
    ):
        with pytest.raises(ValidationError):
            make()


def test_flip_mirrors_image_and_boxes() -> None:
    before, after = sample(), Flip(p=1).build()(sample())
    assert torch.equal(after["image"], before["image"].flip(-1))
    assert after["boxes"].tolist() == [[36, 5, 56, 30], [0, 10, 30, 40]]
    assert torch.equal(Flip(p=0).build()(before)["image"], before["image"])


def test_jitter_scales_both_sides_alike() -> None:
    jitter = Jitter(low=0.7, high=1).build()
    factors = []
    for index in range(50):
        with sample_rng(0, 0, index):
            after = jitter(sample(400, 600))
        factors.append(after["image"].shape[-1] / 600)
        assert abs(after["image"].shape[-2] / 400 - factors[-1]) < 0.003
        ratio = torch.tensor([after["image"].shape[-1] / 600, after["image"].shape[-2] / 400] * 2)
        torch.testing.assert_close(after["boxes"].as_subclass(torch.Tensor), sample()["boxes"] * ratio)
    assert 0.7 <= min(factors) < 0.75 and 0.95 < max(factors) <= 1


@pytest.mark.parametrize("augment", EVERY)
def test_boxes_stay_inside_with_their_labels(augment: Augment) -> None:
    transform = augment.build()
    for index in range(10):
        with sample_rng(3, 1, index):
            after = transform(sample())
        height, width = after["image"].shape[-2:]
        assert after["image"].dtype == torch.uint8
        assert len(after["boxes"]) == len(after["labels"]) > 0
        assert (after["boxes"] >= 0).all()
        assert (after["boxes"] <= torch.tensor([width, height, width, height])).all()


def test_resize_comes_after_what_reframes() -> None:
    before, after = split_at_resize([PhotometricDistort(), ZoomOut(), IoUCrop(), Flip()])
    assert (len(before), len(after)) == (3, 1)
    before, after = split_at_resize([Flip(), Jitter(low=0.7, high=1)])
    assert (len(before), len(after)) == (0, 2)


@given(st.integers(0, 2**40), st.integers(0, 999), st.integers(0, 10**7))
def test_randomness_is_a_function_of_seed_epoch_index(seed: int, epoch: int, index: int) -> None:
    outside = torch.get_rng_state()
    draws = []
    for shift in (0, 0, 1):
        with sample_rng(seed, epoch, index + shift):
            draws.append(torch.rand(4))
        torch.rand(shift)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    torch.set_rng_state(outside)


def test_global_generator_is_put_back_even_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), sample_rng(1, 2, 3):
        torch.rand(5)
        raise RuntimeError
    assert torch.equal(before, torch.get_rng_state())


def test_an_image_whose_boxes_all_vanish_stays_whole() -> None:
    """A box of less than a pixel after the crop is left out; the last one left takes the crop with it."""
    sliver = sample()
    sliver["boxes"] = tv_tensors.BoundingBoxes([[4.0, 5, 4.5, 30]], format="XYXY", canvas_size=(40, 60))
    sliver["labels"] = torch.tensor([3])
    crop = IoUCrop().build()
    for index in range(30):
        with sample_rng(0, 0, index):
            after = crop(sliver)
        assert after["labels"].tolist() == [3] and after["image"].shape == (3, 40, 60)


@pytest.mark.parametrize("size", [(1, 1), (1, 60), (3, 3)])
def test_an_image_too_small_to_crop_stays_whole(size: tuple[int, int]) -> None:
    tiny = sample(*size)
    tiny["boxes"] = tv_tensors.BoundingBoxes([[0.0, 0, size[1], size[0]]] * 2, format="XYXY", canvas_size=size)
    crop = IoUCrop().build()
    for index in range(30):
        with sample_rng(0, 0, index):
            assert crop(tiny)["image"].shape == (3, *size)
