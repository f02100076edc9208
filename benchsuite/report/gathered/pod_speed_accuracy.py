"""POD, figure 1: time against AP of baselines (2×) and fast-deployment networks (FD-WT), on minival."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchsuite.engine.store import Store
from benchsuite.errors import InputError
from benchsuite.report.figures._style import ACCENT, OURS, PAPER, WIDTH, style
from benchsuite.report.gathered import Gathered
from benchsuite.report.gathered._runs import about, command, results_of
from benchsuite.report.results import Results, published_value

# choice: the figure says test-dev and 2×, but its gains are Table 5's, which is minival and has FD-WT at 1× + 1×.
TIMES, SCORES = "pod-table4", "pod-table5"
DETECTORS = {"c4-50": "Faster R-CNN, R50-C4", "retina-50": "RetinaNet, R50-FPN"}
NETWORKS = {"baseline": ("", "-2x"), "FD-WT": ("-fd", "-fd-wt")}
"""What follows the detector in the ids of Table 4's rows (times) and of Table 5's (AP)."""
COLOURS = dict(zip(DETECTORS, (OURS, ACCENT), strict=True))

Points = Mapping[tuple[str, str], tuple[float, float]]
"""(ms, AP) by detector and network."""


def gather(folder: Path, store: Store, tier: str) -> Gathered:
    """From the results of Tables 4 and 5 of the same tier and data; InputError, with the command, without any."""
    times, scores = ({_on(each): each for each in results_of(recipe, folder, tier)} for recipe in (TIMES, SCORES))
    both = [(times[on], scores[on]) for on in times if on in scores]
    if not both:
        wanted = command(f"{TIMES} {SCORES}", tier)
        raise InputError(f"{folder}: holds no results of {TIMES} and {SCORES} on the same data; first: {wanted}")
    runs = [(timed, scored, _points(timed, scored)) for timed, scored in both]
    missing = [
        sentence
        for timed, scored, _ in runs
        for sentence in [*_missing(timed, "latency_ms", 0), *_missing(scored, "AP", 1)]
    ]
    printed = _published(*both[0])
    numbers = [_number("paper", "", *point) for point in printed.items()]
    for timed, _, points in runs:
        numbers += [_number(timed.tier, timed.data.name, *point) for point in points.items()]
    return Gathered(_draw(printed, runs), numbers, tuple(missing))


def _on(results: Results) -> tuple[str, str, str]:
    return results.tier, results.data.fingerprint, " ".join(sorted(results.overrides))


def _rows(index: int) -> dict[tuple[str, str], str]:
    """The rows of Table 4 (0) or 5 (1), by detector and network."""
    return {(detector, name): detector + ends[index] for detector in DETECTORS for name, ends in NETWORKS.items()}


def _points(timed: Results, scored: Results) -> Points:
    """Means over seeds."""
    ms, ap = _rows(0), _rows(1)
    found = {which: (timed.values(ms[which], "latency_ms"), scored.values(ap[which], "AP")) for which in ms}
    return {which: (fmean(t.values()), fmean(s.values())) for which, (t, s) in found.items() if t and s}


def _published(timed: Results, scored: Results) -> Points:
    ms, ap = _rows(0), _rows(1)
    pairs = {
        which: (published_value(timed.row(ms[which]).published["latency_ms"]),
                published_value(scored.row(ap[which]).published["AP"])) for which in ms
    }  # fmt: skip
    return {which: (t, s) for which, (t, s) in pairs.items() if t is not None and s is not None}


def _missing(results: Results, column: str, index: int) -> list[str]:
    rows = [row for row in _rows(index).values() if not results.values(row, column)]
    recipe = (TIMES, SCORES)[index]
    return [
        f"{results.tier}, {results.data.name}: no {column} of {row}; {command(recipe, results.tier, row)}"
        for row in rows
    ]


def _number(tier: str, data: str, which: tuple[str, str], point: tuple[float, float]) -> dict[str, str | int | float]:
    detector, network = which
    return {"tier": tier, "data": data, "detector": detector, "network": network, "ms": point[0], "AP": point[1]}


def _draw(printed: Points, runs: list[tuple[Results, Results, Points]]) -> Figure:
    """The paper's numbers and, beside them, ours: times of different devices share no axis."""
    with style():
        figure = Figure(figsize=(WIDTH, 3.2), dpi=300, layout="constrained")
        title = "POD, figure 1: time against AP, baseline → FD-WT"
        figure.suptitle(title, x=0.01, ha="left", fontsize=9.5, weight="bold")
        panels = figure.subplots(1, 1 + len(runs), squeeze=False)[0]
        _panel(panels[0], printed, "paper, minival: Tables 4 (ms, device untold) and 5 (AP)", PAPER)
        for axes, (timed, scored, points) in zip(panels[1:], runs, strict=True):
            device = ", ".join(dict.fromkeys(row.device for row in timed.rows if row.device))
            note = about(scored, 120 // (1 + len(runs))) + f"\ntimed on {device or 'no device yet'}"
            _panel(axes, points, note, ACCENT if timed.tier == "smoke" else "#555555")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=len(DETECTORS))
    return figure


def _panel(axes: Axes, points: Points, note: str, colour: str) -> None:
    axes.set_title(note, fontsize=6.5, weight="normal", color=colour)
    for detector, label in DETECTORS.items():
        mine = {name: points[detector, name] for name in NETWORKS if (detector, name) in points}
        axes.plot([ms for ms, _ in mine.values()], [ap for _, ap in mine.values()], "-", color=COLOURS[detector])
        for name, (ms, ap) in mine.items():
            style_ = "full" if name == "FD-WT" else "none"
            axes.plot(ms, ap, "o", color=COLOURS[detector], fillstyle=style_, label=f"{label}, {name}")
    lacking = len(DETECTORS) * len(NETWORKS) - len(points)
    if lacking:
        axes.text(0.98, 0.02, f"{lacking} not run", ha="right", va="bottom", transform=axes.transAxes, color=PAPER)
    axes.set(xlabel="time (ms)", ylabel="AP")
    axes.margins(0.2)
    axes.grid()
