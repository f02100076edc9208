"""Mask AP, masks among saved detections, and prediction with masks."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from data_cases import one_line
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_cases import by_name, detection_set, paired, random_case
from pycocotools import mask as reference
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from benchsuite.data.batch import Batch, Detections
from benchsuite.data.batches import EvalBatches
from benchsuite.data.dataset import DetectionSet
from benchsuite.data.generated import Generated
from benchsuite.data.masks import Packed, Segmentations, paste
from benchsuite.data.transforms import ShortSide
from benchsuite.engine.job import Context
from benchsuite.errors import BenchError, InputError
from benchsuite.loops.evaluate import Pass
from benchsuite.loops.predict import predict
from benchsuite.metrics.coco import COLUMNS, Coco, CocoMasks, with_hotcoco, with_pycocotools
from benchsuite.metrics.metric import Found
from benchsuite.models.detector import Detector
from benchsuite.models.postprocess import Candidates, PostProcess


def packed(*masks: Any) -> Packed:
    return Packed.of(reference.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"] for mask in masks)


def with_masks(data: DetectionSet, segmentations: list[Any]) -> DetectionSet:
    owners = np.repeat(np.arange(len(data)), np.diff(data.offsets))
    opened = Segmentations.of(segmentations, data.boxes, data.sizes[owners])
    return replace(data, masks=lambda: opened)


def blob(rng: np.random.Generator, box: Any) -> Any:
    """A random mask in the box, of an image of 300 × 300."""
    mask = np.zeros((300, 300), np.uint8)
    left, top, right, bottom = np.asarray(box, int)
    part = mask[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    part[:] = (rng.random((60, 60)) < 0.8).repeat(5, 0).repeat(5, 1)[: part.shape[0], : part.shape[1]]
    return mask


def random_masks(seed: int) -> tuple[DetectionSet, Found]:
    data, found = random_case(seed)
    rng = np.random.default_rng(seed)
    truth = [reference.encode(np.asfortranarray(blob(rng, box))) for box in data.boxes]
    written = [rle | {"counts": rle["counts"].decode()} for rle in truth]
    return with_masks(data, written), replace(found, masks=packed(*(blob(rng, box) for box in found.boxes)))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_evaluators_agree_bit_for_bit(seed: int) -> None:
    data, found = random_masks(seed)
    masks = data.open_masks()
    fast, slow = with_hotcoco(data, found, masks), with_pycocotools(data, found, masks)
    assert np.array_equal(fast.stats, slow.stats)
    assert np.array_equal(fast.eval["precision"], slow.eval["precision"])
    assert CocoMasks().score(data, found) == CocoMasks(evaluator="pycocotools").score(data, found)


def stripe(left: int, right: int) -> Any:
    mask = np.zeros((300, 300), np.uint8)
    mask[10:50, left:right] = 1
    return mask


@pytest.mark.parametrize("evaluator", ["hotcoco", "pycocotools"])
def test_by_hand(evaluator: str) -> None:
    """A square of 40 found as 30 of its columns: IoU 30/40 = .75, right at six of ten; the boxes are the same. A
    second detection on nothing is large by its box and small by its mask: it counts among the small ones alone."""
    square = [[10.0, 10, 50, 10, 50, 50, 10, 50]]
    data = with_masks(detection_set([0], [[10, 10, 50, 50]], [0], ["a", "b"]), [square])
    boxes = np.array([[10.0, 10, 50, 50], [100, 100, 299, 299]])
    tiny = np.zeros((300, 300), np.uint8)
    tiny[100:102, 100:102] = 1
    found = Found(np.array([7, 7]), boxes, np.array([0.5, 0.9]), np.array([0, 0]), packed(stripe(10, 40), tiny))
    result = CocoMasks(evaluator=evaluator).score(data, found)  # type: ignore[arg-type]
    assert result["protocol"] == "coco-mask"
    assert result["AP"] == pytest.approx(60 / 2)  # half precision, below the better one on nothing
    assert (result["AP75"], result["AP80"]) == (pytest.approx(50), 0)
    assert result["APm"] == pytest.approx(60)
    assert result["APs"] is None
    assert by_name(result) == {"a": pytest.approx(30), "b": None}
    by_box = Coco(evaluator=evaluator).score(data, found)  # type: ignore[arg-type]
    assert by_box["AP"] == pytest.approx(50) and by_box["protocol"] == "coco"


def test_crowd_masks_are_ignored() -> None:
    two = [[10, 10, 50, 50], [100, 100, 200, 150]]
    crowd = np.zeros((300, 300), np.uint8)
    crowd[100:150, 100:200] = 1
    rle = reference.encode(np.asfortranarray(crowd))
    written = [[[10.0, 10, 50, 10, 50, 50, 10, 50]], rle | {"counts": rle["counts"].decode()}]
    data = with_masks(detection_set([0, 0], two, [0, 0], ["a"], crowd=[False, True]), written)
    part = np.zeros((300, 300), np.uint8)
    part[110:120, 110:120] = 1
    found = Found(
        np.array([7, 7]), np.array(two, float), np.array([0.5, 0.9]), np.zeros(2, int), packed(stripe(10, 50), part)
    )
    assert CocoMasks().score(data, found)["AP"] == pytest.approx(100)


def test_settings_of_the_metric() -> None:
    assert CocoMasks.kind() == "coco.CocoMasks"
    assert CocoMasks.masks and not Coco.masks
    assert CocoMasks().columns == Coco().columns
    assert set(COLUMNS) <= set(CocoMasks().paired_columns)


def test_paired_bootstrap() -> None:
    data, found = random_masks(8)
    worse = replace(found, masks=packed(*(np.zeros((300, 300)) for _ in range(len(found)))))
    interval = paired(CocoMasks(), data, found, worse, "AP50")
    difference = CocoMasks().score(data, found)["AP50"] - CocoMasks().score(data, worse)["AP50"]  # type: ignore[operator]
    assert interval is not None and interval.difference == pytest.approx(difference) and difference > 0
    assert interval.low <= interval.difference <= interval.high
    assert interval != paired(Coco(), data, found, worse, "AP50")


@pytest.mark.parametrize("seed", range(12))
def test_weights_of_one_are_the_score(seed: int) -> None:
    data, found = random_masks(seed)
    score = CocoMasks().score(data, found)
    for column in COLUMNS:
        measured = CocoMasks().resampled(data, found, column, np.ones((len(data), 1)))
        expected = np.nan if score[column] is None else score[column]
        assert measured == pytest.approx([expected], abs=1e-10, nan_ok=True), column


def test_no_masks_to_score() -> None:
    data, found = random_masks(8)
    with pytest.raises(InputError) as error:
        CocoMasks().score(replace(data, masks=None), found)
    one_line(error, "case", "no masks")
    for evaluator in ("hotcoco", "pycocotools"):
        with pytest.raises(InputError) as error:
            CocoMasks(evaluator=evaluator).score(data, replace(found, masks=None))  # type: ignore[arg-type]
        one_line(error, "case", "no masks")


def test_nothing_found_scores_zero() -> None:
    data, found = random_masks(8)
    none = Found(*(column[:0] for column in (found.image_ids, found.boxes, found.scores, found.labels)), masks=packed())
    assert CocoMasks().score(data, none)["AP"] == 0 == CocoMasks(evaluator="pycocotools").score(data, none)["AP"]


def test_masks_are_saved_and_old_files_load(tmp_path: Path) -> None:
    _, found = random_masks(8)
    found.save(tmp_path / "new.safetensors")
    again = Found.load(tmp_path / "new.safetensors")
    assert found.masks is not None and again.masks is not None and len(found.masks) > 5
    assert list(again.masks) == list(found.masks)
    replace(found, masks=None).save(tmp_path / "old.safetensors")
    assert Found.load(tmp_path / "old.safetensors").masks is None
    with pytest.raises(BenchError, match="2 masks of"):
        replace(found, masks=packed(stripe(1, 2), stripe(1, 3)))


# --- prediction


class Halves(Detector):
    """Finds the left half of a box in every image but the second."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError  # it only detects here

    def candidates(self, batch: Batch, post: PostProcess) -> Candidates:
        raise NotImplementedError  # it finds without choosing here

    def detect(self, batch: Batch, post: PostProcess) -> Detections:
        count = len(batch.images)
        real = (batch.image_ids != 2).unsqueeze(1) & torch.tensor([True, False])
        boxes = torch.tensor([[8.0, 4, 40, 20], [0, 0, 0, 0]]).repeat(count, 1, 1)
        masks = torch.zeros(count, 2, 28, 28)
        masks[..., :14] = 1
        scores = torch.tensor([[0.5, 0]]).repeat(count, 1)
        return Detections(boxes, scores, torch.where(real, 3, -1), masks)


@pytest.mark.parametrize("batch", [1, 3])
def test_predicted_masks_lie_in_the_original_image(batch: int, tmp_path: Path) -> None:
    data = Generated(images=3, height=64, width=96).open()
    batches = EvalBatches(data, ShortSide(short=32, long=96, multiple=16), batch, None)  # half the size
    predict(Halves(), batches, data, PostProcess(), Context(tmp_path, tmp_path, tmp_path), Pass())
    found = Found.load(tmp_path / "detections.safetensors")
    assert found.image_ids.tolist() == [1, 3]
    assert found.boxes.tolist() == [[16, 8, 80, 40]] * 2
    expected = np.zeros((64, 96), np.uint8)
    expected[8:40, 16:48] = 1
    assert found.masks is not None and list(found.masks) == list(packed(expected, expected))
    assert (CocoMasks().score(data, found)["protocol"]) == "coco-mask"


def test_a_detector_of_boxes_leaves_no_masks(tmp_path: Path) -> None:
    class Boxes(Halves):
        def detect(self, batch: Batch, post: PostProcess) -> Detections:
            return replace(super().detect(batch, post), masks=None)

    data = Generated(images=3, height=64, width=96).open()
    batches = EvalBatches(data, ShortSide(short=32, long=96, multiple=16), 2, None)
    predict(Boxes(), batches, data, PostProcess(), Context(tmp_path, tmp_path, tmp_path), Pass())
    assert Found.load(tmp_path / "detections.safetensors").masks is None


def test_true_masks_as_predictions_score_a_hundred(tmp_path: Path) -> None:
    """From the drawn silhouettes to 28 × 28, pasted and encoded, and against the silhouettes again."""
    data = Generated(images=4, seed=4, height=256, width=256).open()
    opened = data.open_masks()

    class Oracle(Halves):
        def detect(self, batch: Batch, post: PostProcess) -> Detections:
            rows = data.rows(int(batch.image_ids) - 1)  # one image at a time
            grids = torch.from_numpy(opened.grids(np.arange(rows.start, rows.stop))).float()
            small = torch.nn.functional.avg_pool2d(grids, 4)
            boxes = torch.from_numpy(data.boxes[rows]).float()
            return Detections(
                boxes[None], torch.ones(1, len(boxes)), torch.from_numpy(data.labels[rows])[None], small[None]
            )

    batches = EvalBatches(data, ShortSide(short=256, long=256, multiple=1), 1, None)
    predict(Oracle(), batches, data, PostProcess(), Context(tmp_path, tmp_path, tmp_path), Pass())
    found = Found.load(tmp_path / "detections.safetensors")
    result = CocoMasks().score(data, found)
    assert cast(float, result["AP50"]) > 99 and cast(float, result["AP75"]) > 90


def test_pasting_is_near_torchvisions() -> None:
    """Which rounds boxes to whole pixels, so it is not the same."""
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(6, 1, 4, 4), (28, 28), mode="bilinear")
    low = torch.rand(6, 2) * 40
    boxes = torch.cat((low, low + 40 + torch.rand(6, 2) * 40), 1)
    theirs = paste_masks_in_image(smooth, boxes, (130, 140))[:, 0] >= 0.5
    ours = paste(smooth[:, 0], boxes, 130, 140).transpose(1, 2) >= 0.5
    union, both = (theirs | ours).flatten(1).sum(1), (theirs & ours).flatten(1).sum(1)
    assert (both / union).min() > 0.9
