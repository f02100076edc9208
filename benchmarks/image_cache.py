"""What checking the decoded image cache costs: an epoch of training steps on a warm cache, with the check that comes
with opening it, against the same without; in turns, medians. The check comes once a process, whatever the epochs."""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torchvision.models import resnet18

from benchsuite.data import cache
from benchsuite.data.batches import Batches
from benchsuite.data.generated import Generated
from benchsuite.data.transforms import Fixed

IMAGES, BATCH, TURNS = 64, 8, 5


def epoch(folder: Path, checked: bool) -> tuple[float, float, float]:
    """Seconds of opening the cache, of an epoch's batches, and of a backbone's steps on them."""
    if checked:
        cache._known.clear()
    began = time.perf_counter()
    batches = Batches(DATA, Fixed(height=320, width=416), (), BATCH, 0, IMAGES // BATCH, folder)
    opened = time.perf_counter()
    made = [batches[iteration] for iteration in range(len(batches))]
    read = time.perf_counter()
    for batch in made:
        MODEL(batch.images.float()).sum().backward()
    return opened - began, read - opened, time.perf_counter() - read


DATA = Generated(images=IMAGES, height=240, width=320).open()
MODEL = resnet18()

if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        epoch(Path(scratch), True)
        runs: dict[bool, list[tuple[float, ...]]] = {True: [], False: []}
        for _ in range(TURNS):
            for checked, times in runs.items():
                times.append(epoch(Path(scratch), checked))
        size = next(Path(scratch).glob("*.images")).stat().st_size
    check = statistics.median(a[0] - b[0] for a, b in zip(runs[True], runs[False], strict=True))
    batches, steps = (statistics.median(each[n] for times in runs.values() for each in times) for n in (1, 2))
    print(f"{IMAGES} images, {size / 2**20:.0f} MiB: checked in {1000 * check:.1f} ms", file=sys.stderr)
    print(f"beside an epoch of ResNet-18 steps ({steps:.1f} s): {100 * check / (batches + steps):.2f} % more")
    print(f"beside its batches alone ({1000 * batches:.0f} ms): {100 * check / batches:.0f} % more")
