"""Pictures of what a trained model does with one image, by name. A picture is a module in this folder with one
function, `draw(arrays, title) -> Figure`, of the arrays that a probe (`jobs.Probe`, whose `pictures` name it) left; its
first docstring line says what it shows. Only drawing imports matplotlib.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from benchsuite.report.figures import described

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def available() -> dict[str, str]:
    """Name of each picture and what it shows."""
    return described(Path(__file__).parent)


def draw(name: str, file: Path, title: str, settings: str = "") -> "Figure":
    """The picture `name` of the arrays in `file` under a title that begins with `title`, and `settings` in a caption
    below; InputError where it cannot be read."""
    from benchsuite.report.figures._style import caption
    from benchsuite.report.probed._arrays import load

    figure: Figure = import_module(f"{__name__}.{name.replace('-', '_')}").draw(load(file), title)
    if settings:
        caption(figure, settings)
    return figure
