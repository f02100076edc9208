"""What CAT costs: entropy pooling against a softmax over the same map; ResNet-50 with CAT, SE or CBAM against without.

python benchmarks/cat.py [--repeats N] [--json]

Maps of ResNet-50's first, third and last stage for images of 224×224, two each, in channels_last, as models are
trained, and contiguous, of which softmax makes no copy first. Targets: at most twice the time of the softmax, forward
as well as forward and backward, and at most one more copy of the map in memory while it is pooled, where the map is
larger than a megabyte.
ResNet-50 sees two images of 160×160; there is no target. Two threads. Memory is the most allocated at once beyond
what was there before.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from itertools import product
from statistics import median

import torch
from pairs import compare, quieten
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchsuite.models.attention import Cbam, Se
from benchsuite.models.resnet import ResNet
from benchsuite.papers.cat import Cat
from benchsuite.papers.cat_pooling import SMALL, Over, entropy

MAPS = (256, 56), (1024, 14), (2048, 7)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
IMAGES, SIDE = 2, 160
TIME_TARGET, MEMORY_TARGET = 2.0, 1.0


def softmax(x: Tensor, over: Over) -> Tensor:
    return x.flatten(2).softmax(2) if over == "positions" else x.softmax(1)


def forward(pool: Callable[[Tensor], Tensor], x: Tensor) -> None:
    with torch.inference_mode():
        pool(x)


def both(pool: Callable[[Tensor], Tensor], x: Tensor, slope: Tensor) -> None:
    torch.autograd.grad(pool(x), x, slope)


def peak(call: Callable[[], object]) -> int:
    """Bytes on the CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        call()
    results = measured.profiler.kineto_results if measured.profiler else None
    events = [event for event in results.events() if event.name() == "[memory]"] if results else []
    allocated = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        most = max(most, allocated)
    return most


def pooling(repeats: int) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for (channels, side), layout, over in product(MAPS, LAYOUTS, ("positions", "channels")):
        x = torch.randn(IMAGES, channels, side, side).contiguous(memory_format=LAYOUTS[layout])
        leaf = x.clone().requires_grad_()
        ours, theirs = partial(entropy, over=over), partial(softmax, over=over)
        slopes = [torch.randn_like(pool(x)) for pool in (ours, theirs)]
        name = f"entropy over {over} of {channels}×{side}×{side}, {layout}"
        for way, calls in {
            "forward": [partial(forward, pool, x) for pool in (ours, theirs)],
            "forward and backward": [partial(both, ours, leaf, slopes[0]), partial(both, theirs, leaf, slopes[1])],
        }.items():
            found.append(timed(f"{name}, {way}", *calls, repeats) | {"target": TIME_TARGET})
        if x.numel() > SMALL:
            copies = peak(partial(forward, ours, x)) / (x.numel() * x.element_size())
            found.append({"name": f"{name}, copies of the map", "ratio": copies, "target": MEMORY_TARGET})
    return found


def timed(name: str, ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> dict[str, object]:
    pairs = compare(ours, theirs, repeats)
    return {"name": name, "ratio": median(mine / other for mine, other in pairs), "pairs": pairs}


def step(network: nn.Module, images: Tensor) -> None:
    network.zero_grad()
    torch.stack([level.sum() for level in network(images)]).sum().backward()


def networks(repeats: int) -> list[dict[str, object]]:
    images = torch.randn(IMAGES, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    plain, *others = (
        ResNet(levels=(2, 3, 4, 5), edits=edits).build().to(memory_format=torch.channels_last)
        for edits in ((), (Se(),), (Cbam(),), (Cat(),))
    )
    found: list[dict[str, object]] = []
    memory = peak(partial(step, plain, images))
    for name, network in zip(("SE", "CBAM", "CAT"), others, strict=True):
        for way, call in {"forward": forward, "forward and backward": step}.items():
            found.append(timed(f"ResNet-50 with {name}, {way}", partial(call, network, images),
                               partial(call, plain, images), repeats))  # fmt: skip
        found.append({"name": f"ResNet-50 with {name}, memory", "ratio": peak(partial(step, network, images)) / memory})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    quieten()
    results = [*pooling(3 * options.repeats), *networks(options.repeats)]
    if options.json:
        print(json.dumps(results))
        return
    for result in results:
        target = f" (target ≤ {result['target']})" if "target" in result else ""
        print(f"{result['name']}: {result['ratio']:.2f}{target}")


if __name__ == "__main__":
    main()
