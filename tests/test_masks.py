"""Masks read from annotations: run lengths, polygons, grids over boxes, and what is malformed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_cases import SHARED, damaged, one_line, shared, toy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as reference

from benchsuite.data import coco, cocofile
from benchsuite.data.dataset import GRID
from benchsuite.data.generated import Generated
from benchsuite.data.locate import open_folder
from benchsuite.data.masks import Packed, Segmentations, problem, run_lengths, to_rle
from benchsuite.data.subset import DetectionSubset, take
from benchsuite.errors import InputError

BINARY = st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed))
TRIANGLE = [[10.0, 4.0, 22.0, 4.0, 10.0, 20.0]]


def drawn(rng: np.random.Generator, height: int = 20, width: int = 30) -> NDArray[np.uint8]:
    """A random mask of blobs or of noise, some of them empty or full."""
    rough = rng.random((height // 5 + 1, width // 5 + 1)).repeat(5, 0).repeat(5, 1)[:height, :width]
    chosen = rough if rng.random() < 0.5 else rng.random((height, width))
    return (chosen < rng.choice([0, 0.2, 0.5, 0.8, 1])).astype(np.uint8)


def decoded(rle: Any) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = reference.decode(rle)
    return found


def overlap(one: NDArray[Any], other: NDArray[Any]) -> float:
    union = (one.astype(bool) | other.astype(bool)).sum()
    return float((one.astype(bool) & other.astype(bool)).sum() / union) if union else 1.0


def segmented(tmp_path: Path, *found: Any) -> coco.File:
    """The toy set with the segmentations of its annotations 1, 2, 3, 4 (no area), 5 (crowd), 6, 7."""

    def change(content: dict[str, Any]) -> None:
        for box, segmentation in zip(content["annotations"], found, strict=False):
            box["segmentation"] = segmentation

    return damaged(tmp_path, change)


def rectangle(x: float, y: float, w: float, h: float) -> list[list[float]]:
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def whole_boxes(tmp_path: Path) -> coco.File:
    crowd = {"size": [32, 48], "counts": [0, 32 * 40, 32 * 8]}
    return segmented(
        tmp_path, rectangle(4, 6, 10, 12), rectangle(30, 20, 30, 20), rectangle(2.5, 3.5, 20.25, 15), [],
        crowd, rectangle(10, 10, 8, 8), rectangle(0, 0, 16, 48),
    )  # fmt: skip


# --- run lengths


@settings(max_examples=60, deadline=None)
@given(BINARY)
def test_run_lengths_equal_counting_down_the_columns(rng: np.random.Generator) -> None:
    mask = drawn(rng)
    runs, value = [0], 0
    for column in range(mask.shape[1]):
        for row in range(mask.shape[0]):
            if mask[row, column] != value:
                runs.append(0)
                value = 1 - value
            runs[-1] += 1
    assert run_lengths(reference.encode(np.asfortranarray(mask))["counts"].decode()) == runs


@settings(max_examples=40, deadline=None)
@given(BINARY)
def test_both_forms_of_run_lengths_come_back(rng: np.random.Generator) -> None:
    mask = drawn(rng)
    text = reference.encode(np.asfortranarray(mask))["counts"].decode()
    for counts in (text, run_lengths(text)):
        written = {"size": [20, 30], "counts": counts}
        assert problem(written, 20, 30) is None
        assert np.array_equal(decoded(to_rle(written, 20, 30)), mask)


@settings(max_examples=40, deadline=None)
@given(BINARY, st.integers(1, 3))
def test_polygons_are_drawn_as_pycocotools_draws_them(rng: np.random.Generator, count: int) -> None:
    polygons = [(rng.random(2 * rng.integers(3, 9)) * 40 - 5).tolist() for _ in range(count)]
    boxes, sizes = np.array([[0.0, 0, 30, 20]]), np.array([[20, 30]], np.int32)
    read = Segmentations.of([polygons], boxes, sizes).rle(0)
    expected = reference.merge(reference.frPyObjects(polygons, 20, 30))
    assert (read["size"], read["counts"]) == (expected["size"], expected["counts"])


@given(st.lists(st.binary(max_size=9), max_size=6))
def test_packed_strings_come_back(strings: list[bytes]) -> None:
    packed = Packed.of(strings)
    assert list(packed) == strings and len(packed) == len(strings)
    with pytest.raises(IndexError):
        packed[len(strings)]


# --- reading


def test_masks_of_the_file_in_the_order_of_the_boxes(tmp_path: Path) -> None:
    data = whole_boxes(tmp_path).open()
    opened = data.open_masks()
    for index in range(len(data)):
        rows = range(len(data.boxes))[data.rows(index)]
        for row in rows:
            mask, (left, top, right, bottom) = decoded(opened.rle(row)), data.boxes[row]
            assert mask.shape == tuple(data.sizes[index])
            if not data.crowd[row]:
                ys, xs = mask.nonzero()
                assert left - 0.5 <= xs.min() and xs.max() < right + 0.5
                assert top - 0.5 <= ys.min() and ys.max() < bottom + 0.5
    (crowd,) = np.flatnonzero(data.crowd)
    assert decoded(opened.rle(crowd)).sum() == 32 * 40


def test_grids_cover_their_box(tmp_path: Path) -> None:
    data = whole_boxes(tmp_path).open()
    grids = data.open_masks().grids(np.arange(len(data.boxes)))
    assert (grids.shape, grids.dtype) == ((6, GRID, GRID), np.bool_)
    assert grids[0].all() and grids[1].all()  # the second was clipped to the image, box and mask
    assert overlap(grids[2], np.arange(GRID)[:, None].repeat(GRID, 1) < GRID / 2) > 0.99  # the upper half
    assert overlap(grids[5], np.arange(GRID)[None].repeat(GRID, 0) < GRID / 2) > 0.99  # the left half


def test_a_triangle_in_its_box() -> None:
    boxes, sizes = np.array([[10.0, 4, 22, 20]]), np.array([[40, 40]], np.int32)
    grid = Segmentations.of([TRIANGLE], boxes, sizes).grids(np.array([0]))[0]
    x, y = np.meshgrid(*[(np.arange(GRID) + 0.5) / GRID] * 2)
    assert overlap(grid, x + y < 1) > 0.98


def test_run_lengths_and_polygons_give_the_same_grid() -> None:
    """A disc of 80 pixels, at the resolution of the image and at that of the grid."""
    turns = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    polygon = [(np.stack([np.cos(turns), np.sin(turns)], 1) * 40 + (50.3, 60.7)).ravel().tolist()]
    boxes, sizes = np.array([[10.3, 20.7, 90.3, 100.7]] * 2), np.array([[120, 110]] * 2, np.int32)
    run = {"size": [120, 110], "counts": to_rle(polygon, 120, 110)["counts"].decode()}
    one, other = Segmentations.of([polygon, run], boxes, sizes).grids(np.array([0, 1]))
    assert overlap(one, other) > 0.97
    assert one.mean() == pytest.approx(np.pi / 4, rel=0.02)


def test_boxes_alone_are_read_once_and_have_no_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    segmentations = cocofile.segmentations
    monkeypatch.setattr(cocofile, "segmentations", lambda path: read.append(path) or segmentations(path))
    assert toy().open().masks is None
    with_masks = whole_boxes(tmp_path).open()
    assert with_masks.masks is not None and not read
    with_masks.open_masks()
    assert len(read) == 1
    with pytest.raises(InputError) as error:
        toy().open().open_masks()
    one_line(error, "toy train", "no masks")


def test_masks_are_known_of_without_opening(tmp_path: Path) -> None:
    assert not toy().has_masks()
    assert not segmented(tmp_path / "empty", *[[]] * 7).has_masks()
    file = whole_boxes(tmp_path / "full")
    assert file.has_masks() and DetectionSubset(of=file, limit=2).has_masks()
    assert Generated(images=1).has_masks()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2, 3, 4]], "a polygon of 2 points"),
        ([[1, 2, 3, 4, 5, 6], [1]], "no list of finite x, y"),
        ([[1, 2, 3, 4, 5, "6"]], "no list of finite x, y"),
        ([[1, 2, 3, 4, 5, float("nan")]], "no list of finite x, y"),
        ([[1, 2, 3, 4, 5, 10**400]], "no list of finite x, y"),
        ([1, 2, 3, 4, 5, 6], "no list of finite x, y"),
        ([], "has no `segmentation`"),
        (None, "has no `segmentation`"),
        ("polygon", "no list of polygons"),
        ({"size": [48, 32], "counts": [48 * 32]}, "of size [48, 32], not of its image's [32, 48]"),
        ({"counts": [48 * 32]}, "of size None"),
        ({"size": [32, 48], "counts": [5, 5]}, "add up to 10, not to the 1536"),
        ({"size": [32, 48], "counts": [-5, 1541]}, "add up to"),
        ({"size": [32, 48], "counts": ["a"]}, "cannot be read"),
        ({"size": [32, 48], "counts": [float("inf")]}, "cannot be read"),
        ({"size": [32, 48], "counts": 7}, "cannot be read"),
        ({"size": [32, 48], "counts": ""}, "add up to 0"),
        ({"size": [32, 48]}, "add up to 0"),
        ({"size": [32, 48], "counts": "zzzz"}, "cannot be read"),
        ({"size": [32, 48], "counts": "PPP"}, "cannot be read"),
        ({"size": [32, 48], "counts": "0:5"}, "add up to"),
    ],
)
def test_malformed_segmentations(segmentation: Any, message: str, tmp_path: Path) -> None:
    file = segmented(tmp_path, rectangle(4, 6, 10, 12), segmentation, *[rectangle(1, 1, 9, 9)] * 5)
    data = file.open()
    with pytest.raises(InputError) as error:
        data.open_masks()
    one_line(error, str(file.annotations), "annotation 2 ", message)


def test_annotations_that_are_left_out_may_lack_a_mask(tmp_path: Path) -> None:
    every = [rectangle(1, 1, 9, 9)] * 7
    every[3] = []  # annotation 4 has no area
    assert len(segmented(tmp_path, *every).open().open_masks().grids(np.arange(6))) == 6


@settings(max_examples=15, deadline=None)
@given(limit=st.integers(1, 6))
def test_a_subset_keeps_each_boxs_mask(limit: int) -> None:
    whole = Generated(images=6, height=64, width=64).open()
    part = take(whole, limit)
    of_all, some = whole.open_masks(), part.open_masks()
    for index, image_id in enumerate(part.image_ids):
        (source,) = np.flatnonzero(whole.image_ids == image_id)
        rows, others = (np.arange(len(data.boxes))[data.rows(int(i))] for data, i in ((part, index), (whole, source)))
        assert np.array_equal(some.grids(rows), of_all.grids(others))
        assert [some.rle(row) for row in rows] == [of_all.rle(row) for row in others]


def test_generated_masks_are_the_drawn_silhouettes() -> None:
    data = Generated(images=12, seed=5, height=128, width=160).open()
    opened = data.open_masks()
    for index in range(len(data)):
        for row in range(len(data.boxes))[data.rows(index)]:
            mask = decoded(opened.rle(row))
            assert mask.shape == (128, 160)
            assert mask.sum() == pytest.approx(data.areas[row], rel=0.05, abs=12)
            grid = opened.grids(np.array([row]))[0]
            size = data.boxes[row][2:] - data.boxes[row][:2]
            assert grid.mean() * size.prod() == pytest.approx(data.areas[row], rel=0.03)
    assert opened.grids(np.zeros(0, np.int64)).shape == (0, GRID, GRID)


@shared
def test_real_masks_have_their_annotated_areas() -> None:
    for split in open_folder(SHARED / "coco_open"):
        data = split.open()
        opened = data.open_masks()
        found = np.array([decoded(opened.rle(row)).sum() for row in range(len(data.boxes))])
        assert np.abs(found - data.areas).max() < 0.1 * data.areas.max()
        assert np.median(np.abs(found - data.areas) / data.areas) < 0.03
        rows = np.flatnonzero(~data.crowd & (data.areas > 400))
        sizes = (data.boxes[rows][:, 2:] - data.boxes[rows][:, :2]).prod(1)
        assert opened.grids(rows).mean((1, 2)) * sizes == pytest.approx(data.areas[rows], rel=0.12)


def test_json_is_what_is_kept() -> None:
    """Small: no object of Python's for a number, whatever the number of points."""
    kept = Segmentations.of([TRIANGLE], np.array([[10.0, 4, 22, 20]]), np.array([[40, 40]], np.int32))
    assert json.loads(kept.texts[0]) == TRIANGLE
    assert kept.texts.data.nbytes == len(json.dumps(TRIANGLE))
