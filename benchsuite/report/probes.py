"""Pictures of what a HAR-Net run paid attention to in one image, from the arrays that its job left."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from benchsuite.errors import InputError
from benchsuite.report.figures._style import ACCENT, OURS, WIDTH, style

Arrays = Mapping[str, NDArray[np.generic]]


def load(path: Path) -> dict[str, NDArray[np.generic]]:
    """The arrays of `arrays.safetensors`; InputError where it cannot be read."""
    try:
        found: dict[str, NDArray[np.generic]] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error}); make the arrays again") from None
    return found


def masks(arrays: Arrays, title: str) -> Figure:
    """The spatial mask of each level over the image, brighter where the mask is higher, with its range."""
    names = _named(arrays, "mask_", "spatial attention")
    image = arrays["image"]
    with style():
        figure = _figure(title, "spatial masks of the levels", 1 + len(names), image)
        panels = figure.subplots(1, 1 + len(names), squeeze=False)[0]
        panels[0].imshow(image)
        panels[0].set_title("image", fontsize=7)
        for axes, name in zip(panels[1:], names, strict=True):
            mask = arrays[name].astype(np.float32)
            axes.imshow(image.mean(axis=2), cmap="gray", alpha=0.6)
            shown = axes.imshow(mask, cmap="viridis", alpha=0.75, extent=_extent(mask, name), interpolation="nearest")
            bar = figure.colorbar(shown, ax=axes, orientation="horizontal", shrink=0.9, pad=0.02, ticks=MaxNLocator(2))
            bar.ax.tick_params(labelsize=5)
            axes.set_title(name.removeprefix("mask_"), fontsize=7)
        for axes in panels:
            _crop(axes, image)
    return figure


def weights(arrays: Arrays, title: str) -> Figure:
    """The channels' weights of both tasks; sorted by those of the class task, so that a common order would show.

    Separate blocks (SE) have a panel for each level.
    """
    _named(arrays, "weights_", "channel attention")
    cls, box = (np.atleast_2d(arrays[f"weights_{task}"].astype(np.float32)) for task in ("cls", "box"))
    with style():
        figure = Figure(figsize=(WIDTH, 0.5 + 1.5 * len(cls)), dpi=300, layout="constrained")
        figure.suptitle(f"{title}: channel weights", x=0.01, ha="left", fontsize=8)
        panels = figure.subplots(len(cls), 1, squeeze=False, sharey=True)[:, 0]
        for level, (axes, ours, other) in enumerate(zip(panels, cls, box, strict=True), 3):
            order = np.argsort(-ours, kind="stable")
            axes.plot(ours[order], color=OURS, label="classes")
            axes.plot(other[order], ".", color=ACCENT, markersize=3, label="boxes")
            axes.set_xlabel("channel, sorted by the weight for classes")
            axes.set_ylabel("weight")
            axes.set_title("all levels" if len(cls) == 1 else f"P{level}", fontsize=7)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def offsets(arrays: Arrays, title: str) -> Figure:
    """Where the deformable convolutions look: the mean offset of each cell's nine taps and all groups, as arrows in
    true length, and the length of the single offsets as colour."""
    names = _named(arrays, "offsets_", "aligned attention")
    image = arrays["image"]
    with style():
        figure = _figure(title, "offset fields of aligned attention", len(names), image)
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            field = arrays[name].astype(np.float32) * _stride(name)
            length = np.linalg.norm(field, axis=-1).mean(axis=(2, 3))
            dy, dx = np.moveaxis(field.mean(axis=(2, 3)), -1, 0)
            axes.imshow(image.mean(axis=2), cmap="gray", alpha=0.6)
            shown = axes.imshow(length, cmap="magma", alpha=0.5, extent=_extent(length, name), interpolation="nearest")
            rows, columns = np.indices(length.shape) * _stride(name)
            axes.quiver(columns, rows, dx, dy, angles="xy", scale_units="xy", scale=1, color=OURS, width=0.004)
            bar = figure.colorbar(shown, ax=axes, orientation="horizontal", shrink=0.9, pad=0.02)
            bar.set_label("mean length in pixels", fontsize=6)
            axes.set_title(f"{name.removeprefix('offsets_')}, a cell is {_stride(name)} pixels", fontsize=7)
            _crop(axes, image)
    return figure


PICTURES: Mapping[str, Callable[[Arrays, str], Figure]] = {"masks": masks, "weights": weights, "offsets": offsets}
"""The pictures by name."""


def _named(arrays: Arrays, prefix: str, what: str) -> list[str]:
    names = sorted(name for name in arrays if name.startswith(prefix))
    if not names:
        raise InputError(f"the run has no {what} to draw; choose a row that has")
    return names


def _figure(title: str, what: str, across: int, image: NDArray[np.generic]) -> Figure:
    height = min(3.5, WIDTH / across * image.shape[0] / image.shape[1])
    figure = Figure(figsize=(WIDTH, height + 1.1), dpi=300, layout="constrained")
    figure.suptitle(f"{title}: {what}", x=0.01, ha="left", fontsize=8)
    return figure


def _stride(name: str) -> int:
    """Pixels of a cell of the level at the end of `name`: P3 or C5."""
    return int(2 ** int(name[-1]))


def _extent(cells: NDArray[np.floating], name: str) -> tuple[float, float, float, float]:
    """Left, right, bottom, top in pixels; cell i is centred at i · stride."""
    half = _stride(name) / 2
    return -half, cells.shape[1] * 2 * half - half, cells.shape[0] * 2 * half - half, -half


def _crop(axes: Axes, image: NDArray[np.generic]) -> None:
    """Show the image and not the padding."""
    axes.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0), xticks=(), yticks=())
    axes.set_axis_off()
