"""CAT's exterior colla-factors C_w and S_w by layer, for detection, segmentation and classification (its figure 5)."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchsuite.engine.store import Store
from benchsuite.errors import InputError, shortened
from benchsuite.recipe.form import TIERS
from benchsuite.report.figures._style import ACCENT, LONGEST, OURS, WIDTH, caption, style
from benchsuite.report.gathered import Gathered
from benchsuite.report.gathered._runs import command, log, results_of, seed_of, trainings
from benchsuite.report.grids import meaning
from benchsuite.report.results import Results, RowRecord

# The paper's own runs first (sec. 4.5: ResNet-50), then smaller ones of the same task.
SOURCES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "detection": (("cat-table2", "faster-r50-cat"), ("cat-table1", "faster-r50-cat"), ("cat-table6", "cat")),
    "segmentation": (("cat-table5", "r50-cat"),),
    "classification": (
        ("cat-table4", "r50-cat"), ("cat-table3", "r50-cat"),
        ("cat-table3", "shufflenetv2-cat"), ("cat-table3", "mobilenetv2-cat"),
    ),
}  # fmt: skip
SMALLEST = {"detection": 2, "segmentation": 0, "classification": 2}
"""Which of them to propose where none was run."""


@dataclass(frozen=True)
class LayerFactors:
    """What the end of one training's log says: seed, iterations, and (C_w, S_w) of each layer from the input on."""

    seed: int
    step: int
    layers: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class TrainedRow:
    """The trainings of a row, one a seed, that one results file lists."""

    results: Results
    row: RowRecord
    seeds: tuple[LayerFactors, ...]

    @property
    def name(self) -> str:
        """Row, tier, data, settings and step: what a caption must say."""
        steps = "/".join(str(step) for step in dict.fromkeys(each.step for each in self.seeds))
        found = self.results
        where = [f"{found.recipe}/{self.row.id}", f"{found.tier} tier on {found.data.name}", *found.overrides]
        return ", ".join([*where, f"step {steps}"])


def gather(folder: Path, store: Store, tier: str) -> Gathered:
    """Take what runs there are: of each task the best tier (or `tier`), then the one nearest to the paper's.

    InputError where there is none of any task, or a run that should have factors has none.
    """
    runs = {task: next(_runs(folder, store, tier, sources), None) for task, sources in SOURCES.items()}
    missing = {task: _missing(folder, tier, task) for task, run in runs.items() if run is None}
    if not any(runs.values()):
        raise InputError(f"{folder}: no run with colla-factors; {'; '.join(missing.values())}")
    numbers: list[dict[str, str | int | float]] = [
        {"task": task, "recipe": run.results.recipe, "row": run.row.id, "tier": run.results.tier,
         "data": run.results.data.name, "seed": each.seed, "step": each.step, "layer": layer, "C_w": c_w, "S_w": s_w}
        for task, run in runs.items() if run
        for each in run.seeds for layer, (c_w, s_w) in enumerate(each.layers, 1)
    ]  # fmt: skip
    return Gathered(_figure(runs, missing), numbers, tuple(missing.values()))


def _runs(folder: Path, store: Store, tier: str, sources: Sequence[tuple[str, str]]) -> Iterator[TrainedRow]:
    """Runs whose trainings are in the store, the best first; of a row the longest first."""
    for each_tier in [tier] if tier else reversed(TIERS):
        for recipe, row_id in sources:
            found = [
                TrainedRow(results, row, tuple(_trained(results, row, store)))
                for results in results_of(recipe, folder, each_tier) for row in results.rows if row.id == row_id
            ]  # fmt: skip
            yield from sorted([run for run in found if run.seeds], key=lambda run: -run.seeds[0].step)


def _trained(results: Results, row: RowRecord, store: Store) -> list[LayerFactors]:
    """What the log of each of the row's trainings ends with, by seed."""
    found = []
    for key in dict.fromkeys(key for last in row.keys for key in trainings(last, store)):
        line = log(key, store)[-1]
        layers = [(value, line[f"{name[:-4]}.S_w"]) for name, value in line.items() if name.endswith(".C_w")]
        if not layers:
            raise InputError(
                f"{results.recipe}/{row.id}, {results.tier} tier on {results.data.name}: its log has no colla-factors; "
                "it was trained without CAT's exterior ones, run the row as its recipe has it"
            )
        found.append(LayerFactors(seed_of(key, store), line["iteration"], tuple(layers)))
    return sorted(found, key=lambda each: each.seed)


def _missing(folder: Path, tier: str, task: str) -> str:
    """What to run for a task without a run, and why none was found."""
    known = any(results_of(recipe, folder, tier) for recipe, _ in SOURCES[task])
    recipe, row = SOURCES[task][SMALLEST[task]]
    why = "no training of its results in the store" if known else "nothing was run"
    return f"{task}: {why}; first: {command(recipe, tier, row)}"


def _figure(runs: Mapping[str, TrainedRow | None], missing: Mapping[str, str]) -> Figure:
    found = [run for run in runs.values() if run]
    with style():
        figure = Figure(figsize=(WIDTH, 2.9), dpi=300, layout="constrained")
        figure.suptitle("CAT's exterior colla-factors by layer (after softmax), a line a seed", x=0.01, ha="left",
                        fontsize=9.5, weight="bold")  # fmt: skip
        panels = figure.subplots(1, len(runs), sharey=True)
        for axes, (task, run) in zip(panels, runs.items(), strict=True):
            axes.set_title(task)
            axes.set_xlabel("layer")
            if run is None:
                _say(axes, missing[task])
            else:
                _plot(axes, run)
        shown = next(axes for axes, run in zip(panels, runs.values(), strict=True) if run)
        legend = figure.legend(*shown.get_legend_handles_labels(), loc="outside lower left", ncols=2)
        for text in legend.get_texts():
            text.set_parse_math(True)
        warning = [meaning(run.results) for run in found if run.results.tier == "smoke"][:1]
        told = [f"{task}: {shortened(run.name, LONGEST)}." for task, run in runs.items() if run]
        caption(figure, " ".join([*warning, *told]), *([ACCENT] if warning else []))
    return figure


def _plot(axes: Axes, run: TrainedRow) -> None:
    for place, each in enumerate(run.seeds):
        index = range(1, len(each.layers) + 1)
        for values, color, name in zip(zip(*each.layers, strict=True), (OURS, ACCENT), ("$C_w$", "$S_w$"), strict=True):
            label = "_nolegend_" if place else name
            axes.plot(index, values, color=color, marker="o", markersize=2, alpha=0.8, label=label)
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _say(axes: Axes, text: str) -> None:
    """An empty panel that says why it is."""
    axes.text(0.5, 0.5, "\n".join(textwrap.wrap(text, 34)), ha="center", va="center", fontsize=6.5,
              transform=axes.transAxes, color="#555555")  # fmt: skip
    axes.set_xticks(())
