"""Figures by name. A figure is a module in this folder with one function, `draw(results) -> Figure`; its first
docstring line says what it shows. A module named as a recipe (`har-table1` → `har_table1.py`) is that recipe's own
default. Only drawing imports matplotlib."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from benchsuite.errors import InputError, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from benchsuite.report.results import Results

DEFAULT = "ablation"


def available() -> dict[str, str]:
    """Name of each figure and what it shows."""
    return described(Path(__file__).parent)


def described(folder: Path) -> dict[str, str]:
    """Name and first line of each module in a folder, `cat_maps.py` as `cat-maps`; what begins with `_` is none.

    The modules are read, neither imported nor parsed: to list what can be drawn, nothing that draws is needed.
    """
    files = sorted(file for file in folder.glob("*.py") if not file.name.startswith("_"))
    return {file.stem.replace("_", "-"): _first_line(file) for file in files}


def _first_line(file: Path) -> str:
    _, _, docstring = file.read_text(encoding="utf-8").partition('"""')
    return docstring.partition('"""')[0].partition("\n")[0]


def draw(name: str, results: "Results") -> "Figure":
    """The figure `name` of these results; InputError with the nearest name where there is none."""
    if name not in available():
        raise InputError(f"no figure '{name}'; {nearest(name, available())}")
    figure: Figure = import_module(f"{__name__}.{name.replace('-', '_')}").draw(results)
    return figure


def default(results: "Results") -> "Figure":
    """The recipe's own figure where it has one, else the ablation figure."""
    return draw(results.recipe if results.recipe in available() else DEFAULT, results)
