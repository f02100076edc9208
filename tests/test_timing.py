import json
import os
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchsuite.data.batch import Batch, Detections
from benchsuite.engine.job import Context
from benchsuite.errors import InputError
from benchsuite.loops.timing import Samples, Timing, conditions, interleaved, keep_memory, time_detector
from benchsuite.models.detector import Detector
from benchsuite.models.postprocess import PostProcess


def test_calls_take_turns_and_every_time_is_kept():
    calls = []
    one, two = interleaved(
        (lambda n: calls.append((1, n)), lambda n: calls.append((2, n))), "cpu", warmup=1, repeats=2
    )  # fmt: skip
    assert calls == [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2), (2, 2)]
    for samples in (one, two):
        assert (len(samples.warmup_ms), len(samples.values_ms), samples.device) == (1, 2, "cpu")


def test_milliseconds():
    (samples,) = interleaved([lambda n: time.sleep(0.005)], "cpu", warmup=0, repeats=3)
    assert 5 <= samples.median < 50


def test_quartiles_by_hand():
    assert Samples("cpu", (99.0,), (4.0, 1.0, 3.0, 2.0, 5.0)).quartiles == (2, 3, 4)
    assert Samples("cpu", (), (7.0,)).quartiles == (7, 7, 7)


@given(st.lists(st.floats(0.01, 1000), min_size=1, max_size=20))
def test_quartiles_are_in_order_and_ignore_the_warm_up(values):
    samples = Samples("cpu", (1e9,), tuple(values))
    low, middle, high = samples.quartiles
    assert min(values) <= low <= middle <= high <= max(values)
    assert samples.median == middle


@pytest.mark.parametrize(("warmup", "repeats"), [(-1, 5), (0, 0)])
def test_bad_counts(warmup, repeats):
    with pytest.raises(InputError, match="timing"):
        interleaved([lambda n: None], "cpu", warmup, repeats)


def test_memory_is_kept_where_glibc_allocates():
    import platform

    assert keep_memory() == (platform.libc_ver()[0] == "glibc")


class Slow(Detector):
    """Takes 2 ms for its forward pass and 6 for all, and finds as many boxes as the first pixel says."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def images(self, batch):
        return batch.images.float()

    def losses(self, batch):
        return {}

    def forward(self, images):
        self.calls.append(("forward", tuple(images.shape), self.training, torch.is_inference_mode_enabled()))
        time.sleep(0.002)

    def candidates(self, batch, post):
        raise NotImplementedError  # it finds without choosing here

    def detect(self, batch, post):
        self.calls.append(("detect", tuple(batch.images.shape), self.training, torch.is_inference_mode_enabled()))
        time.sleep(0.006)
        count, rows = int(batch.images[0, 0, 0, 0]), len(batch.images)
        return Detections(torch.zeros(rows, count, 4), torch.zeros(rows, count), torch.zeros(rows, count, dtype=int))


def batch_of(found, batch=2, width=48):
    """A batch of which `found` boxes are found in each image."""
    size = torch.tensor([[32, width]] * batch)
    nothing = torch.zeros(batch, 1, 4), torch.full((batch, 1), -1)
    images = torch.full((batch, 3, 32, width), found, dtype=torch.uint8)
    return Batch(images, size, size, torch.arange(batch), *nothing)


def test_a_detector_is_timed_on_one_batch_after_the_other(tmp_path):
    detector = Slow()
    context = Context(folder=tmp_path, partial=tmp_path, cache=tmp_path)
    timing = Timing(batch=2, warmup=1, repeats=4)
    time_detector(detector, [batch_of(3), batch_of(5, width=64)], PostProcess(), timing, context)
    shapes = [(2, 3, 32, 48), (2, 3, 32, 64)]
    rounds = [(name, shapes[n % 2], False, True) for n in range(5) for name in ("forward", "detect")]
    assert detector.calls[:10] == rounds
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert 2 <= metrics["forward_ms"] < 6 <= metrics["latency_ms"]
    assert metrics["latency_ms_q1"] <= metrics["latency_ms"] <= metrics["latency_ms_q3"]
    assert metrics["latency_s"] == pytest.approx(metrics["latency_ms"] / 1000)
    assert metrics["fps"] == pytest.approx(2000 / metrics["latency_ms"])
    assert metrics["detections"] == 4, "of an image, over the two batches"
    samples = json.loads((tmp_path / "samples.json").read_text())
    assert len(samples["forward"]["values_ms"]) == len(samples["latency"]["values_ms"]) == 4
    assert samples["frames"] == [[32, 48], [32, 64]] and samples["image_ids"] == [[0, 1], [0, 1]]
    under = {"precision": "fp32", "tf32": {"matmul": False, "cudnn": False}}
    busy = context.ran_under.pop("other_busy_cores")
    assert context.ran_under == under | conditions("cpu") and 0 <= busy <= (os.cpu_count() or 1) + 0.5


def test_times_say_what_they_were_taken_under(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "123")
    found = conditions("cpu")
    assert found["threads"] == torch.get_num_threads()
    assert found["environment"]["MALLOC_TRIM_THRESHOLD_"] == "123"
    kept = {"mmap_max": 0, "trim_threshold": -1}
    assert found["malloc"] == (kept if keep_memory() else "as it comes")


def test_running_out_of_memory_says_what_to_lower(tmp_path):
    class Huge(Slow):
        def detect(self, batch, post):
            raise MemoryError

    from benchsuite.errors import BenchError

    context = Context(folder=tmp_path, partial=tmp_path, cache=tmp_path)
    with pytest.raises(BenchError, match=r"32x48.*lower timing\.batch"):
        time_detector(Huge(), [batch_of(1)], PostProcess(), Timing(), context)
