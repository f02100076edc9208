"""Prediction: run a trained detector over a split and keep its detections in pixels of the original images."""

from itertools import chain

import torch
from torch import Tensor

from benchsuite.data.batch import Batch, Detections
from benchsuite.data.batches import EvalBatches
from benchsuite.data.dataset import DetectionSet
from benchsuite.data.masks import Packed, encode
from benchsuite.engine.job import Context
from benchsuite.errors import InputError
from benchsuite.loops.evaluate import Pass, evaluate
from benchsuite.metrics.metric import Found
from benchsuite.models.detector import Detector
from benchsuite.models.postprocess import PostProcess


def predict(
    detector: Detector,
    batches: EvalBatches,
    data: DetectionSet,
    post: PostProcess,
    context: Context,
    how: Pass,
) -> None:
    """Detect on all `batches` of `data`; leaves `detections.safetensors` (`Found`), `metrics.json`, `timing.json`.

    Raises InputError where what was found cannot belong to `data`, BenchError when memory runs out, Interrupted when
    `context.stop()`.
    """
    if not len(data):
        raise InputError(f"{data.name}: it has no images to detect on; choose another split")
    cure = "lower eval_batch, post.per_level or the input size"

    def run(batch: Batch) -> Detections:
        return detector.detect(batch, post)

    rows = evaluate(detector, batches, run, _kept, context, "prediction", cure, how)
    columns, masks = zip(*rows, strict=True)
    image_ids, boxes, scores, labels = (torch.cat(column).numpy() for column in zip(*columns, strict=True))
    every = Packed.of(chain.from_iterable(each for each in masks if each)) if masks[0] is not None else None
    found = Found(image_ids, boxes, scores, labels, every)
    found.check(data)
    found.save(context.folder / "detections.safetensors")
    context.write_metrics({"images": len(data), "detections": len(found)})


def _kept(batch: Batch, detections: Detections) -> tuple[tuple[Tensor, ...], list[bytes] | None]:
    masks = None if detections.masks is None else encoded(batch, detections.masks, detections)
    return flatten(batch, detections), masks


def flatten(batch: Batch, detections: Detections) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """image_ids [D], boxes [D, 4] in pixels of the original images, scores [D], labels [D]; no padding, on the CPU."""
    kept = detections.labels >= 0
    boxes = in_original(batch, detections.boxes)[kept]
    image_ids = batch.image_ids.cpu().unsqueeze(1).expand_as(kept)[kept.cpu()]  # unsigned ones cannot be chosen on CUDA
    return image_ids, boxes.cpu(), detections.scores[kept].float().cpu(), detections.labels[kept].cpu()


def encoded(batch: Batch, masks: Tensor, detections: Detections) -> list[bytes]:
    """`masks` [B, D, M, M] of the rows of `flatten`, in the original images, as COCO's compressed run lengths."""
    kept = detections.labels >= 0
    boxes = in_original(batch, detections.boxes)
    images = zip(masks, boxes, kept, batch.originals.tolist(), strict=True)
    return list(chain.from_iterable(encode(m[rows], its[rows], *size) for m, its, rows, size in images))


def in_original(batch: Batch, boxes: Tensor) -> Tensor:
    """Boxes [B, D, 4] of the resized images in pixels of the original ones."""
    ratio = (batch.originals / batch.sizes).flip(1).repeat(1, 2).unsqueeze(1)  # [B, 1, 4]: x, y, x, y
    return (boxes * ratio).float()
