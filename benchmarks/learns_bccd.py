"""Learning from scratch, ours and torchvision's RetinaNet side by side, on 205 photographs of blood cells (BCCD).

Both have ResNet-18, trainable BatchNorm, HAR-Net's anchors, the same batches of 8 at 320×240, the same SGD (0.01,
warm-up of 50, ÷10 at 80 %, clipping at 10) and the same precision; they take turns, a few iterations each, so that
whatever else the machine does meets both. Scored on val, one seed. Targets: AP ≥ 37 and AP50 ≥ 56, in no more time
than torchvision's.

python benchmarks/learns_bccd.py DIR/OF/bccd [--iterations 500] [--precision bf16] [--out FILE.json]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import resnet18
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from benchsuite.data.batch import Batch
from benchsuite.data.batches import Batches, EvalBatches
from benchsuite.data.dataset import DetectionSet
from benchsuite.data.locate import open_folder
from benchsuite.data.transforms import Flip, ShortSide
from benchsuite.engine.environment import environment
from benchsuite.engine.job import Context
from benchsuite.loops.device import Precision, autocast
from benchsuite.loops.evaluate import Pass
from benchsuite.loops.predict import predict
from benchsuite.loops.solver import Solver
from benchsuite.loops.timing import keep_memory
from benchsuite.loops.train import Run
from benchsuite.metrics.coco import Coco
from benchsuite.metrics.metric import Found
from benchsuite.models.postprocess import PostProcess
from benchsuite.models.resnet import ResNet
from benchsuite.models.retinanet import RetinaNet

TURN = 5  # iterations each before the other goes on


@dataclass
class Side:
    """One of the two: what an iteration is, and the seconds spent so far."""

    name: str
    step: Callable[[int], None]
    seconds: float = 0.0
    turns: list[float] = field(default_factory=list)

    def turn(self, iterations: range) -> None:
        began = time.perf_counter()
        for iteration in iterations:
            self.step(iteration)
        self.turns.append(time.perf_counter() - began)
        self.seconds += self.turns[-1]


def torchvision_model(classes: int) -> TorchvisionRetinaNet:
    body = resnet18()
    layers = {f"layer{n}": str(n - 2) for n in (2, 3, 4)}
    backbone = BackboneWithFPN(body, layers, [128, 256, 512], 256, LastLevelP6P7(512, 256))
    sides = tuple((side, int(side * 2**0.5)) for side in (32, 64, 128, 256, 512))
    anchors = AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * 5)
    return TorchvisionRetinaNet(backbone, classes, min_size=240, max_size=320, anchor_generator=anchors)


def torchvision_step(
    model: nn.Module, solver: Solver, batches: Batches, optimizer: torch.optim.SGD
) -> Callable[[int], None]:
    def step(iteration: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = solver.lr_at(iteration)
        images, targets = as_torchvision(batches[iteration])
        with autocast("cpu", solver.precision):
            losses = model(images, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), solver.clip_norm or float("inf"))
        optimizer.step()

    return step


def as_torchvision(batch: Batch) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    images = [image[:, :h, :w].float() / 255 for image, (h, w) in zip(batch.images, batch.sizes.tolist(), strict=True)]
    kept = batch.labels >= 0
    targets = [
        {"boxes": boxes[here], "labels": labels[here]}
        for boxes, labels, here in zip(batch.boxes, batch.labels, kept, strict=True)
    ]
    return images, targets


def torchvision_found(model: nn.Module, data: DetectionSet, batches: EvalBatches, precision: Precision) -> Found:
    rows = []
    with torch.inference_mode(), autocast("cpu", precision):
        for index in range(len(batches)):
            batch = batches[index]
            for found, image_id, original, size in zip(
                model.eval()(as_torchvision(batch)[0]), batch.image_ids, batch.originals, batch.sizes, strict=True
            ):
                ratio = (original / size).flip(0).repeat(2)
                count = len(found["scores"])
                rows.append((image_id.repeat(count), found["boxes"] * ratio, found["scores"], found["labels"]))
    image_ids, boxes, scores, labels = (torch.cat(column) for column in zip(*rows, strict=True))
    return Found(image_ids.numpy(), boxes.float().numpy(), scores.float().numpy(), labels.numpy())


def measure(folder: Path, iterations: int, precision: Precision, seed: int) -> dict[str, Any]:
    keep_memory()
    train_data, val_data = (data.open() for data in open_folder(folder))
    resize = ShortSide(short=240, long=320, multiple=16)
    solver = Solver(
        lr=0.01, iterations=iterations, batch=8, drops=(iterations * 4 // 5,), warmup_iterations=50,
        warmup_factor=0.001, clip_norm=10, precision=precision,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as text:
        place = Path(text)
        (place / "out").mkdir()
        context = Context(place / "out", place / "partial", place / "cache", threads=torch.get_num_threads())
        batches = Batches(train_data, resize, (Flip(),), solver.batch, seed, iterations, context.cache)
        val = EvalBatches(val_data, resize, 1, context.cache)
        torch.manual_seed(seed)
        model = RetinaNet(backbone=ResNet(depth=18)).build(len(train_data.classes))
        run = Run(model, solver, context)
        torch.manual_seed(seed)
        reference = torchvision_model(len(train_data.classes)).train()
        optimizer = torch.optim.SGD(
            reference.parameters(), solver.lr, solver.momentum, weight_decay=solver.weight_decay
        )
        sides = [
            Side("ours", lambda iteration: run.step(batches[iteration], seed)),
            Side("torchvision", torchvision_step(reference, solver, batches, optimizer)),
        ]
        for start in range(0, iterations, TURN):
            for side in sides if (start // TURN) % 2 else reversed(sides):
                side.turn(range(start, min(start + TURN, iterations)))
            print(f"iteration {start + TURN}: ours {sides[0].seconds:.0f} s, torchvision {sides[1].seconds:.0f} s")
        predict(model, val, val_data, PostProcess(), context, Pass(precision))
        found = {
            "ours": Found.load(context.folder / "detections.safetensors"),
            "torchvision": torchvision_found(reference, val_data, val, precision),
        }
    scores = {name: Coco().score(val_data, each) for name, each in found.items()}
    turns = [ours / theirs for ours, theirs in zip(sides[0].turns, sides[1].turns, strict=True)]
    return {
        "data": {"name": val_data.name, "fingerprint": val_data.fingerprint, "images": len(val_data)},
        "protocol": "coco",
        "settings": solver.model_dump() | {"input": resize.model_dump(), "backbone": "ResNet-18", "seed": seed},
        "sides": {
            side.name: {
                "train_seconds": round(side.seconds, 1),
                **{column: round(float(scores[side.name][column]), 2) for column in ("AP", "AP50", "AP75")},
            }
            for side in sides
        },
        "ratio": round(sides[0].seconds / sides[1].seconds, 3),
        "ratio_of_turns_median": round(sorted(turns)[len(turns) // 2], 3),
        "environment": {**environment(), "threads": torch.get_num_threads()},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    result = measure(given.folder, given.iterations, given.precision, given.seed)
    text = json.dumps(result, indent=1)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n")
