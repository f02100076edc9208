"""HAR-Net's hybrid attention against its baseline: forward pass on ResNet-50 at 640×1024, beside the ratio of MACs.

python benchmarks/har_forward.py [--repeats N] [--json]

One image, 80 classes, channels_last, two threads. There is no target: MACs do not count what attention adds
element-wise, and the difference of the two ratios is what that costs here.
"""

import argparse
import json
from collections.abc import Callable
from statistics import median

import torch
from step import compare
from torch import Tensor, nn

from benchsuite.loops.timing import keep_memory
from benchsuite.models.cost import macs, parameters
from benchsuite.models.detector import Model
from benchsuite.recipe.loading import select
from benchsuite.verbs.plan import make_plan

HEIGHT, WIDTH, CLASSES = 640, 1024, 80
ROWS = "resnet-50-ha", "resnet-50"


def models() -> list[Model]:
    """Settings of HA and of the baseline, as Table IV's recipe has them, without weights to load."""
    set_ = ["model.backbone.weights=null"]
    plan = make_plan(select(["har-table4"]), "paper", rows=ROWS, overrides=set_)
    found = {planned.row.id: planned.pipeline for planned in plan.rows}
    return [model for row in ROWS if isinstance(model := getattr(found[row], "model", None), Model)]


def forward(model: nn.Module, images: Tensor) -> Callable[[], None]:
    def one() -> None:
        with torch.inference_mode():
            model(images)

    return one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    keep_memory()
    images = torch.randn(1, 3, HEIGHT, WIDTH).contiguous(memory_format=torch.channels_last)
    built = [model.build(CLASSES).to(memory_format=torch.channels_last).eval() for model in models()]
    hybrid, baseline = (forward(model, images) for model in built)
    pairs = compare(hybrid, baseline, options.repeats)
    ratio = median(mine / other for mine, other in pairs)
    costs = [macs(model, images) for model in built]
    sizes = [parameters(model) for model in built]
    if options.json:
        print(json.dumps({"name": "HA forward", "ratio": ratio, "macs": costs, "parameters": sizes, "pairs": pairs}))
        return
    mine, other = (1e3 * median(side) for side in zip(*pairs, strict=True))
    print(
        f"HA forward: {ratio:.2f} × baseline ({mine:.0f} ms against {other:.0f} ms), {costs[0] / costs[1]:.2f} × its "
        f"MACs ({costs[0] / 1e9:.1f} G against {costs[1] / 1e9:.1f} G), {sizes[0] / sizes[1]:.2f} × its parameters"
    )


if __name__ == "__main__":
    main()
