"""Prediction: run a trained detector over a split and keep its detections in pixels of the original images."""

import json
import time
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from benchsuite.data.batch import Batch, Detections
from benchsuite.data.batches import EvalBatches, loader
from benchsuite.data.dataset import DetectionSet
from benchsuite.data.masks import Packed, encode
from benchsuite.engine.job import Context, Progress
from benchsuite.errors import InputError, Interrupted
from benchsuite.loops import checkpoint
from benchsuite.loops.device import Precision, arithmetic, autocast, memory, place, place_model
from benchsuite.metrics.metric import Found
from benchsuite.models.detector import Detector
from benchsuite.models.postprocess import PostProcess


def load_weights(detector: Detector, path: Path, partly: bool = False) -> None:
    """Copy the parameters and buffers of a `weights.safetensors` into `detector`; `partly` leaves the rest as it is.

    Raises InputError where the file cannot be read or belongs to another model.
    """
    cure = f"delete {path.parent} and run again"
    tensors, _ = checkpoint.load(path, cure)
    own: dict[str, Tensor] = detector.state_dict() if partly else {}
    checkpoint.fill(detector, own | tensors, path, cure)


def predict(
    detector: Detector,
    batches: EvalBatches,
    data: DetectionSet,
    post: PostProcess,
    context: Context,
    precision: Precision = "fp32",
    channels_last: bool = True,
    workers: int = 0,
) -> None:
    """Detect on all `batches` of `data`; leaves `detections.safetensors` (`Found`), `metrics.json`, `timing.json`.

    Raises InputError where what was found cannot belong to `data`, BenchError when memory runs out, Interrupted when
    `context.stop()`.
    """
    if not len(data):
        raise InputError(f"{data.name}: it has no images to detect on; choose another split")
    began = time.perf_counter()
    place_model(detector, context.device, channels_last)
    detector.eval()
    columns: list[tuple[Tensor, ...]] = []
    masks: list[list[bytes]] = []
    out_of_memory = memory(f"prediction on {context.device}", "lower eval_batch, post.per_level or the input size")
    with torch.inference_mode(), out_of_memory, arithmetic(context, precision):
        for step, batch in enumerate(loader(batches, 0, len(batches), workers), 1):
            if context.stop():
                raise Interrupted(f"prediction stopped after batch {step - 1} of {len(batches)}; run it again")
            placed = place(batch, context.device, channels_last)
            with autocast(context.device, precision):
                detections = detector.detect(placed, post)
            columns.append(flatten(placed, detections))
            if detections.masks is not None:
                masks.append(encoded(placed, detections.masks, detections))
            context.report(Progress(step, len(batches), "batches"))
    image_ids, boxes, scores, labels = (torch.cat(column).numpy() for column in zip(*columns, strict=True))
    every = Packed.of(chain.from_iterable(masks)) if masks else None
    found = Found(image_ids, boxes, scores, labels, every)
    found.check(data)
    found.save(context.folder / "detections.safetensors")
    seconds = time.perf_counter() - began
    context.write_metrics({"images": len(data), "detections": len(found)})
    timing = {"seconds": seconds, "images_per_second": len(data) / seconds}
    (context.folder / "timing.json").write_text(json.dumps(timing) + "\n")


def flatten(batch: Batch, detections: Detections) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """image_ids [D], boxes [D, 4] in pixels of the original images, scores [D], labels [D]; no padding, on the CPU."""
    kept = detections.labels >= 0
    boxes = in_original(batch, detections.boxes)[kept]
    image_ids = batch.image_ids.unsqueeze(1).expand_as(kept)[kept]
    return image_ids.cpu(), boxes.cpu(), detections.scores[kept].float().cpu(), detections.labels[kept].cpu()


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
