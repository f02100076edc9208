"""Pictures on disk: a recipe's figure, from its results files."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from benchsuite.disk import outgoing, placed
from benchsuite.errors import InputError
from benchsuite.recipe.recipe import Recipe
from benchsuite.report import figures
from benchsuite.report.results import load

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(figure: "Figure", file: Path) -> Path:
    """Write a figure in the format of the file's ending; InputError where it cannot be written."""
    from benchsuite.report.figures._style import style

    with style(), outgoing(file) as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # signs that the font lacks are drawn as boxes
        figure.savefig(scratch)
    return file


def plot_results(recipe: Recipe, tier: str, figure: str, folder: Path, form: str) -> list[Path]:
    """Draw a figure (the recipe's default where none is named) of each of its results files in `folder`, beside it.

    InputError, with the command that makes one, where there is no results file.
    """
    globs = (f"{recipe.id}.{tier or '*'}.json", f"{recipe.id}.{tier or '*'}.*.json")
    files = [file for glob in globs for file in sorted(folder.glob(glob))]
    found = [file for file in dict.fromkeys(files) if not tier or file.name.split(".")[1] == tier]
    if not found:
        what = f"results of {recipe.id}{f' at tier {tier}' if tier else ''}"
        raise InputError(f"{folder}: holds no {what}; first: bench run {recipe.called} --tier {tier or 'smoke'}")
    drawn = []
    for file in found:
        results = load(file)
        target = placed(folder, file.stem, figure, suffix=f".{form}")
        drawn.append(save_figure(figures.draw(figure, results) if figure else figures.default(results), target))
    return drawn
