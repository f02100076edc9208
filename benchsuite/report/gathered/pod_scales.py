"""POD, figure 6: the learnt scale of every layer and direction in three detectors, with its deviation over images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes

from benchsuite.engine.store import Store
from benchsuite.errors import InputError
from benchsuite.recipe.recipe import Spread
from benchsuite.report.figures._style import ACCENT, OURS, PAPER
from benchsuite.report.gathered import Gathered
from benchsuite.report.gathered._runs import by_detector, command, inputs, log, not_run, results_of, seed_of
from benchsuite.report.results import Results, RowRecord

RECIPE = "pod-table3"
DETECTORS = {"c4": "Faster R-CNN, C4", "fpn": "Faster R-CNN, FPN", "retina": "RetinaNet"}
"""By the beginning of their rows' ids; a row has one direction."""
COLOURS = {"h": OURS, "w": ACCENT}


@dataclass(frozen=True)
class Line:
    """Of the layers of one detector in one direction, for one seed: means over images and their deviations, after the
    training over the images that were measured, at its start over those of its first step."""

    seed: int
    means: Mapping[str, float]
    deviations: Mapping[str, float]
    starts: Mapping[str, float]
    spreads: Mapping[str, float]


def gather(folder: Path, store: Store, tier: str) -> Gathered:
    """Line by line from Table 3's results and the scales that its jobs left, all layers of them.

    InputError, with the command that makes them, where there is none.
    """
    found = [(results, _lines(results, store)) for results in results_of(RECIPE, folder, tier)]
    runs = [(results, lines) for results, lines in found if any(lines.values())]
    if not runs:
        raise InputError(f"{folder}: holds no learnt scales that the store knows; first: {command(RECIPE, tier)}")
    missing = [
        f"{results.tier}, {results.data.name}: no scales of {row}; {command(RECIPE, results.tier, row)}"
        for results, lines in runs for row in lines if not lines[row]
    ]  # fmt: skip
    figure = by_detector("POD, figure 6: learnt scales", "scale (dilation)", DETECTORS, runs, _panel)
    return Gathered(figure, _numbers(runs), tuple(missing))


Runs = list[tuple[Results, dict[str, list[Line]]]]


def _lines(results: Results, store: Store) -> dict[str, list[Line]]:
    """What the store holds for each row of the figure, seed by seed."""
    rows = [results.row(f"{name}-{direction}") for name in DETECTORS for direction in COLOURS]
    return {row.id: [line for key in row.keys if (line := _line(row, key, store))] for row in rows}


def _line(row: RowRecord, key: str, store: Store) -> Line | None:
    """From the job of Table 3's row, which picks one direction out, to the scales and the training before it."""
    measured = inputs(key, store).get("scales", "") if key and store.artifact(key) else ""
    trained = inputs(measured, store).get("train", "") if measured and store.artifact(measured) else ""
    if not trained or not store.artifact(trained):
        return None
    numbers = store.verified(measured).metrics
    direction = row.id[-1]
    end = f"_{direction}"
    layers = [name.removesuffix(end) for name in numbers if name.endswith(end)]
    means = {name: float(numbers[name + end] or 0) for name in layers}
    deviations = {name: float(numbers[f"{name}{end}_std"] or 0) for name in layers}
    first = log(trained, store)[0]
    starts, spreads = (
        dict(zip(layers, [value for name, value in first.items() if name.endswith(f".{what}{end}")], strict=True))
        for what in ("scale", "spread")
    )
    return Line(seed_of(trained, store), means, deviations, starts, spreads)


def _numbers(runs: Runs) -> list[dict[str, str | int | float]]:
    return [
        {"tier": results.tier, "data": results.data.name, "set": " ".join(results.overrides),
         "row": row, "seed": line.seed, "layer": layer,
         "scale": line.means[layer], "deviation": line.deviations[layer],
         "start": line.starts[layer], "start_deviation": line.spreads[layer]}
        for results, lines in runs for row in lines for line in lines[row] for layer in line.means
    ]  # fmt: skip


def _panel(axes: Axes, results: Results, found: Mapping[str, list[Line]], name: str) -> None:
    lines = {direction: found[f"{name}-{direction}"] for direction in COLOURS}
    layers = list(next((seeds[0].means for seeds in lines.values() if seeds), {}))
    for direction, seeds in lines.items():
        means = [fmean(line.means[layer] for line in seeds) for layer in layers] if seeds else []
        widths = [fmean(line.deviations[layer] for line in seeds) for layer in layers] if seeds else []
        axes.errorbar(range(len(means)), means, widths, fmt="o-", color=COLOURS[direction], markersize=3,
                      label=f"ours, {direction} (± over images)")  # fmt: skip
        starts = [fmean(line.starts[layer] for line in seeds) for layer in layers] if seeds else []
        axes.plot(range(len(starts)), starts, ":", color=COLOURS[direction], label=f"ours, {direction}, at the start")
        row = results.row(f"{name}-{direction}")
        cells = {layer: cell for layer, cell in row.published.items() if isinstance(cell, Spread) and layer in layers}
        axes.plot([layers.index(layer) for layer in cells], [cell.mean for cell in cells.values()],
                  "D" if direction == "h" else "s", color=PAPER, markersize=4, fillstyle="none",
                  label=f"paper, {direction} (Table 3)")  # fmt: skip
    axes.set_xticks(range(len(layers)), layers, rotation=90)
    if not any(lines.values()):
        not_run(axes)
