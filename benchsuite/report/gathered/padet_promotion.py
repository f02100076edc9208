"""Positive anchors an image by IoU, before and after promotion, while PADet trains (its figure 2)."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes

from benchsuite.engine.store import Store
from benchsuite.report.figures._style import ACCENT, OURS
from benchsuite.report.gathered import Gathered
from benchsuite.report.gathered._padet import Counted, mean, numbers, runs_of
from benchsuite.report.gathered._runs import by_detector, not_run
from benchsuite.report.results import Results

ROWS = {"r": "APM_R", "cr": "APM_CR", "full": "APM_CR, FA"}
"""The rows of Table 2 that promote anchors."""
BINS = {"0.5": (50, 55), "0.6": (60, 65), "0.7": (70, 75), "0.8": (80, 85), "0.9": (90, 95)}
"""choice: five bins of 0.1, of ten that are counted; each by where it begins."""
SIDES = {"before": (OURS, -0.2), "after": (ACCENT, 0.2)}


def gather(folder: Path, store: Store, tier: str) -> Gathered:
    """Means over all steps; a truth's best anchor counts among them from IoU 0.5 on.

    InputError, with the command that makes them, where there is none.
    """
    runs, missing = runs_of(list(ROWS), folder, store, tier)
    title = "PADet, figure 2: positive anchors an image by IoU, mean over all training steps"
    figure = by_detector(title, "positive anchors an image", ROWS, runs, _panel)
    names = [f"{side}_iou_{first}" for side in SIDES for pair in BINS.values() for first in pair]
    return Gathered(figure, numbers(runs, ["before_positives", "after_positives", *names]), missing)


def _panel(axes: Axes, results: Results, found: Mapping[str, list[Counted]], name: str) -> None:
    for side, (colour, shift) in SIDES.items():
        seeds = [[sum(each.means[f"{side}_iou_{first}"] for first in pair) for pair in BINS.values()]
                 for each in found[name]]  # fmt: skip
        # a panel that was not run has bars too, of no height, from which the legend takes its colours
        heights = [sum(bars) / len(bars) for bars in zip(*seeds, strict=True)] or [0.0] * len(BINS)
        places = [place + shift for place in range(len(BINS))]
        axes.bar(places, heights, 0.4, color=colour, label=f"{side} promotion")
        for bars in seeds:
            axes.plot(places, bars, ".", color="black", markersize=2.5)
    axes.set_xticks(range(len(BINS)), list(BINS))
    axes.set_xlabel("IoU with the truth, from … on")
    if not found[name]:
        not_run(axes)
        return
    totals = (mean(found[name], f"{side}_positives") for side in SIDES)
    axes.set_title("{}: {:.3g} → {:.3g} in all".format(ROWS[name], *totals), fontsize=8)
