"""ASSD, table 2 as a picture: frames a second against mAP on VOC 2007 test, a panel for each GPU, then our own runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchsuite.engine.store import Store
from benchsuite.errors import InputError
from benchsuite.report.figures._style import ACCENT, OURS, PAPER, WIDTH, style
from benchsuite.report.gathered import Gathered
from benchsuite.report.gathered._runs import about, command, results_of
from benchsuite.report.results import Results, RowRecord, published_value

RECIPE = "assd-table2"
GPUS = {"fps_titan_x": "Titan X", "fps_1080ti": "1080Ti", "fps_k40": "K40", "fps_k80": "K80"}
"""The columns of published speeds. Speeds of different devices share no axis."""
ACROSS = 2

Points = Mapping[str, tuple[float, float]]
"""(frames a second, mAP) by row."""


def gather(folder: Path, store: Store, tier: str) -> Gathered:
    """From the results of Table 2, whatever the data; InputError, with the command, where there are none."""
    found = results_of(RECIPE, folder, tier)
    if not found:
        raise InputError(f"{folder}: holds no results of {RECIPE}; first: {command(RECIPE, tier)}")
    runs = [(results, _measured(results)) for results in found]
    missing = [
        f"{results.tier}, {results.data.name}: no fps and AP50 of {row.id}; {command(RECIPE, results.tier, row.id)}"
        for results, points in runs
        for row in results.rows
        if row.role == "run" and row.id not in points
    ]
    printed = {device: _published(found[0].rows, column) for column, device in GPUS.items()}
    numbers = [_number("paper", "", device, *each) for device, points in printed.items() for each in points.items()]
    for results, points in runs:
        numbers += [_number(results.tier, results.data.name, _device(results), *each) for each in points.items()]
    return Gathered(_draw(printed, runs), numbers, tuple(missing))


def _measured(results: Results) -> Points:
    """Means over seeds."""
    pairs = {row.id: [results.values(row.id, column).values() for column in ("fps", "AP50")] for row in results.rows}
    return {row: (fmean(fps), fmean(ap)) for row, (fps, ap) in pairs.items() if fps and ap}


def _published(rows: Sequence[RowRecord], column: str) -> Points:
    pairs = {row.id: (row.published.get(column), row.published.get("AP50")) for row in rows}
    values = {row: (published_value(fps), published_value(ap)) for row, (fps, ap) in pairs.items()}
    return {row: (fps, ap) for row, (fps, ap) in values.items() if fps is not None and ap is not None}


def _device(results: Results) -> str:
    return ", ".join(dict.fromkeys(row.device for row in results.rows if row.device))


def _number(tier: str, data: str, device: str, row: str, point: tuple[float, float]) -> dict[str, str | int | float]:
    return {"tier": tier, "data": data, "device": device, "row": row, "fps": point[0], "AP50": point[1]}


def _draw(printed: Mapping[str, Points], runs: Sequence[tuple[Results, Points]]) -> Figure:
    with style():
        down = -(-(len(printed) + len(runs)) // ACROSS)
        figure = Figure(figsize=(WIDTH, 0.4 + 2.9 * down), dpi=300, layout="constrained")
        figure.suptitle("ASSD, table 2: speed against mAP", x=0.01, ha="left", fontsize=9.5, weight="bold")
        panels = figure.subplots(down, ACROSS, squeeze=False).flat
        for axes, (device, points) in zip(panels, printed.items(), strict=False):
            _panel(axes, points, f"paper, {device}", PAPER)
        for axes, (results, points) in zip(figure.axes[len(printed) :], runs, strict=False):
            note = f"{about(results, 70)}\non {_device(results) or 'no device yet'}"
            _panel(axes, points, note, ACCENT if results.tier == "smoke" else "#555555")
        for axes in figure.axes[len(printed) + len(runs) :]:
            axes.remove()
    return figure


def _panel(axes: Axes, points: Points, note: str, colour: str) -> None:
    """Attention's rows are filled."""
    axes.set_title(note, fontsize=6.5, weight="normal", color=colour)
    for row, (fps, ap) in points.items():
        attends = row.startswith("assd") or row.endswith("-att")
        axes.plot(fps, ap, "o", color=OURS, fillstyle="full" if attends else "none", markersize=4)
        axes.annotate(row, (fps, ap), xytext=(3, 3), textcoords="offset points", fontsize=5)
    axes.set(xlabel="frames a second", ylabel="mAP")
    axes.margins(0.2)
    axes.grid()
