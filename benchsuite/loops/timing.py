"""Latency: warm-up, synchronisation, calls that take turns, raw samples kept."""

import ctypes
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import quantiles
from time import perf_counter_ns

import torch
from pydantic import Field

from benchsuite.data.batch import Batch, Detections
from benchsuite.engine.job import Context
from benchsuite.errors import InputError
from benchsuite.loops.device import Precision, arithmetic, autocast, autotuner, memory, place, place_model
from benchsuite.models.detector import Detector
from benchsuite.models.postprocess import PostProcess
from benchsuite.settings import Json, Settings

# glibc's names (malloc.h): allocations from the heap alone, and a heap that is never given back.
M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1
ALLOCATORS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD", "PYTORCH_CUDA_ALLOC_CONF")
"""Variables that change how memory is handed out."""


class Timing(Settings):
    """How latency is measured: `batch` images a call, `warmup` calls before `repeats` counted ones, each of the next
    images of the split as long as there are any."""

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


def interleaved(
    calls: Sequence[Callable[[int], object]], device: str | torch.device, warmup: int = 10, repeats: int = 50
) -> tuple[Samples, ...]:
    """Time each `call(n)` on `device`, n counting the rounds: `warmup` rounds, then `repeats` that count. A round does
    all calls in turn, so that what slows the machine for a while slows all of them, and waits for each to be done.

    A call does its own `torch.inference_mode`, if that is what is to be measured. InputError where `repeats` is not
    positive or `warmup` is negative.
    """
    if repeats < 1 or warmup < 0:
        raise InputError(f"timing: {warmup} warm-up calls and {repeats} repeats; warm up 0 or more, repeat 1 or more")
    device = torch.device(device)
    if device.type == "cpu":
        keep_memory()
    rounds = [[_once(partial(call, number), device) for call in calls] for number in range(warmup + repeats)]
    return tuple(
        Samples(str(device), tuple(times[:warmup]), tuple(times[warmup:])) for times in zip(*rounds, strict=True)
    )


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
    detector: Detector, batches: Sequence[Batch], post: PostProcess, timing: Timing, context: Context
) -> None:
    """Time the forward pass, and all from image to detections, on `batches`, one after the other and then again.

    Leaves `metrics.json`: `forward_ms` and `latency_ms`, medians of a call, with their quartiles and in seconds;
    `fps`, images a second by `latency_ms`; `detections` of an image, on average, that post-processing had to do with.
    And `samples.json`: every single time, and which images they are of. What they were taken under goes on record.
    """
    place_model(detector, context.device, timing.channels_last)
    detector.eval()
    placed = [place(batch, context.device, timing.channels_last) for batch in batches]

    def forward(number: int) -> object:
        batch = placed[number % len(placed)]
        with torch.inference_mode(), autocast(context.device, timing.precision):
            return detector(detector.images(batch))

    def whole(number: int) -> Detections:
        with torch.inference_mode(), autocast(context.device, timing.precision):
            return detector.detect(placed[number % len(placed)], post)

    height, width = placed[0].images.shape[-2:]
    out_of_memory = memory(f"timing {timing.batch} of {height}x{width}", "lower timing.batch or the input")
    with out_of_memory, arithmetic(context, timing.precision), autotuner(context), _beside(context):
        context.ran_under.update(conditions(context.device))
        passes, latencies = interleaved((forward, whole), context.device, timing.warmup, timing.repeats)
        found = [int((whole(number).labels >= 0).sum()) for number in range(min(len(placed), timing.repeats))]
    detections = sum(found) / sum(len(batch.images) for batch in placed[: len(found)])
    context.write_metrics(
        {
            **_summary("forward", passes),
            **_summary("latency", latencies),
            "fps": 1000 * timing.batch / latencies.median,
            "detections": detections,
        }
    )
    report = {
        "forward": asdict(passes),
        "latency": asdict(latencies),
        "image_ids": [batch.image_ids.tolist() for batch in batches],
        "frames": [list(batch.images.shape[-2:]) for batch in batches],
    }
    (context.folder / "samples.json").write_text(json.dumps(report) + "\n")


def _summary(name: str, samples: Samples) -> dict[str, float]:
    low, middle, high = samples.quartiles
    return {f"{name}_ms": middle, f"{name}_ms_q1": low, f"{name}_ms_q3": high, f"{name}_s": middle / 1000}


@contextmanager
def _beside(context: Context) -> Iterator[None]:
    """Put on record how many cores other processes kept busy meanwhile; nothing where the system does not tell."""
    before, start = _others(), perf_counter_ns()
    yield
    after, seconds = _others(), (perf_counter_ns() - start) / 1e9
    if before is not None and after is not None:
        context.ran_under["other_busy_cores"] = round(max(0.0, after - before) / seconds, 2)


def _others() -> float | None:
    """CPU seconds that all processes but this one have used since the machine started."""
    with suppress(OSError, ValueError, IndexError):
        # user nice system idle iowait irq softirq steal
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]]
        own = os.times()
        return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK") - own.user - own.system
    return None


def conditions(device: str) -> dict[str, Json]:
    """What times on `device` hang on beside the code: threads, the allocator's settings, torch's switches."""
    found: dict[str, Json] = {
        "threads": torch.get_num_threads(),
        "environment": {name: Path(os.environ[name]).name for name in ALLOCATORS if name in os.environ},
    }
    if torch.device(device).type == "cpu":
        return found | {"malloc": {"mmap_max": 0, "trim_threshold": -1} if keep_memory() else "as it comes"}
    return found | {"cudnn_benchmark": torch.backends.cudnn.benchmark}
