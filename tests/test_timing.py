import json
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchsuite.data.batch import Detections
from benchsuite.engine.job import Context
from benchsuite.errors import InputError
from benchsuite.loops.timing import Samples, Timing, keep_memory, time_detector, time_forward
from benchsuite.models.detector import Detector
from benchsuite.models.postprocess import PostProcess


def test_every_call_is_kept():
    calls = []
    samples = time_forward(lambda: calls.append(0), "cpu", warmup=3, repeats=5)
    assert len(calls) == 8
    assert (len(samples.warmup_ms), len(samples.values_ms), samples.device) == (3, 5, "cpu")


def test_milliseconds():
    samples = time_forward(lambda: time.sleep(0.005), "cpu", warmup=0, repeats=3)
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
        time_forward(lambda: None, "cpu", warmup, repeats)


def test_memory_is_kept_where_glibc_allocates():
    import platform

    assert keep_memory() == (platform.libc_ver()[0] == "glibc")


class Constant(Detector):
    def __init__(self):
        super().__init__()
        self.seen = []

    def losses(self, batch):
        return {}

    def detect(self, batch, post):
        self.seen.append((tuple(batch.images.shape), self.training, torch.is_inference_mode_enabled()))
        return Detections(torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.int64))


def test_a_detector_is_timed(tmp_path):
    detector = Constant()
    context = Context(folder=tmp_path, partial=tmp_path, cache=tmp_path)
    time_detector(detector, (32, 48), PostProcess(), Timing(batch=2, warmup=1, repeats=4), context)
    assert detector.seen == [((2, 3, 32, 48), False, True)] * 5
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    samples = json.loads((tmp_path / "samples.json").read_text())
    assert metrics["latency_ms_q1"] <= metrics["latency_ms"] <= metrics["latency_ms_q3"]
    assert len(samples["values_ms"]) == 4
    assert context.ran_under == {"precision": "fp32", "tf32": {"matmul": False, "cudnn": False}}


def test_running_out_of_memory_says_what_to_lower(tmp_path):
    class Huge(Constant):
        def detect(self, batch, post):
            raise MemoryError

    from benchsuite.errors import BenchError

    context = Context(folder=tmp_path, partial=tmp_path, cache=tmp_path)
    with pytest.raises(BenchError, match=r"32x48.*lower timing\.batch"):
        time_detector(Huge(), (32, 48), PostProcess(), Timing(), context)
