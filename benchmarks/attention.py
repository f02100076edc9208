"""ASSD's attention, computed some queries at a time, against the whole matrix at once: time and memory.

One map of 65×65 positions with 512 channels (queries and keys of 64), the largest of ASSD513: the core alone,
softmax(q kᵀ) v, and that with its gradients. Two threads. Also the peak of what is allocated in the meantime, in MiB.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from pairs import compare, quieten
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchsuite.papers.assd import WAYS

POSITIONS, CHANNELS = 65 * 65, 512
TARGETS = {"forward": 1.1, "forward and backward": 1.15}
LARGEST_MIB = 30


def once(way: str, inputs: tuple[Tensor, Tensor, Tensor], gradients: bool) -> None:
    with torch.inference_mode(not gradients):
        out = WAYS[way](*inputs)
        if gradients:
            torch.autograd.grad(out.sum(), inputs)


def peak(call: Callable[[], None]) -> float:
    """Most that is allocated at one time beyond what was there before, MiB."""
    call()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    quieten()
    plain = tuple(torch.randn(1, POSITIONS, width) for width in (CHANNELS // 8, CHANNELS // 8, CHANNELS))
    for name, target in TARGETS.items():
        gradients = name != "forward"
        inputs = (
            plain[0].requires_grad_(gradients),
            plain[1].requires_grad_(gradients),
            plain[2].requires_grad_(gradients),
        )
        calls = {way: partial(once, way, inputs, gradients) for way in WAYS}
        pairs = compare(calls["chunked"], calls["explicit"], options.repeats)
        ratio = median(ours / theirs for ours, theirs in pairs)
        peaks = {way: peak(call) for way, call in calls.items()}
        if options.json:
            print(
                json.dumps(
                    {"name": f"attention, {name}", "ratio": ratio, "target": target, "pairs": pairs, "MiB": peaks}
                )
            )
            continue
        ours, theirs = (1e3 * median(side) for side in zip(*pairs, strict=True))
        memory = ", ".join(f"{way} {mib:.0f}" for way, mib in peaks.items())
        bound = f", chunked ≤ {LARGEST_MIB}" if not gradients else ""
        print(
            f"attention, {name}: {ratio:.3f} × the whole matrix (target ≤ {target}; {ours:.0f} against {theirs:.0f} ms)"
        )
        print(f"  peak in MiB: {memory}{bound}")


if __name__ == "__main__":
    main()
