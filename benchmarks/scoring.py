"""Scoring 5,000 images with 500,000 saved boxes in 80 classes: ours (hotcoco) against pycocotools, side by side.

python benchmarks/scoring.py [--repeats N] [--json]

`ours_s` is the median over the repeats of reading `detections.safetensors` and scoring it; pycocotools does the same
work once (most of a minute) with the same ground truth and must give the same numbers. Targets: `ours_s` <= 0.6,
`ratio` (ours / pycocotools) <= 1/60.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Literal

import numpy as np

from benchsuite.data.dataset import DetectionSet
from benchsuite.metrics.coco import Coco
from benchsuite.metrics.metric import Found

IMAGES, BOXES, PER_IMAGE, CLASSES, SIDE = 5_000, 36_000, 100, 80, 640.0


def scene(seed: int = 0) -> tuple[DetectionSet, Found]:
    """COCO-like numbers: 7 boxes an image, 100 detections an image, a fifth of them near a box of their class."""
    rng = np.random.default_rng(seed)
    owners = np.sort(rng.integers(0, IMAGES, BOXES))
    sides = np.exp(rng.uniform(np.log(8), np.log(320), (BOXES, 2)))
    low = rng.uniform(0, SIDE - sides)
    boxes = np.concatenate([low, low + sides], axis=1)
    data = DetectionSet(
        name="scene",
        classes=tuple(f"class {k}" for k in range(CLASSES)),
        image_ids=np.arange(IMAGES),
        file_names=tuple(f"{index}.jpg" for index in range(IMAGES)),
        sizes=np.full((IMAGES, 2), int(SIDE), np.int32),
        boxes=boxes,
        labels=rng.integers(0, CLASSES, BOXES),
        areas=sides.prod(axis=1),
        crowd=rng.random(BOXES) < 0.01,
        difficult=np.zeros(BOXES, bool),
        offsets=np.searchsorted(owners, np.arange(IMAGES + 1)),
        category_ids=np.arange(CLASSES) + 1,
        read=lambda index: np.zeros((int(SIDE), int(SIDE), 3), np.uint8),
    )
    number = IMAGES * PER_IMAGE
    low = rng.uniform(0, SIDE - 40, (number, 2))
    found = np.concatenate([low, low + rng.uniform(4, 40, (number, 2))], axis=1)
    labels, image_ids = rng.integers(0, CLASSES, number), np.repeat(np.arange(IMAGES), PER_IMAGE)
    near = rng.choice(number, number // 5, replace=False)
    source = rng.integers(0, BOXES, len(near))
    found[near] = boxes[source] + np.tile(sides[source], 2) * rng.normal(0, 0.08, (len(near), 4))
    labels[near], image_ids[near] = data.labels[source], owners[source]
    scores = rng.beta(1, 6, number)
    scores[near] = rng.beta(2, 2, len(near))
    return data, Found(image_ids, found.astype(np.float32), scores.astype(np.float32), labels)


def score(data: DetectionSet, file: Path, evaluator: Literal["hotcoco", "pycocotools"]) -> tuple[float, dict[str, Any]]:
    start = perf_counter()
    result = Coco(evaluator=evaluator).score(data, Found.load(file))
    return perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="times ours is measured (pycocotools: once)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a line")
    options = parser.parse_args()
    data, found = scene()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "detections.safetensors"
        found.save(file)
        score(data, file, "hotcoco")  # warm-up
        ours = [score(data, file, "hotcoco") for _ in range(options.repeats)]
        reference_s, reference = score(data, file, "pycocotools")
    ours_s = median(seconds for seconds, _ in ours)
    figures = {
        "benchmark": "scoring",
        "boxes": len(found),
        "ours_s": round(ours_s, 3),
        "pycocotools_s": round(reference_s, 2),
        "ratio": round(ours_s / reference_s, 5),
        "equal": all(result == reference for _, result in ours),
        "AP": reference["AP"],
        "samples_s": [round(seconds, 4) for seconds, _ in ours],
    }
    if options.json:
        print(json.dumps(figures))
    else:
        print(
            f"scoring {len(found):,} boxes of {IMAGES:,} images: {ours_s:.3f} s, pycocotools {reference_s:.1f} s, "
            f"ratio 1/{reference_s / ours_s:.0f}, equal numbers: {figures['equal']} (targets 0.6 s, 1/60)"
        )


if __name__ == "__main__":
    main()
