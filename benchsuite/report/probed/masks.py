"""The spatial mask of each pyramid level over the image, brighter where it is higher (HAR-Net)."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchsuite.report.figures._style import style
from benchsuite.report.probed._arrays import Arrays, crop, extent, named, sheet


def draw(arrays: Arrays, title: str) -> Figure:
    """The spatial mask of each level over the image, brighter where the mask is higher, with its range."""
    names = named(arrays, "mask_", "spatial attention")
    image = arrays["image"]
    with style():
        figure = sheet(title, "spatial masks of the levels", 1 + len(names), image)
        panels = figure.subplots(1, 1 + len(names), squeeze=False)[0]
        panels[0].imshow(image)
        panels[0].set_title("image", fontsize=7)
        for axes, name in zip(panels[1:], names, strict=True):
            mask = arrays[name].astype(np.float32)
            axes.imshow(image.mean(axis=2), cmap="gray", alpha=0.6)
            shown = axes.imshow(mask, cmap="viridis", alpha=0.75, extent=extent(mask, name), interpolation="nearest")
            bar = figure.colorbar(shown, ax=axes, orientation="horizontal", shrink=0.9, pad=0.02, ticks=MaxNLocator(2))
            bar.ax.tick_params(labelsize=5)
            axes.set_title(name.removeprefix("mask_"), fontsize=7)
        for axes in panels:
            crop(axes, image)
    return figure
