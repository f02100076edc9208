"""What pictures of one image share."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from benchsuite.errors import InputError
from benchsuite.report.figures._style import WIDTH, headline

Arrays = Mapping[str, NDArray[np.generic]]


def load(path: Path) -> dict[str, NDArray[np.generic]]:
    """The arrays of `arrays.safetensors`; InputError where it cannot be read."""
    try:
        found: dict[str, NDArray[np.generic]] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error}); make the arrays again") from None
    return found


def named(arrays: Arrays, prefix: str, what: str) -> list[str]:
    names = sorted(name for name in arrays if name.startswith(prefix))
    if not names:
        raise InputError(f"the run has no {what} to draw; choose a row that has")
    return names


def sheet(title: str, what: str, across: int, image: NDArray[np.generic]) -> Figure:
    height = min(3.5, WIDTH / across * image.shape[0] / image.shape[1])
    figure = Figure(figsize=(WIDTH, height + 1.1), dpi=300, layout="constrained")
    headline(figure, f"{title}: {what}")
    return figure


def stride(name: str) -> int:
    """Pixels of a cell of the level at the end of `name`: P3 or C5."""
    return int(2 ** int(name[-1]))


def extent(cells: NDArray[np.floating], name: str) -> tuple[float, float, float, float]:
    """Left, right, bottom, top in pixels; cell i is centred at i · stride."""
    half = stride(name) / 2
    return -half, cells.shape[1] * 2 * half - half, cells.shape[0] * 2 * half - half, -half


def crop(axes: Axes, image: NDArray[np.generic]) -> None:
    """Show the image and not the padding."""
    axes.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0), xticks=(), yticks=())
    axes.set_axis_off()
