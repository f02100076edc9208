"""Figures by name. A figure is a module in this folder with one function, `draw(results) -> Figure`; its first
docstring line says what it shows. A module named as a recipe (`har-table1` → `har_table1.py`) is that recipe's own
default. Only drawing imports matplotlib."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from benchsuite.errors import InputError, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from benchsuite.results import Results

DEFAULT = "ablation"


def available() -> list[str]:
    """Names of the figures; modules that begin with `_` are none."""
    return sorted(file.stem for file in Path(__file__).parent.glob("*.py") if not file.name.startswith("_"))


def draw(name: str, results: "Results") -> "Figure":
    """The figure `name` of these results; InputError with the nearest name where there is none."""
    if name not in available():
        raise InputError(f"no figure '{name}'; {nearest(name, available())}")
    figure: Figure = import_module(f"{__name__}.{name}").draw(results)
    return figure


def default(results: "Results") -> "Figure":
    """The recipe's own figure where it has one, else the ablation figure."""
    own = results.recipe.replace("-", "_")
    return draw(own if own in available() else DEFAULT, results)
