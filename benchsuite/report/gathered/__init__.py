"""Figures that no single results file holds: gathered from the results of several recipes and what their jobs left in
the store. A figure is a module in this folder, named as it is asked for (`cat-collafactors` → `cat_collafactors.py`),
with one function, `gather(folder, store, tier) -> Gathered`; its first docstring line says what it shows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from benchsuite.disk import outgoing, placed
from benchsuite.report.figures import described

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from benchsuite.engine.store import Store


@dataclass(frozen=True)
class Gathered:
    """A figure, every number that it plots, and a sentence for each run it lacks, with the command that makes it.

    numbers  lines of a long table: a mapping of column to value for each point
    """

    figure: "Figure"
    numbers: Sequence[Mapping[str, str | int | float]]
    missing: tuple[str, ...] = ()


def available() -> dict[str, str]:
    """Name of each figure and what it shows."""
    return described(Path(__file__).parent)


def plot(name: str, folder: Path, store: "Store", tier: str, form: str) -> tuple[list[Path], tuple[str, ...]]:
    """Draw the figure `name` from the results in `folder` and the store, beside them, with its numbers as CSV.

    `tier` "" takes any. Returns the files and what is missing; InputError, with the command, where there is nothing.
    """
    import pandas as pd

    from benchsuite.report.draw import save_figure

    module = import_module(f"{__name__}.{name.replace('-', '_')}")
    gather: Callable[[Path, Store, str], Gathered] = module.gather
    found = gather(folder, store, tier)
    numbers = placed(folder, name, tier, suffix=".csv")
    with outgoing(numbers) as scratch:
        pd.DataFrame(found.numbers).to_csv(scratch, index=False)
    return [save_figure(found.figure, placed(folder, name, tier, suffix=f".{form}")), numbers], found.missing
