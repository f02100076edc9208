"""The truth of a split, kept to score against without images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from metric_cases import shaken

from benchsuite.data import truth
from benchsuite.data.dataset import DetectionSet
from benchsuite.data.masks import Packed, Segmentations
from benchsuite.errors import InputError
from benchsuite.metrics.coco import CocoMasks
from benchsuite.metrics.metric import Found
from benchsuite.metrics.voc import Voc


def scenes() -> DetectionSet:
    sizes = np.array([[60, 80], [50, 40]], np.int32)
    boxes = np.array([[1.25, 2, 30.1, 40], [10, 10, 39.7, 49], [0, 0, 20, 20.3]])
    squares = [[[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in boxes.tolist()]
    owners = sizes[[0, 0, 1]]
    return DetectionSet(
        name="two scenes", classes=("cat", "dög"), image_ids=np.array([3, 2**63 + 5], np.uint64),
        file_names=("a.jpg", "b c.jpg"), sizes=sizes, boxes=boxes, labels=np.array([1, 0, 1]),
        areas=np.array([900.5, 800, 400]), crowd=np.array([False, True, False]),
        difficult=np.array([False, False, True]), offsets=np.array([0, 2, 3]), category_ids=np.array([7, 90]),
        read=lambda index: np.zeros((2, 2, 3), np.uint8), fingerprint="f", dropped=2,
        sides=boxes[:, 2:] - boxes[:, :2], masks=lambda: Segmentations.of(squares, boxes, owners),
    )  # fmt: skip


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("sides", [False, True])
def test_truth_is_kept_to_the_bit(tmp_path: Path, masks: bool, sides: bool) -> None:
    data = scenes() if sides else replace(scenes(), sides=None)
    truth.keep(data, tmp_path / "t.safetensors", masks)
    kept = truth.opened(tmp_path / "t.safetensors")
    for name in ("name", "classes", "file_names", "fingerprint", "dropped"):
        assert getattr(kept, name) == getattr(data, name)
    for name in ("image_ids", "sizes", "boxes", "labels", "areas", "crowd", "difficult", "offsets", "category_ids",
                 *(["sides"] if sides else [])):  # fmt: skip
        assert np.array_equal(getattr(kept, name), getattr(data, name)), name
        assert getattr(kept, name).dtype == getattr(data, name).dtype
    assert (kept.masks is not None) == masks and (kept.sides is not None) == sides
    detections = shaken(data, 0)
    for metric in (Voc(year=2007), Voc(year=2012)):
        assert metric.score(kept, detections) == metric.score(data, detections)
    with pytest.raises(InputError, match="kept without images"):
        kept.read(0)
    if masks:
        assert [kept.open_masks().rle(row) for row in range(3)] == [data.open_masks().rle(row) for row in range(3)]


def test_masks_are_scored_alike(tmp_path: Path) -> None:
    data = scenes()
    truth.keep(data, tmp_path / "t.safetensors", True)
    drawn = data.open_masks()
    runs = Packed.of(drawn.rle(row)["counts"] for row in range(3))
    detections = Found(data.image_ids[[0, 0, 1]], data.boxes, np.array([0.9, 0.8, 0.7]), data.labels, runs)
    both = [CocoMasks().score(each, detections) for each in (data, truth.opened(tmp_path / "t.safetensors"))]
    assert both[0] == both[1] and both[0]["AP"] == 100
