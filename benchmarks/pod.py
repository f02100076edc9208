"""POD's trunk: forward pass of ResNet-50 as it is, decomposed (FD), and at learnt scales (GSL) by either backend.

python benchmarks/pod.py [--repeats N] [--json]

One image of 320×416, channels_last, two threads, the scales that Table 3 prints for Faster R-CNN C4 and 1.3 in the
layers it does not print. All four are measured in turn; a ratio is the median over rounds. Targets: FD ≤ 1.05 × and
`mix` ≤ 1.75 × the plain trunk, and the backend that the code chooses is the faster one.
"""

import argparse
import json
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from pairs import quieten
from torch import Tensor, nn

from benchsuite.models.resnet import ResNet
from benchsuite.papers import pod
from benchsuite.papers.pod_decompose import Dilations, decompose_all

HEIGHT, WIDTH = 320, 416
TARGETS = {"FD": 1.05, "mix": 1.75}
TABLE3 = {"R31": (0.88, 0.95), "R34": (1.30, 1.28), "R41": (1.39, 1.41), "R46": (8.49, 9.34), "R51": (1.34, 1.20),
          "R53": (3.57, 3.45)}  # fmt: skip


def plan() -> Dilations:
    """What the scales are decomposed to."""
    with torch.device("meta"):
        channels = {name: block.conv2.out_channels for name, block in pod.bottlenecks(ResNet().build()).items()}
    return decompose_all({name: TABLE3.get(name, (1.3, 1.3)) for name in channels}, channels)


def gsl(backend: pod.Backend | None) -> nn.Module:
    """A trunk whose predictors give the scales."""
    trunk = ResNet(edits=(pod.Gsl(backend=backend),)).build()
    for conv in trunk.modules():
        if isinstance(conv, pod.GslConv):
            conv.predictor.fix(TABLE3.get(conv.name, (1.3, 1.3)))
    return trunk


def calls(images: Tensor) -> dict[str, Callable[[], None]]:
    """A forward pass of each trunk."""
    trunks = {
        "plain": ResNet().build(),
        "FD": ResNet(edits=(pod.Fd(dilations=plan()),)).build(),
        "mix": gsl("mix"),
        "deform": gsl("deform"),
    }
    built = {name: trunk.to(memory_format=torch.channels_last).eval() for name, trunk in trunks.items()}

    def forward(trunk: nn.Module) -> Callable[[], None]:
        def one() -> None:
            with torch.inference_mode():
                trunk(images)

        return one

    return {name: forward(trunk) for name, trunk in built.items()}


def in_turn(measured: dict[str, Callable[[], None]], repeats: int) -> list[dict[str, float]]:
    """Seconds of each in `repeats` rounds after a warm-up of one; who goes first moves on."""
    rounds = []
    names = list(measured)
    for number in range(repeats + 1):
        seconds = {}
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = perf_counter()
            measured[name]()
            seconds[name] = perf_counter() - start
        rounds.append(seconds)
    return rounds[1:]


def chosen(images: Tensor) -> str:
    """The backend of every layer of a GSL trunk, where they agree."""
    trunk = gsl(None).eval()
    with torch.inference_mode():
        trunk(images)
    used = {str(conv.used) for conv in trunk.modules() if isinstance(conv, pod.GslConv)}
    return " and ".join(sorted(used))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    quieten()
    images = torch.randn(1, 3, HEIGHT, WIDTH).contiguous(memory_format=torch.channels_last)
    rounds = in_turn(calls(images), options.repeats)
    ratios = {name: median(each[name] / each["plain"] for each in rounds) for name in ("FD", "mix", "deform")}
    choice = chosen(images)
    faster = min(("mix", "deform"), key=lambda name: ratios[name])
    if options.json:
        print(
            json.dumps({"name": "POD trunk", "ratios": ratios, "targets": TARGETS, "chosen": choice, "rounds": rounds})
        )
        return
    milliseconds = {name: 1e3 * median(each[name] for each in rounds) for name in rounds[0]}
    for name, ratio in ratios.items():
        target = f"target ≤ {TARGETS[name]}; " if name in TARGETS else ""
        print(f"{name}: {ratio:.3f} × the plain trunk ({target}{milliseconds[name]:.0f} ms against "
              f"{milliseconds['plain']:.0f} ms)")  # fmt: skip
    print(f"chosen: {choice}, faster: {faster}")


if __name__ == "__main__":
    main()
