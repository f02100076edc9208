"""POD, table 5 on its way: the loss of GSL and of the FD network that has its weights, beside FD from the start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes

from benchsuite.engine.store import Store
from benchsuite.errors import InputError
from benchsuite.report.figures._style import ACCENT, OURS, PAPER
from benchsuite.report.gathered import Gathered
from benchsuite.report.gathered._runs import by_detector, command, inputs, log, not_run, results_of, seed_of, trainings
from benchsuite.report.results import Results, RowRecord

RECIPE = "pod-table5"
DETECTORS = {"c4-50": "Faster R-CNN, C4", "fpn-50": "Faster R-CNN, FPN", "retina-50": "RetinaNet"}
"""By the beginning of their rows' ids."""
TRANSFERRED, FROM_START = "-fd-wt", "-fd-2x"
"""What follows it."""
COLOURS = {"FD from the start": PAPER, "GSL": ACCENT, "FD with GSL's weights": OURS}

Point = tuple[int, float]


@dataclass(frozen=True)
class Losses:
    """(step, loss) of one seed: GSL, FD from its weights, and FD from the start where that was run."""

    seed: int
    gsl: Sequence[Point]
    transferred: Sequence[Point]
    from_start: Sequence[Point]


Runs = Sequence[tuple[Results, Mapping[str, Sequence[Losses]]]]


def gather(folder: Path, store: Store, tier: str) -> Gathered:
    """From Table 5's results and the logs of its trainings; InputError, with the command, where there is none."""
    found = [(results, {name: _losses(results, name, store) for name in DETECTORS})
             for results in results_of(RECIPE, folder, tier)]  # fmt: skip
    runs = [(results, losses) for results, losses in found if any(losses.values())]
    if not runs:
        wanted = command(RECIPE, tier, "retina-50-fd-2x,retina-50-fd-wt")
        raise InputError(f"{folder}: no training with a GSL network's weights that the store knows; first: {wanted}")
    missing = [
        f"{results.tier}, {results.data.name}: no losses of {row}; {command(RECIPE, results.tier, row)}"
        for results, losses in runs for name, seeds in losses.items()
        for row, there in ((name + TRANSFERRED, seeds), (name + FROM_START, any(seed.from_start for seed in seeds)))
        if not there
    ]  # fmt: skip
    figure = by_detector("POD, table 5: loss, a line a seed", "training loss", DETECTORS, runs, _panel)
    return Gathered(figure, _numbers(runs), tuple(missing))


def _losses(results: Results, detector: str, store: Store) -> list[Losses]:
    """Seed by seed, what the store holds of a detector."""
    transferred = _trained(results.row(detector + TRANSFERRED), store)
    from_start = _trained(results.row(detector + FROM_START), store)
    return [
        Losses(seed, _loss(inputs(key, store)["gsl"], store), _loss(key, store), _loss(from_start.get(seed, ""), store))
        for seed, key in transferred.items()
        if store.artifact(inputs(key, store)["gsl"])
    ]


def _trained(row: RowRecord, store: Store) -> dict[int, str]:
    """The row's own training of each seed: the last one made, which those before it went into."""
    keys = [next(trainings(key, store), "") for key in row.keys]
    return {seed_of(key, store): key for key in keys if key}


def _loss(key: str, store: Store) -> list[Point]:
    return [(int(line["iteration"]), float(line["loss"])) for line in log(key, store)] if key else []


def _numbers(runs: Runs) -> list[dict[str, str | int | float]]:
    """What the paper's claim of a better start is about: the loss where GSL ends and each FD network begins, of one
    line of the log and, for batches differ, over ten."""
    return [
        {"tier": results.tier, "data": results.data.name, "set": " ".join(results.overrides),
         "detector": name, "seed": seed.seed,
         **_ends("gsl_last", seed.gsl[::-1]), **_ends("fd_wt_first", seed.transferred),
         **_ends("fd_first", seed.from_start)}
        for results, losses in runs for name, seeds in losses.items() for seed in seeds
    ]  # fmt: skip


def _ends(name: str, points: Sequence[Point]) -> dict[str, float]:
    """The first of the points and the mean of the first ten; nothing where there are none."""
    ten = [loss for _, loss in points[:10]]
    return {name: ten[0], f"{name}_ten": fmean(ten)} if ten else {}


def _panel(axes: Axes, results: Results, losses: Mapping[str, Sequence[Losses]], name: str) -> None:
    """FD-WT goes on where GSL stopped, so that what was trained as long stands above each other."""
    for text, colour in COLOURS.items():
        axes.plot([], [], color=colour, label=text)
    for seed in losses[name]:
        ends = seed.gsl[-1][0]
        curves = (seed.from_start, seed.gsl, [(ends + step, loss) for step, loss in seed.transferred])
        for points, colour in zip(curves, COLOURS.values(), strict=True):
            axes.plot([step for step, _ in points], [loss for _, loss in points], color=colour, linewidth=0.8)
    if not losses[name]:
        not_run(axes)
    axes.set_xlabel("step")
