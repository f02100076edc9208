"""What the benchmarks share: two things measured in turn, their ratio as the median over pairs, one line."""

import argparse
import json
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter

THREADS = 2


def compare(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> list[tuple[float, float]]:
    """Seconds of (ours, theirs), `repeats` pairs after a warm-up of one; who goes first alternates."""
    pairs = []
    for repeat in range(repeats + 1):
        order = (ours, theirs) if repeat % 2 else (theirs, ours)
        seconds = {}
        for call in order:
            start = perf_counter()
            call()
            seconds[call] = perf_counter() - start
        pairs.append((seconds[ours], seconds[theirs]))
    return pairs[1:]


def quieten() -> None:
    """Two threads, a fixed seed, and memory that stays with the process."""
    import torch

    from benchsuite.loops.timing import keep_memory

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    keep_memory()


def report(name: str, target: float, measure: Callable[[int], list[tuple[float, float]]], repeats: int) -> None:
    """Read the options, measure on two threads and print one line."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    quieten()
    pairs = measure(options.repeats)
    ratio = median(ours / theirs for ours, theirs in pairs)
    ours, theirs = (median(side) for side in zip(*pairs, strict=True))
    if options.json:
        print(json.dumps({"name": name, "ratio": ratio, "target": target, "pairs": pairs}))
    else:
        print(
            f"{name}: {ratio:.3f} × torchvision (target ≤ {target}; {1e3 * ours:.0f} ms against {1e3 * theirs:.0f} ms)"
        )
