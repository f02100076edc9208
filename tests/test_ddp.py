"""One training in several processes is the training of one process: losses, weights and detections, killed, resumed.

GPUs' part (nccl, cuda:N) is not shown here: two processes with gloo on a CPU go through the same code but for that.
"""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models import resnet18

from benchsuite.data.batch import Share
from benchsuite.data.batches import EvalBatches
from benchsuite.data.generated import Generated
from benchsuite.engine.job import Artifact, Context, Execution, Progress
from benchsuite.engine.slots import Slots
from benchsuite.errors import BenchError, InputError, Interrupted
from benchsuite.loops import checkpoint
from benchsuite.loops.log import MACHINE
from benchsuite.pipelines.pipeline import Pipeline
from benchsuite.pipelines.steps import Training

STEPS = 20
SIZE = {"height": 64, "width": 96}
SMALL = {"kind": "resnet.ResNet", "depth": 18}
SMALLEST = {"kind": "timm_backbone.Timm", "name": "test_efficientnet"}
RPN = {"train": {"before_nms": 60, "after_nms": 40}, "test": {"before_nms": 30, "after_nms": 12}}
MODELS: dict[str, dict[str, Any]] = {
    "retinanet": {
        "kind": "retinanet.RetinaNet",
        "backbone": SMALLEST | {"out_indices": [2, 3, 4]},
        "neck": {"kind": "fpn.Fpn", "channels": 8},
        "head": {
            "kind": "harnet.Head", "channels": 8, "depth": 1, "clgn": {"groups": 4},
            "spatial": {"dilations": [1, 2], "channels": 4},
        },
    },
    "ssd": {
        "kind": "ssd.SSD",
        "backbone": SMALLEST | {"out_indices": [3, 4]},
        "neck": {"kind": "ssd.Extras", "blocks": [{"squeeze": 8, "channels": 16}]},
        "anchors": {"kind": "default_boxes.DefaultBoxes", "scales": [0.2, 0.4, 0.7, 1.0], "ratios": [[2], [2], [2]]},
    },
    "padet": {
        "kind": "padet.PADet",
        "backbone": SMALL,
        "neck": {"kind": "padet_decoder.EncoderDecoder", "levels": 3, "channels": 8},
        "anchors": {
            "kind": "default_boxes.DefaultBoxes",
            "scales": [0.15, 0.3, 0.55, 0.8, 1.0],
            "ratios": [[2, 3], [2, 3], [2], [2]],
        },
        "scoring": {},
        "adjustment": {},
        "alignment": {"kind": "padet.Disentangled"},
    },
    "mask": {
        "kind": "mask_rcnn.MaskRcnn",
        "backbone": SMALL | {"levels": [2, 3, 4, 5]},
        "neck": {"kind": "fpn.PooledFpn", "channels": 8},
        "rpn": RPN,
        "roi": {"batch": 24},
        "hidden": 16,
        "mask": {"channels": 8, "depth": 1},
    },
    "c4": {
        "kind": "rcnn.FasterRcnnC4",
        "backbone": {"kind": "pod_cases:Tiny", "levels": [4, 5], "edits": [{"kind": "pod.Gsl", "init": "he"}]},
        "rpn": RPN,
        "roi": {"batch": 8, "size": 7},
    },
}  # fmt: skip
STILL = {"padet": 1e-6, "mask": 1e-5, "c4": 1e-5}
"""Learning rates of what chooses by its own predictions, where a choice between equals would end all likeness."""
JITTER = {"kind": "transforms.Jitter", "low": 0.5, "high": 1.0}
# A step changes a loss by a hundredth or less: not much of what rounding does to one step's gradient (a ReLU that is on
# in one case and off in the other) is there in the next one's losses.
SOLVER = {"lr": 0.0002, "batch": 5, "iterations": STEPS, "warmup_iterations": 5, "drops": [15], "clip_norm": 10}


def a_row(model: str, **solver: Any) -> Pipeline:
    """Batches of five, so that shares are of two images and of three; of unlike size, so that frames are to be told."""
    split = {"kind": "generated.Generated", "images": 12, **SIZE}
    fixed = model in ("ssd", "padet")
    return Pipeline.model_validate(
        {
            "kind": "detection.Detection",
            "data": {"train": split, "val": split | {"split": "val", "images": 4}},
            "input": {"kind": "transforms.Fixed", "height": 64, "width": 64}
            if fixed
            else {"kind": "transforms.ShortSide", "short": 64, "long": 96, "multiple": 32},
            "augment": [{"kind": "transforms.Flip"}, *([] if fixed else [JITTER])],
            "model": MODELS[model],
            "solver": SOLVER | solver,
            "metric": {"kind": "coco.Coco"},
        }
    )


def frozen(model: str, folder: Path, **solver: Any) -> Pipeline:
    """The same with frozen norms, on weights drawn at random."""
    torch.manual_seed(3)
    checkpoint.save(folder / "weights.safetensors", resnet18().state_dict())
    backbone = SMALL if model == "retinanet" else MODELS[model]["backbone"]
    backbone = backbone | {"weights_file": str(folder / "weights.safetensors"), "frozen_norms": True}
    return a_row(model, **solver).changed(model=MODELS[model] | {"backbone": backbone})


def classes(**solver: Any) -> Pipeline:
    split = {"kind": "generated_classes.GeneratedClasses", "images": 24}
    return Pipeline.model_validate(
        {
            "kind": "classification.Classification",
            "data": {"train": split, "val": split | {"split": "val", "images": 8}},
            "model": {"backbone": SMALLEST | {"out_indices": [3]}},
            "input": {"kind": "class_batches.Whole", "side": 64},
            "augment": [{"kind": "class_batches.PadCrop", "pad": 4}, {"kind": "class_batches.BatchFlip"}],
            "solver": SOLVER | solver,
        }
    )


def training(row: Pipeline) -> Training:
    job: Training = row.fit(0)  # type: ignore[attr-defined]
    return job


def place(folder: Path, processes: int, **changes: Any) -> Context:
    (folder / "artifact").mkdir(parents=True, exist_ok=True)
    return Context(
        folder / "artifact",
        folder / "partial",
        folder.parent / "cache",
        execution=Execution(per_job=processes),
        **changes,
    )


def lines(folder: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (folder / "artifact" / "log.jsonl").read_text().splitlines()]
    for line in found:
        assert all(line.pop(name) >= 0 for name in MACHINE)
    return found


def same_lines(one: Path, other: Path, rel: float = 1e-5) -> None:
    first, second = lines(one), lines(other)
    assert [line["iteration"] for line in first] == [line["iteration"] for line in second] == [*range(1, STEPS + 1)]
    for a, b in zip(first, second, strict=True):
        mine, theirs = (
            {name: line[name] for name in line if "." not in name and name != "grad_norm"} for line in (a, b)
        )
        assert mine == pytest.approx(theirs, rel=rel, abs=1e-7)
        assert a == pytest.approx(b, rel=1e-2, abs=1e-4)  # the gradient's norm, and what is observed


def detections(job: Any, folder: Path) -> tuple[Tensor, ...]:
    detector = job.trained(24, Artifact("", folder / "artifact")).eval()
    (batch,) = EvalBatches(Generated(images=4, split="val", **SIZE).open(), job.input, 4, None)
    with torch.inference_mode():
        found = detector.detect(batch, a_row("retinanet").post)  # type: ignore[attr-defined]
    return found.boxes, found.scores, found.labels


SLOW = [pytest.param(model, marks=pytest.mark.slow) for model in MODELS if model != "ssd"]


@pytest.mark.parametrize("model", ["ssd", *SLOW])
def test_two_processes_are_as_one(tmp_path: Path, model: str) -> None:
    steps = {"lr": STILL[model]} if model in STILL else {}
    job = training(frozen(model, tmp_path, **steps) if model in ("mask", "c4") else a_row(model, **steps))
    for processes in (1, 2):
        job.do(place(tmp_path / str(processes), processes))
    same_lines(tmp_path / "1", tmp_path / "2")
    for mine, theirs in zip(*(detections(job, tmp_path / each) for each in "12"), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert {each.name for each in (tmp_path / "2" / "artifact").iterdir()} == {
        each.name for each in (tmp_path / "1" / "artifact").iterdir()
    }


@pytest.mark.slow
def test_two_processes_classify_as_one(tmp_path: Path) -> None:
    job = training(classes(batch=7))
    for processes in (1, 2):
        job.do(place(tmp_path / str(processes), processes))
    same_lines(tmp_path / "1", tmp_path / "2")


@pytest.mark.slow
def test_parts_of_a_batch_are_shared_each(tmp_path: Path) -> None:
    job = training(a_row("ssd", micro_batch=3, iterations=STEPS))
    for processes in (1, 2):
        job.do(place(tmp_path / str(processes), processes))
    same_lines(tmp_path / "1", tmp_path / "2")


class Until:
    """Asks to stop once so many iterations are reported."""

    def __init__(self, iterations: int) -> None:
        self.iterations, self.done = iterations, 0

    def report(self, progress: Progress) -> None:
        self.done = progress.done

    def stop(self) -> bool:
        return self.done >= self.iterations


def test_goes_on_in_more_or_fewer_processes(tmp_path: Path) -> None:
    job = training(a_row("ssd"))
    job.do(place(tmp_path / "1", 1))
    for processes, until in ((1, 5), (2, 9), (1, 17)):
        stopping = Until(until)
        with pytest.raises(Interrupted, match="it is kept"):
            job.do(place(tmp_path / "mixed", processes, report=stopping.report, stop=stopping.stop))
    job.do(place(tmp_path / "mixed", 2))
    same_lines(tmp_path / "1", tmp_path / "mixed")


def children() -> list[int]:
    return [each.pid for each in multiprocessing.active_children() if each.name.startswith("bench-rank") and each.pid]


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_rank_ends_the_job_and_it_goes_on(tmp_path: Path, rank: int) -> None:
    job = training(a_row("ssd"))
    job.do(place(tmp_path / "1", 1))
    killed = list[float]()

    def report(progress: Progress) -> None:
        if progress.done >= 6 and not killed:
            named = {each.name: each.pid for each in multiprocessing.active_children()}
            killed.append(time.monotonic())
            os.kill(named[f"bench-rank-{rank}"] or 0, signal.SIGKILL)

    with pytest.raises(SystemExit):
        job.do(place(tmp_path / "2", 2, report=report, checkpoint_every=4))
    assert time.monotonic() - killed[0] < 30 and children() == []
    job.do(place(tmp_path / "2", 2))
    same_lines(tmp_path / "1", tmp_path / "2")


def test_what_is_not_finite_is_told_once(tmp_path: Path) -> None:
    job = training(a_row("ssd", lr=1e30, clip_norm=None, warmup_iterations=0))
    with pytest.raises(BenchError, match="not finite at iteration"):
        job.do(place(tmp_path / "2", 2))
    assert children() == []


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: Share(0, 8).rows(5), "--per-job 8: a batch of 5 images leaves a device without an image"),
        (lambda: Share(0, 4, 3).rows(16), "--per-job 4: solver.micro_batch 3 leaves a device without an image"),
        (lambda: Slots.on("cpu", 2, 2), "--per-job 2 with --slots 2: devices are shared or put together; drop one"),
    ],
)
def test_bad_input_is_one_line(call: Callable[[], object], told: str) -> None:
    with pytest.raises(InputError) as raised:
        call()
    assert str(raised.value).startswith(told) and "\n" not in str(raised.value)


@pytest.mark.parametrize("block", [None, 3, 8])
@pytest.mark.parametrize("of", [1, 2, 3])
def test_shares_are_the_batch(block: int | None, of: int) -> None:
    shares = [Share(rank, of, block) for rank in range(of)]
    images = 12 if block == of else 11
    parts = list(zip(*(share.parts(images) for share in shares), strict=True))
    assert [row for of_block in parts for part in of_block for row in part] == [*range(images)]
    assert [sum(map(len, of_block)) for of_block in parts] == shares[0].blocks(images)
    for of_block in parts:
        assert max(map(len, of_block)) - min(map(len, of_block)) <= 1


def test_gpus_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchsuite.engine.slots._visible_gpus", lambda: list("0123456"))
    slots = Slots.on("cuda", per_job=3)
    assert [(place.device, place.visible, place.name) for place in slots.places] == [
        ("cuda:0", "0,1,2", "cuda:0-2"),
        ("cuda:0", "3,4,5", "cuda:3-5"),
        ("cpu", "", "cpu"),
    ]
    with pytest.raises(InputError, match=r"^--per-job 8: --device cuda is 7 GPUs here; ask for fewer$"):
        Slots.on("cuda", per_job=8)
