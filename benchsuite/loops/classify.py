"""Classification: run a trained classifier over a split and keep its logits."""

import json
import time

import torch
from torch import Tensor

from benchsuite.data.batches import loader
from benchsuite.data.class_batches import EvalClassBatches
from benchsuite.engine.job import Context, Progress
from benchsuite.errors import InputError, Interrupted
from benchsuite.loops import checkpoint
from benchsuite.loops.device import Precision, arithmetic, autocast, memory, place, place_model
from benchsuite.models.classifier import Classifier


def classify(
    classifier: Classifier,
    batches: EvalClassBatches,
    context: Context,
    precision: Precision = "fp32",
    channels_last: bool = True,
    workers: int = 0,
) -> None:
    """Classify all images of `batches`; leaves `logits.safetensors` (`logits` float32 [N, K], `labels` int64 [N]),
    `metrics.json` and `timing.json`.

    Raises InputError where there is no image, BenchError when memory runs out, Interrupted when `context.stop()`.
    """
    if not len(batches):
        raise InputError("classification: the split has no images; choose another split")
    began = time.perf_counter()
    place_model(classifier, context.device, channels_last)
    classifier.eval()
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    out_of_memory = memory(f"classification on {context.device}", "lower eval_batch or the input size")
    with torch.inference_mode(), out_of_memory, arithmetic(context, precision):
        for step, batch in enumerate(loader(batches, 0, len(batches), workers), 1):
            if context.stop():
                raise Interrupted(f"classification stopped after batch {step - 1} of {len(batches)}; run it again")
            placed = place(batch, context.device, channels_last)
            with autocast(context.device, precision):
                logits.append(classifier.logits(placed).cpu())
            labels.append(batch.labels)
            context.report(Progress(step, len(batches), "batches"))
    found = {"logits": torch.cat(logits), "labels": torch.cat(labels)}
    checkpoint.save(context.folder / "logits.safetensors", found)
    seconds, images = time.perf_counter() - began, len(found["labels"])
    context.write_metrics({"images": images})
    timing = {"seconds": seconds, "images_per_second": images / seconds}
    (context.folder / "timing.json").write_text(json.dumps(timing) + "\n")
