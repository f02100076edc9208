"""What PADet's trainings counted of their anchors, for its figures 1 and 2, as the rows' jobs averaged it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from benchsuite.engine.store import Store
from benchsuite.errors import InputError
from benchsuite.report.gathered._runs import command, results_of
from benchsuite.report.results import Results

RECIPE = "padet-table2"
COUNT = "after_positives"
"""What the job that counts, and no other, leaves."""


@dataclass(frozen=True)
class Counted:
    """Of one training: its seed, and the mean of each count over all its steps, for one image."""

    seed: int
    means: Mapping[str, float]


Runs = list[tuple[Results, dict[str, list[Counted]]]]
"""Of each results file the trainings of each row."""


def runs_of(rows: Sequence[str], folder: Path, store: Store, tier: str) -> tuple[Runs, tuple[str, ...]]:
    """What Table 2's trainings of some rows counted, and a sentence for each row without any.

    InputError, with the command that makes them, where there is none at all.
    """
    found = [(results, {row: _counted(results, row, store) for row in rows})
             for results in results_of(RECIPE, folder, tier)]  # fmt: skip
    runs = [(results, counted) for results, counted in found if any(counted.values())]
    if not runs:
        raise InputError(f"{folder}: holds no counts that the store knows; first: {command(RECIPE, tier)}")
    missing = [
        f"{results.tier}, {results.data.name}: no counts of {row}; {command(RECIPE, results.tier, row)}"
        for results, counted in runs for row in rows if not counted[row]
    ]  # fmt: skip
    return runs, tuple(missing)


def mean(counted: Sequence[Counted], name: str) -> float:
    """Of a count, over trainings."""
    return fmean(each.means[name] for each in counted)


def numbers(runs: Runs, names: Sequence[str]) -> list[dict[str, str | int | float]]:
    """Those counts, a line for each training."""
    return [
        {"tier": results.tier, "data": results.data.name, "set": " ".join(results.overrides), "row": row,
         "seed": each.seed, **{name: round(each.means[name], 6) for name in names}}
        for results, counted in runs for row, trained in counted.items() for each in trained
    ]  # fmt: skip


def _counted(results: Results, row_id: str, store: Store) -> list[Counted]:
    found = [store.verified(key).metrics for key in results.row(row_id).keys if store.artifact(key)]
    balances = [metrics for metrics in found if COUNT in metrics]
    counted = [Counted(int(means.pop("seed")), means) for means in map(_known, balances)]
    return sorted(counted, key=lambda each: each.seed)


def _known(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value is not None}
