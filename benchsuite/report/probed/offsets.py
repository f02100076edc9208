"""Where each tap of aligned attention samples, at a few cells of each level (HAR-Net)."""

import numpy as np
from matplotlib.figure import Figure

from benchsuite.report.figures._style import OURS, style
from benchsuite.report.probed._arrays import Arrays, crop, extent, named, sheet, stride


def draw(arrays: Arrays, title: str) -> Figure:
    """Where the deformable convolutions look: the mean offset of each cell's nine taps and all groups, as arrows in
    true length, and the length of the single offsets as colour."""
    names = named(arrays, "offsets_", "aligned attention")
    image = arrays["image"]
    with style():
        figure = sheet(title, "offset fields of aligned attention", len(names), image)
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            field = arrays[name].astype(np.float32) * stride(name)
            length = np.linalg.norm(field, axis=-1).mean(axis=(2, 3))
            dy, dx = np.moveaxis(field.mean(axis=(2, 3)), -1, 0)
            axes.imshow(image.mean(axis=2), cmap="gray", alpha=0.6)
            shown = axes.imshow(length, cmap="magma", alpha=0.5, extent=extent(length, name), interpolation="nearest")
            rows, columns = np.indices(length.shape) * stride(name)
            axes.quiver(columns, rows, dx, dy, angles="xy", scale_units="xy", scale=1, color=OURS, width=0.004)
            bar = figure.colorbar(shown, ax=axes, orientation="horizontal", shrink=0.9, pad=0.02)
            bar.set_label("mean length in pixels", fontsize=6)
            axes.set_title(f"{name.removeprefix('offsets_')}, a cell is {stride(name)} pixels", fontsize=7)
            crop(axes, image)
    return figure
