"""One pass over a split: the loop that prediction, classification and a paper's measurements share."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.data import Dataset

from benchsuite.data.batch import ImageBatch
from benchsuite.data.batches import loader
from benchsuite.engine.job import Context, Progress
from benchsuite.errors import Interrupted
from benchsuite.loops.device import Precision, arithmetic, autocast, memory, place, place_model, tuned

B = TypeVar("B", bound=ImageBatch)
R = TypeVar("R")
K = TypeVar("K")


@dataclass(frozen=True)
class Pass:
    """How a split is passed over: in which precision and memory format, with how many processes that make batches."""

    precision: Precision = "fp32"
    channels_last: bool = True
    workers: int = 0


def evaluate(
    network: nn.Module,
    batches: Dataset[B],
    run: Callable[[B], R],
    keep: Callable[[B, R], K],
    context: Context,
    doing: str,
    cure: str,
    how: Pass,
) -> list[K]:
    """What is kept of each batch: `keep(batch, run(batch))`, the batch on the device, `network` there in evaluation
    mode. The precision is that of `run` alone. Leaves `timing.json`.

    `doing` names the work and `cure` what to lower when memory runs out: a BenchError. Interrupted when
    `context.stop()`.
    """
    sized: Any = batches  # torch's Dataset has no length of its own
    count, images, kept = len(sized), 0, list[K]()
    began = time.perf_counter()
    place_model(network, context.device, how.channels_last)
    network.eval()
    out_of_memory = memory(f"{doing} on {context.device}", cure)
    with torch.inference_mode(), out_of_memory, arithmetic(context, how.precision):
        for batch in tuned(loader(batches, 0, count, how.workers, context.device), context):
            if context.stop():
                raise Interrupted(f"{doing} stopped after batch {len(kept)} of {count}; run it again")
            placed = place(batch, context.device, how.channels_last)
            with autocast(context.device, how.precision):
                found = run(placed)
            kept.append(keep(placed, found))
            images += len(batch.images)
            context.report(Progress(len(kept), count, "batches"))
    seconds = time.perf_counter() - began
    timing = {"seconds": seconds, "images_per_second": images / seconds}
    (context.folder / "timing.json").write_text(json.dumps(timing) + "\n")
    return kept
