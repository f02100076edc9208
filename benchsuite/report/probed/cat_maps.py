"""CAT's spatial maps S_Avg, −S_Avg, S_Max and S_Ent and what they are fused to, stage by stage (its figures 3, 4)."""

import numpy as np
from matplotlib.figure import Figure

from benchsuite.errors import InputError
from benchsuite.report.figures._style import WIDTH, headline, style
from benchsuite.report.probed._arrays import Arrays, crop, extent

LABELS = {"avg": "$S_{Avg}$", "max": "$S_{Max}$", "ent": "$S_{Ent}$",
          "sum": "$S'_A$, summed", "concat": "$S'_A$, concatenated"}  # fmt: skip


def draw(arrays: Arrays, title: str) -> Figure:
    """A row for the first block of each stage: the image, each map by itself from its lowest value, dark, to its
    highest, and the fused map."""
    named = [name.split("_") for name in arrays if name.partition("_")[0] in LABELS]
    if not named:
        raise InputError("the run has no spatial maps of CAT's to draw; choose a row that has")
    kinds, levels = (set(part) for part in zip(*named, strict=True))
    columns = [(kind, sign) for kind in ("image", *LABELS) if kind in {"image", *kinds}
               for sign in ((1, -1) if kind == "avg" else (1,))]  # fmt: skip
    image = arrays["image"]
    with style():
        height = WIDTH / len(columns) * image.shape[0] / image.shape[1]
        figure = Figure(figsize=(WIDTH, len(levels) * (height + 0.08) + 0.6), dpi=300, layout="constrained")
        headline(figure, f"{title}: spatial maps of each stage's first block")
        panels = figure.subplots(len(levels), len(columns), squeeze=False)
        for row, level in zip(panels, sorted(levels), strict=True):
            for axes, (kind, sign) in zip(row, columns, strict=True):
                if kind == "image":
                    axes.imshow(image)
                else:
                    values = sign * arrays[f"{kind}_{level}"].astype(np.float32)
                    axes.imshow(values, cmap="viridis", extent=extent(values, level), interpolation="nearest")
                    axes.set_title(f"{level} {'−' if sign < 0 else ''}{LABELS[kind]}", fontsize=6, parse_math=True)
                crop(axes, image)
    return figure
