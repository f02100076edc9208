"""Multi-scale testing against the sum of its single-scale passes: one photograph of 640×480 at 500, 750 and 1500.

python benchmarks/multiscale.py [--repeats N] [--short N] [--json]

HAR-Net's hybrid attention on ResNet-50 with random weights, 80 classes, the tables' post-processing, channels_last, two
threads. A single pass is what testing at that size alone does: resize, forward, candidates, Soft-NMS, voting. Target:
≤ 1.15 × the three together. `--short` scales all sizes down, so that the largest is that long.
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from statistics import median

import torch
from har_forward import CLASSES, models
from step import compare
from torch.nn.functional import pad

from benchsuite.data.batch import Batch
from benchsuite.data.transforms import Input
from benchsuite.loops.timing import keep_memory
from benchsuite.models.dense import DenseDetector
from benchsuite.models.detector import Detector
from benchsuite.models.postprocess import PostProcess, Soft, Voting
from benchsuite.papers.harnet_testing import MultiScale

HEIGHT, WIDTH, TARGET = 480, 640, 1.15
# Random weights give no score its meaning, so a level's best pairs are taken whatever their score: some 300 a size.
POST = PostProcess(score_threshold=0.0, per_level=60, nms=Soft(), vote=Voting())


def several(tester: Detector, batch: Batch) -> None:
    with torch.inference_mode():
        tester.detect(batch, POST)


def single(detector: DenseDetector, batch: Batch, sizes: list[Input]) -> None:
    with torch.inference_mode():
        for resize in sizes:
            image = resize.resize(batch.images)
            height, width = image.shape[-2:]
            padded = pad(image, (0, -width % resize.multiple, 0, -height % resize.multiple))
            detector.detect(replace(batch, images=padded, sizes=torch.tensor([[height, width]])), POST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--short", type=int, default=1500)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    keep_memory()
    detector = models()[0].build(CLASSES).to(memory_format=torch.channels_last).eval()
    assert isinstance(detector, DenseDetector)
    half = options.short // 2
    settings = MultiScale(shorts=(options.short // 3, half, 2 * half))
    size = torch.tensor([[HEIGHT, WIDTH]])
    image = torch.randint(256, (1, 3, HEIGHT, WIDTH), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    batch = Batch(image, size, size, torch.zeros(1), torch.zeros(1, 1, 4), torch.full((1, 1), -1))
    sizes: list[Input] = [settings.resize(options.short // 3), *settings.resize_pair(half)]
    pairs = compare(
        partial(several, settings.wrap(detector), batch), partial(single, detector, batch, sizes), options.repeats
    )
    ratio = median(together / apart for together, apart in pairs)
    if options.json:
        print(json.dumps({"name": "multi-scale testing", "ratio": ratio, "target": TARGET, "pairs": pairs}))
        return
    mine, other = (median(side) for side in zip(*pairs, strict=True))
    print(
        f"multi-scale testing: {ratio:.2f} × its single-scale passes (target ≤ {TARGET}; {mine:.2f} s against "
        f"{other:.2f} s)"
    )


if __name__ == "__main__":
    main()
