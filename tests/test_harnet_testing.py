"""Section IV-B, figure 6: double-scale merge and multi-scale testing; har-net.spec 4 and 7.11."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from test_harnet_training import SMALL as ROW

from benchsuite.data.batch import Batch
from benchsuite.data.transforms import ShortSide
from benchsuite.engine.environment import device_name
from benchsuite.engine.job import Artifact, Context
from benchsuite.errors import InputError
from benchsuite.loops import checkpoint
from benchsuite.loops.timing import time_detector
from benchsuite.metrics.metric import Found
from benchsuite.models.anchors import PyramidAnchors
from benchsuite.models.boxes import BoxCoder
from benchsuite.models.cost import macs
from benchsuite.models.dense import DenseDetector
from benchsuite.models.detector import Detector
from benchsuite.models.detector import Testing as Slot
from benchsuite.models.fpn import Fpn
from benchsuite.models.postprocess import PostProcess, select
from benchsuite.models.resnet import ResNet
from benchsuite.models.retinanet import Head, RetinaNet
from benchsuite.papers.harnet_testing import AsRead, Doubled, MultiScale, MultiScaleDetector, OutputMaps, merge
from benchsuite.pipelines import detection
from benchsuite.pipelines.detection import Detection

STRIDES = (8, 16, 32, 64, 128)
POST = PostProcess(score_threshold=0.0, per_level=40, per_image=30)


def small() -> DenseDetector:
    torch.manual_seed(0)
    model = RetinaNet(backbone=ResNet(depth=18), neck=Fpn(channels=16), head=Head(channels=16, depth=1)).build(3)
    return model.eval()


def a_batch(height: int = 60, width: int = 90) -> Batch:
    torch.manual_seed(1)
    size = torch.tensor([[height, width]])
    images = torch.randint(256, (1, 3, height, width), dtype=torch.uint8)
    return Batch(images, size, size, torch.tensor([7]), torch.zeros(1, 1, 4), torch.full((1, 1), -1))


def outputs(cells: tuple[tuple[int, int], ...], size: tuple[int, int], seed: int = 0) -> OutputMaps:
    generator = torch.Generator().manual_seed(seed)
    probabilities = [torch.rand(1, 6 * h * w, 3, generator=generator) for h, w in cells]
    offsets = [torch.randn(1, 6 * h * w, 4, generator=generator) for h, w in cells]
    return OutputMaps(probabilities, offsets, cells, STRIDES, size)


SMALL = ((8, 16), (4, 8), (2, 4), (1, 2), (1, 1))
LARGE = ((16, 32), (8, 16), (4, 8), (2, 4), (1, 2))


@pytest.fixture(scope="module")
def pair() -> tuple[OutputMaps, OutputMaps]:
    return outputs(SMALL, (60, 120)), outputs(LARGE, (120, 240), seed=1)


def test_merge_of_a_photograph_at_750_and_1500() -> None:
    """640×480: 16,368 + 65,472 − 16,320 = 65,520 cells in six levels, 393,120 anchors."""
    settings = MultiScale()
    one, two = settings.resize_pair(750)
    assert one.target(480, 640) == (750, 1000) and two.target(480, 640) == (1500, 2000)
    assert settings.resize(500).target(480, 640) == (500, 667)
    with torch.device("meta"):
        model = RetinaNet().build(80)
        single, merged = settings.wrap(model)(torch.empty(1, 3, 480, 640))
    cells = [height * width for height, width in merged.cells]
    assert merged.cells[0] == (192, 256) and len(cells) == 6
    assert sum(cells) == 65_520
    assert sum(level.shape[1] for level in merged.offsets) == 393_120
    assert merged.strides == (4, 8, 16, 32, 64, 128)
    assert [height * width for height, width in single.cells] == [64 * 96, 32 * 48, 16 * 24, 8 * 12, 4 * 6]


def test_merge_is_the_mean_where_both_have_maps(pair: tuple[OutputMaps, OutputMaps]) -> None:
    small, large = pair
    merged = merge(small, large)
    assert merged.cells == (LARGE[0], *SMALL) and merged.size == (60, 120)
    for values in ("probabilities", "offsets"):
        ours, one, two = (getattr(maps, values) for maps in (merged, small, large))
        assert torch.equal(ours[0], two[0]) and torch.equal(ours[5], one[4])
        for level in range(4):
            torch.testing.assert_close(ours[level + 1], (one[level] + two[level + 1]) / 2)


def test_merge_of_equal_maps_is_themselves_and_commutes(pair: tuple[OutputMaps, OutputMaps]) -> None:
    small, large = pair
    twin = replace(large, probabilities=[large.probabilities[0], *small.probabilities[:-1]],
                   offsets=[large.offsets[0], *small.offsets[:-1]])  # fmt: skip
    for ours, expected in zip(merge(small, twin).probabilities[1:], small.probabilities, strict=True):
        assert torch.equal(ours, expected)
    swapped_small = replace(small, probabilities=[*large.probabilities[1:], small.probabilities[-1]])
    swapped_large = replace(large, probabilities=[large.probabilities[0], *small.probabilities[:-1]])
    turned = merge(swapped_small, swapped_large).probabilities
    assert all(torch.equal(a, b) for a, b in zip(merge(small, large).probabilities, turned, strict=True))


def test_anchors_of_the_pair_coincide() -> None:
    anchors, frame, device = PyramidAnchors(), (0, 0), torch.device("cpu")
    for level in range(4):
        small = anchors.grid((SMALL[level],), (STRIDES[level],), frame, device)
        large = anchors.grid((LARGE[level + 1],), (STRIDES[level + 1],), frame, device)
        torch.testing.assert_close(small, large / 2)
    merged = anchors.grid((LARGE[0], *SMALL), (4, *STRIDES), frame, device)
    torch.testing.assert_close(merged[: 6 * 16 * 32], anchors.grid((LARGE[0],), (8,), frame, device) / 2)


@given(height=st.integers(50, 700), width=st.integers(50, 700), short=st.integers(40, 400))
def test_the_large_image_is_exactly_twice_the_small_one(height: int, width: int, short: int) -> None:
    small, large = MultiScale(shorts=(short, 2 * short)).resize_pair(short)
    rows, columns = small.target(height, width)
    assert large.target(height, width) == (2 * rows, 2 * columns)
    assert large.multiple == 2 * small.multiple == 256
    padded = [-(-side // 128) * 128 for side in (rows, columns)]
    assert [-(-side // 256) * 256 for side in (2 * rows, 2 * columns)] == [2 * side for side in padded]


def test_sizes_fall_into_pairs() -> None:
    assert MultiScale().pairs == ((750, 1500),) and MultiScale().single == (500,)
    chain = MultiScale(shorts=(800, 400, 1600, 3200, 300))
    assert chain.pairs == ((400, 800), (1600, 3200)) and chain.single == (300,)


@pytest.mark.parametrize("shorts", [(500, 750), (500, 500, 1000), (750,), (), (0, 0)])
def test_sizes_without_a_pair_are_refused(shorts: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        MultiScale(shorts=shorts)


def test_the_message_shows_what_would_do() -> None:
    with pytest.raises(ValidationError, match=r"shorts \[500, 750\] need a pair of sizes, one twice the other"):
        MultiScale(shorts=(500, 750))


def test_one_size_is_what_the_detector_finds() -> None:
    """A single size of a multi-scale test, against the detector's own `detect` on the resized image."""
    model, batch = small(), a_batch()
    settings = MultiScale(shorts=(60, 45, 90), multiple=128)
    tester = settings.wrap(model)
    with torch.inference_mode():
        single = tester(model.normalised(batch))[0]
        ours = select(tester._candidates(single, batch.sizes, POST), POST)
        padded = torch.nn.functional.pad(batch.images, (0, 38, 0, 68))
        theirs = model.detect(replace(batch, images=padded), POST)
    torch.testing.assert_close(ours.scores, theirs.scores)
    torch.testing.assert_close(ours.boxes, theirs.boxes)


def test_detections_are_pooled_in_pixels_of_the_image() -> None:
    """Naive: every size alone, boxes scaled back one by one, then one selection."""
    model, batch = small(), a_batch()
    tester = MultiScale(shorts=(40, 30, 60), multiple=128).wrap(model)
    with torch.inference_mode():
        found = tester.detect(batch, POST)
        candidates = tester.candidates(batch, POST)
        maps = tester(model.normalised(batch))
    boxes, scores, labels = candidates.boxes, candidates.scores, candidates.labels
    assert boxes.shape[1] == 40 * 9 + 2 * 18  # five levels alone, six merged; P7 has one cell
    start = 0
    for each in maps:
        per_cell = model.per_cell[0]
        for level, (cells, stride) in enumerate(zip(each.cells, each.strides, strict=True)):
            anchors = model.settings.anchors.grid((cells,), (stride,), (0, 0), torch.device("cpu"))
            assert len(anchors) == cells[0] * cells[1] * per_cell
            best = each.probabilities[level][0].flatten().sort(descending=True)
            count = min(40, len(best.values))
            for rank in (0, 7, count - 1):
                pair = int(best.indices[rank])
                box = BoxCoder().decode(each.offsets[level][0, pair // 3], anchors[pair // 3])
                height, width = each.size
                box = box.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
                expected = box * torch.tensor([90 / width, 60 / height] * 2)
                torch.testing.assert_close(scores[0, start + rank], best.values[rank])
                same = (scores[0] == best.values[rank]) & (labels[0] == pair % 3)
                assert any(torch.allclose(expected, other, atol=1e-3) for other in boxes[0, same])
            start += count
    assert (found.boxes[..., 2] <= 90.001).all() and (found.boxes[..., 3] <= 60.001).all()


def test_batches_of_one_size_are_as_single_images() -> None:
    model, batch = small(), a_batch()
    tester = MultiScale(shorts=(40, 30, 60), multiple=128).wrap(model)
    with torch.inference_mode():
        alone = tester.detect(batch, POST)
        both = tester.detect(
            Batch(*(torch.cat((value, value)) for value in vars(batch).values() if value is not None)), POST
        )
    torch.testing.assert_close(both.boxes, alone.boxes.expand(2, -1, -1), rtol=1e-3, atol=1e-2)


def test_costs_are_those_of_all_sizes() -> None:
    with torch.device("meta"):
        model = small()
        tester = MultiScale(shorts=(160, 96, 192)).wrap(model)
        image = torch.empty(1, 3, 96, 128)
        sizes = ((256, 256), (128, 128), (256, 256))
        expected = sum(macs(model, torch.empty(1, 3, *size)) for size in sizes)
    assert macs(tester, image) == expected
    merged = 6 * (32 * 32 + 16 * 16 + 8 * 8 + 4 * 4 + 2 * 2 + 1)
    assert tester.anchor_count(image) == merged + model.anchor_count(torch.empty(1, 3, 256, 256, device="meta"))


def test_jobs_of_a_multi_scale_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One training, its detections at several sizes, a latency of them."""
    timed: list[Detector] = []

    def timing_of(detector: Detector, *rest: Any) -> None:
        timed.append(detector)
        time_detector(detector, *rest)

    monkeypatch.setattr(detection, "time_detector", timing_of)
    rest = {name: value for name, value in ROW.items() if name not in ("kind", "attach_at")}
    testing = {"kind": "harnet_testing.MultiScale", "shorts": (64, 48, 96)}
    timing = {"warmup": 0, "repeats": 1}
    once = Detection.model_validate({"kind": "detection.Detection", **rest})
    several = Detection.model_validate({"kind": "detection.Detection", **rest, "testing": testing, "timing": timing})
    assert once.fit(0).key == several.fit(0).key
    assert once.predict(0).key != several.predict(0).key
    assert several.predict(0).batch == 1
    (tmp_path / "train").mkdir()
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "train" / "weights.safetensors", several.fit(0).model.build(24).state_dict())
    inputs = {"train": Artifact("", tmp_path / "train")}
    for name, job in {"predict": several.predict(0), "time": several.jobs(0, device_name("cpu"))["time"]}.items():
        (tmp_path / name).mkdir()
        job.do(Context(tmp_path / name, tmp_path / "partial", tmp_path / "cache", inputs))
        assert (tmp_path / name / "metrics.json").exists()
    assert [type(detector) for detector in timed] == [MultiScaleDetector], "what detects is what is timed"
    found = Found.load(tmp_path / "predict" / "detections.safetensors")
    found.check(several.data.cut("val").open())


def test_a_detector_without_levels_is_refused() -> None:
    with pytest.raises(InputError, match=r"^testing: MultiScaleDetector has no levels to merge"):
        MultiScale().wrap(MultiScaleDetector(small(), MultiScale()))


def test_it_is_a_part() -> None:
    chosen = Slot.model_validate({"kind": "harnet_testing.MultiScale", "shorts": (100, 200)})
    assert isinstance(chosen, MultiScale) and isinstance(chosen.input, AsRead)
    assert chosen.input.target(33, 44) == (33, 44)
    assert Doubled(of=ShortSide(short=10, long=20)).nominal == (20, 40)
