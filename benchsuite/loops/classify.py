"""Classification: run a trained classifier over a split and keep its logits."""

import torch
from torch import Tensor

from benchsuite.data.class_batches import ClassBatch, EvalClassBatches
from benchsuite.engine.job import Context
from benchsuite.errors import InputError
from benchsuite.loops import checkpoint
from benchsuite.loops.evaluate import Pass, evaluate
from benchsuite.models.classifier import Classifier


def classify(
    classifier: Classifier,
    batches: EvalClassBatches,
    context: Context,
    how: Pass,
) -> None:
    """Classify all images of `batches`; leaves `logits.safetensors` (`logits` float32 [N, K], `labels` int64 [N]),
    `metrics.json` and `timing.json`.

    Raises InputError where there is no image, BenchError when memory runs out, Interrupted when `context.stop()`.
    """
    if not len(batches):
        raise InputError("classification: the split has no images; choose another split")
    cure = "lower eval_batch or the input size"
    run = classifier.logits
    rows = evaluate(classifier, batches, run, _kept, context, "classification", cure, how)
    logits, labels = (torch.cat(column) for column in zip(*rows, strict=True))
    checkpoint.save(context.folder / "logits.safetensors", {"logits": logits, "labels": labels})
    context.write_metrics({"images": len(labels)})


def _kept(batch: ClassBatch, logits: Tensor) -> tuple[Tensor, Tensor]:
    return logits.cpu(), batch.labels.cpu()
