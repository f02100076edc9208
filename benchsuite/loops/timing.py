"""Latency: warm-up, synchronisation, raw samples kept."""

import ctypes
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import quantiles
from time import perf_counter_ns

import torch
from pydantic import Field

from benchsuite.data.batch import Batch
from benchsuite.engine.job import Context
from benchsuite.errors import InputError
from benchsuite.loops.device import Precision, arithmetic, autocast, memory, place, place_model
from benchsuite.models.detector import Detector
from benchsuite.models.postprocess import PostProcess
from benchsuite.settings import Settings

# glibc's names (malloc.h): allocations from the heap alone, and a heap that is never given back.
M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1


class Timing(Settings):
    """How latency is measured: `batch` images a call, `warmup` calls before `repeats` counted ones."""

    batch: int = Field(1, ge=1)
    warmup: int = Field(10, ge=0)
    repeats: int = Field(50, ge=1)
    precision: Precision = "fp32"
    channels_last: bool = True


@dataclass(frozen=True)
class Samples:
    """Milliseconds of each repeat, in the order measured, and of the warm-up before, which no statistic uses."""

    device: str
    warmup_ms: tuple[float, ...]
    values_ms: tuple[float, ...]

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """First quartile, median, third quartile in ms."""
        if len(self.values_ms) == 1:
            return (self.values_ms[0],) * 3
        low, middle, high = quantiles(self.values_ms, n=4, method="inclusive")
        return low, middle, high

    @property
    def median(self) -> float:
        """Median in ms."""
        return self.quartiles[1]


def time_forward(
    call: Callable[[], object], device: str | torch.device, warmup: int = 10, repeats: int = 50
) -> Samples:
    """Time `call()` on `device`: `warmup` times, then `repeats` times, each waited for until the device is done.

    `call` does one forward pass, under `torch.inference_mode` if that is what is to be measured. InputError where
    `repeats` is not positive or `warmup` is negative.
    """
    if repeats < 1 or warmup < 0:
        raise InputError(f"timing: {warmup} warm-up calls and {repeats} repeats; warm up 0 or more, repeat 1 or more")
    device = torch.device(device)
    if device.type == "cpu":
        keep_memory()
    times = [_once(call, device) for _ in range(warmup + repeats)]
    return Samples(str(device), tuple(times[:warmup]), tuple(times[warmup:]))


def _once(call: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = perf_counter_ns()
    call()
    _wait(device)
    return (perf_counter_ns() - start) / 1e6


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def keep_memory() -> bool:
    """Let this process keep freed memory, so that big activations do not fault their pages in anew in every forward.

    That alone can make a forward on CPU several times slower. Works with glibc; False, and nothing done, elsewhere.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))


def time_detector(
    detector: Detector, frame: tuple[int, int], post: PostProcess, timing: Timing, context: Context
) -> None:
    """Time `detect` (forward pass and post-processing) on a grey image of `frame` (height, width).

    Leaves `metrics.json` (latency_ms: the median, its quartiles, the settings' batch) and `samples.json`.
    """
    size = torch.tensor([frame] * timing.batch)
    images = torch.full((timing.batch, 3, *frame), 114, dtype=torch.uint8)
    nothing = torch.zeros(timing.batch, 1, 4), torch.full((timing.batch, 1), -1)
    batch = place(Batch(images, size, size, torch.arange(timing.batch), *nothing), context.device, timing.channels_last)
    place_model(detector, context.device, timing.channels_last)
    detector.eval()

    def call() -> object:
        with torch.inference_mode(), autocast(context.device, timing.precision):
            return detector.detect(batch, post)

    out_of_memory = memory(f"timing {timing.batch} of {frame[0]}x{frame[1]}", "lower timing.batch or the input")
    with out_of_memory, arithmetic(context, timing.precision):
        samples = time_forward(call, context.device, timing.warmup, timing.repeats)
    low, middle, high = samples.quartiles
    context.write_metrics({"latency_ms": middle, "latency_ms_q1": low, "latency_ms_q3": high})
    (context.folder / "samples.json").write_text(json.dumps(asdict(samples)) + "\n")
