"""Positive and negative anchors an image while PADet trains: initial, APM_C, APM_R, APM_CR (its figure 1)."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes

from benchsuite.engine.store import Store
from benchsuite.report.figures._style import ACCENT, OURS
from benchsuite.report.gathered import Gathered
from benchsuite.report.gathered._padet import Counted, mean, numbers, runs_of
from benchsuite.report.gathered._runs import by_detector
from benchsuite.report.results import Results, RowRecord, published_value

DESIGNS = {"base": "initial", "c": "APM_C", "r": "APM_R", "cr": "APM_CR"}
"""The bars of the figure, by Table 2's rows; SRN's is another paper's detector."""
RATIO = "negatives_per_positive"
"""The column of the ratios that section 3.1 tells."""
BARS = {"after_positives": ("positives", ACCENT, -0.2), "after_negatives": ("negatives", OURS, 0.2)}


def gather(folder: Path, store: Store, tier: str) -> Gathered:
    """After matching and the θ-rule, means over all steps; between the two IoU thresholds an anchor is neither.

    InputError, with the command that makes them, where there is none.
    """
    runs, missing = runs_of(list(DESIGNS), folder, store, tier)
    title = "PADet, figure 1: positive and negative anchors an image, mean over all training steps"
    figure = by_detector(title, "anchors an image", {"": "the detection module's, after matching and θ"}, runs, _panel)
    return Gathered(figure, numbers(runs, [*BARS, "after_ignored", "after_dropped"]), missing)


def _panel(axes: Axes, results: Results, found: Mapping[str, list[Counted]], name: str) -> None:
    for count, (text, colour, shift) in BARS.items():
        places = [place + shift for place, row in enumerate(DESIGNS) if found[row]]
        heights = [mean(found[row], count) for row in DESIGNS if found[row]]
        shown = axes.bar(places, heights, 0.4, color=colour, label=text)
        axes.bar_label(shown, fmt="%.4g", fontsize=6.5)
        seeds = [(place, each.means[count]) for place, row in zip(places, filter(found.get, DESIGNS), strict=True)
                 for each in found[row]]  # fmt: skip
        axes.plot(*zip(*seeds, strict=True), ".", color="black", markersize=2.5,
                  label="a seed" if shift > 0 else "_nolegend_")  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.margins(y=0.12)
    axes.set_xticks(range(len(DESIGNS)), [_name(text, found[row], results.row(row)) for row, text in DESIGNS.items()])
    axes.tick_params(axis="x", length=0)


def _name(text: str, found: list[Counted], row: RowRecord) -> str:
    ours = f"1 : {mean(found, 'after_negatives') / mean(found, 'after_positives'):.3g}" if found else "not run"
    printed = published_value(row.published.get(RATIO))
    return f"{text}\nours {ours}\npaper {'–' if printed is None else f'1 : {printed:g}'}"
