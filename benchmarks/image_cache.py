"""What checking the decoded image cache costs beside a training of one epoch on it.

python benchmarks/image_cache.py [--repeats N]

Opening the warm cache with its check and without it is timed in turn, and so is the epoch: the program's own training
(RetinaNet with ResNet-18, 160×208, batches of 8, log and weights written). The check comes once a process, whatever
the epochs: of a training of ten it is a tenth of this. It is far less than an epoch's own scatter, so that the two are
timed apart and their medians set beside each other. Target: 2 % of an epoch.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from benchsuite.data import cache
from benchsuite.data.batches import Batches
from benchsuite.data.generated import Generated
from benchsuite.data.transforms import Fixed
from benchsuite.engine.job import Context
from benchsuite.loops.solver import Solver
from benchsuite.loops.timing import keep_memory
from benchsuite.loops.train import train
from benchsuite.models.resnet import ResNet
from benchsuite.models.retinanet import RetinaNet

IMAGES, BATCH, OPENINGS, TARGET = 128, 8, 20, 0.02
DATA = Generated(images=IMAGES, height=240, width=320).open()
INPUT = Fixed(height=160, width=208)


def opened(folder: Path, checked: bool) -> tuple[Batches, float]:
    """An epoch's batches, and the seconds until they can be asked for."""
    if checked:
        cache._known.clear()
    began = time.perf_counter()
    batches = Batches(DATA, INPUT, (), BATCH, 0, IMAGES // BATCH, folder)
    return batches, time.perf_counter() - began


def epoch(folder: Path, batches: Batches) -> float:
    """Seconds of a training on them."""
    with tempfile.TemporaryDirectory(dir=folder) as text:
        place = Path(text)
        (place / "out").mkdir()
        context = Context(place / "out", place / "partial", folder / "cache")
        solver = Solver(lr=0.001, iterations=len(batches), batch=BATCH, drops=(), clip_norm=10)
        torch.manual_seed(0)
        model = RetinaNet(backbone=ResNet(depth=18)).build(len(DATA.classes))
        began = time.perf_counter()
        train(model, batches, solver, context, 0)
        return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    keep_memory()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        batches, _ = opened(folder, True)  # writes the cache
        epoch(folder, batches)  # warms up
        checks, epochs = [], []
        for _ in range(repeats):
            for _ in range(OPENINGS):
                with_check, without = (opened(folder, checked)[1] for checked in (True, False))
                checks.append(with_check - without)
            epochs.append(epoch(folder, batches))
        size = next(folder.glob("*.images")).stat().st_size
    check, whole = median(checks), median(epochs)
    print(f"{IMAGES} images, {size / 2**20:.0f} MiB: checked in {1000 * check:.2f} ms, an epoch takes {whole:.2f} s")
    print(f"check of the image cache: {100 * check / whole:.3f} % of a training epoch (target ≤ {100 * TARGET:.0f} %)")
    return 0 if check <= TARGET * whole else 1


if __name__ == "__main__":
    sys.exit(main())
