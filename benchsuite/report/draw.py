"""Pictures on disk: a recipe's figure, from its results files."""

from pathlib import Path
from typing import TYPE_CHECKING

from benchsuite.disk import outgoing
from benchsuite.errors import InputError
from benchsuite.report import figures
from benchsuite.report.results import load

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(figure: "Figure", file: Path) -> Path:
    """Write a figure in the format of the file's ending; InputError where it cannot be written."""
    from benchsuite.report.figures._style import style

    with style(), outgoing(file) as scratch:
        figure.savefig(scratch)
    return file


def plot_results(recipe: str, tier: str, figure: str, folder: Path, form: str) -> list[Path]:
    """Draw a figure (the recipe's default where none is named) of each of its results files in `folder`, beside it.

    InputError, with the command that makes one, where there is no results file.
    """
    files = sorted(folder.glob(f"{recipe}.{tier or '*'}.json")) + sorted(folder.glob(f"{recipe}.{tier or '*'}.*.json"))
    found = [file for file in dict.fromkeys(files) if not tier or file.name.split(".")[1] == tier]
    if not found:
        what = f"bench run {recipe} --tier {tier or 'smoke'}"
        raise InputError(f"{folder}: holds no results of {recipe}{f' at tier {tier}' if tier else ''}; first: {what}")
    drawn = []
    for file in found:
        results = load(file)
        name = f"{file.stem}.{figure}.{form}" if figure else f"{file.stem}.{form}"
        drawn.append(save_figure(figures.draw(figure, results) if figure else figures.default(results), folder / name))
    return drawn
