"""The verbs for Python: load a recipe, change a row, plan, run, read the results as a DataFrame."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchsuite.plan import Plan, make_plan
from benchsuite.recipe import Recipe, select
from benchsuite.results import Results, to_frame
from benchsuite.run import RunOptions, run_plan
from benchsuite.store import Store

if TYPE_CHECKING:
    from pandas import DataFrame


def load(name: str | Path) -> Recipe:
    """A recipe by id or by the path of its YAML file; InputError where there is none."""
    return select([str(name)])[0]


def plan(
    recipe: Recipe,
    tier: str = "smoke",
    *,
    rows: Sequence[str] = (),
    seeds: Sequence[int] = (),
    data: Path | None = None,
    overrides: Sequence[str] = (),
) -> Plan:
    """The jobs of a recipe's rows (all by default) at a tier; see `bench plan`."""
    return make_plan([recipe], tier, rows=rows, seeds=seeds, data=data, overrides=overrides)


def run(plan: Plan, store: Path | None = None, options: RunOptions | None = None) -> Results:
    """Run what the store does not hold yet, write results files, and return the results of the plan's recipe."""
    ran = run_plan(plan, Store(store), options)
    return next(iter(ran.results.values()))


def frame(results: Results) -> "DataFrame":
    """Results in long form: one line per row, column and seed."""
    return to_frame(results)
