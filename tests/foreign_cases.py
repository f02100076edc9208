"""A table whose rows were never trained: detections of every row and seed lie in the store as if they had been."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchsuite.data.dataset import DetectionSet
from benchsuite.engine.progress import Reporter
from benchsuite.engine.schedule import run_jobs
from benchsuite.engine.slots import Slots
from benchsuite.engine.store import Store
from benchsuite.metrics.metric import Found
from benchsuite.pipelines.detection import Detection, Predict
from benchsuite.pipelines.submit import coco_results
from benchsuite.recipe.loading import select
from benchsuite.verbs.plan import Plan, make_plan

IMAGES = 24


def dataset(folder: Path) -> Path:
    """A COCO folder of two classes and 24 grey pictures a split, two boxes in each."""
    rng = np.random.default_rng(0)
    kinds = [{"id": 3, "name": "cup"}, {"id": 1, "name": "plate"}]
    (folder / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (folder / split).mkdir()
        images, boxes = [], []
        for number in range(1, IMAGES + 1):
            Image.new("RGB", (160, 120), (128, 128, 128)).save(folder / split / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 160, "height": 120})
            for _ in range(2):
                left, top = rng.integers(0, 90), rng.integers(0, 60)
                bbox = [int(left), int(top), int(rng.integers(20, 60)), int(rng.integers(20, 50))]
                boxes.append({"id": len(boxes) + 1, "image_id": number, "bbox": bbox, "area": bbox[2] * bbox[3],
                              "iscrowd": 0, "category_id": int(rng.choice([1, 3]))})  # fmt: skip
        whole = {"images": images, "annotations": boxes, "categories": kinds}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(whole))
    return folder


def guessed(data: DetectionSet, shift: float, seed: int) -> Found:
    """Every box found up to some pixels of `shift`, of the wrong class now and then, and as much again beside them."""
    rng = np.random.default_rng(seed)
    owners, total = np.repeat(data.image_ids, np.diff(data.offsets)), len(data.boxes)
    near = data.boxes + rng.normal(0, shift, (total, 4))
    low = rng.uniform(0, 90, (total, 2))
    boxes = np.concatenate([near, np.concatenate([low, low + 30], axis=1)])
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    labels = np.where(rng.random(total) < 0.15, (data.labels + 1) % len(data.classes), data.labels)
    scores = np.concatenate([rng.uniform(0.3, 1, total), rng.uniform(0, 0.6, total)])
    return Found(np.tile(owners, 2), boxes, scores, np.tile(labels, 2))


def planned(folder: Path, tier: str = "mini") -> Plan:
    """`har-table1` on that folder, three seeds."""
    return make_plan(select(["har-table1"]), tier, data=folder, seeds=[0, 1, 2])


def planted(plan: Plan, store: Store, shifts: Mapping[str, float], seeds: Sequence[int] = (0, 1, 2)) -> None:
    """Rows detect with these shifts, under these seeds, and are scored."""
    store.prepare()
    jobs = []
    for row in plan.rows:
        if row.row.id in shifts and isinstance(row.pipeline, Detection):
            for seed in seeds:
                job = row.pipeline.predict(seed)
                keep(store, job, guessed(job.data.open(), shifts[row.row.id], seed))
                jobs += [job, row.jobs[seed]["score"]]
    assert not run_jobs(jobs, store, slots=Slots.on("cpu"), progress=Reporter()).failures


def keep(store: Store, job: Predict, found: Found) -> None:
    """As its job and the training before it would have left it."""
    for each, needed in ((job.train, {}), (job, {"train": job.train.key})):
        record = {"label": each.label, "job": each.form, "inputs": needed, "device": "cpu", "threads": 1,
                  "seconds": 1.0, "ran_under": {}, "environment": {"cpu": "of a test"}}  # fmt: skip
        with store.lock(each.key), store.scratch(each.key) as folder:
            if each is job:
                found.save(folder / "detections.safetensors")
            store.publish(each.key, folder, record)


def written(file: Path, data: DetectionSet, found: Found) -> Path:
    """As COCO results."""
    file.write_text(json.dumps(coco_results(data, found)))
    return file
