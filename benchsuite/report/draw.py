"""Pictures on disk: a recipe's figure from its results files, and detections of a run on its images."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchsuite.errors import InputError
from benchsuite.report import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from benchsuite.plan import Plan
    from benchsuite.store import Store


def save_figure(figure: "Figure", file: Path) -> Path:
    """Write a figure in the format of the file's ending; InputError where it cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({error.strerror}); choose another folder with --out") from None
    return file
