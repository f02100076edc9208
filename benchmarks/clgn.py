"""Cross-level group normalisation against a group norm of each of the five levels, forward, and forward and backward.

python benchmarks/clgn.py [--repeats N] [--json]

Two images of 640×1024, so levels from 80×128 to 5×8, 256 channels in 32 groups, channels_last as models are trained,
two threads. Target: ≤ 1.3 × the five norms. Both give each level the same work but for the pooled statistics.
"""

import argparse
import json
from functools import partial
from statistics import median

import torch
from step import compare
from torch import Tensor
from torch.nn.functional import group_norm

from benchsuite.loops.timing import keep_memory
from benchsuite.models.cross_level import cross_level_group_norm

IMAGES, CHANNELS, GROUPS, TARGET = 2, 256, 32, 1.3
LEVELS = (80, 128), (40, 64), (20, 32), (10, 16), (5, 8)


def separate(levels: list[Tensor], weight: Tensor, bias: Tensor) -> list[Tensor]:
    return [group_norm(level, GROUPS, weight, bias) for level in levels]


def together(levels: list[Tensor], weight: Tensor, bias: Tensor) -> list[Tensor]:
    return cross_level_group_norm(levels, GROUPS, weight, bias)


def forward(norm: partial[list[Tensor]]) -> None:
    with torch.inference_mode():
        norm()


def both(norm: partial[list[Tensor]], slopes: list[Tensor]) -> None:
    levels, weight, bias = norm.args
    torch.autograd.grad(norm(), (*levels, weight, bias), slopes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    keep_memory()
    levels = [
        torch.randn(IMAGES, CHANNELS, *size).contiguous(memory_format=torch.channels_last).requires_grad_()
        for size in LEVELS
    ]
    slopes = [torch.randn_like(level) for level in levels]
    weight, bias = torch.rand(CHANNELS, requires_grad=True), torch.rand(CHANNELS, requires_grad=True)
    ours, theirs = partial(together, levels, weight, bias), partial(separate, levels, weight, bias)
    results = []
    for name, call in ("forward", forward), ("forward and backward", partial(both, slopes=slopes)):
        pairs = compare(partial(call, ours), partial(call, theirs), options.repeats)
        ratio = median(mine / other for mine, other in pairs)
        results.append({"name": f"CLGN, {name}", "ratio": ratio, "target": TARGET, "pairs": pairs})
        if not options.json:
            mine, other = (1e3 * median(side) for side in zip(*pairs, strict=True))
            print(
                f"CLGN {name}: {ratio:.2f} × five group norms (target ≤ {TARGET}; {mine:.1f} ms against {other:.1f} ms)"
            )
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
