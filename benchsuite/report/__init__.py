"""Tables, comparisons and figures, made from results files and stored arrays alone."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path


def _folder_for_matplotlib() -> None:
    """Give matplotlib a folder of its own where those it would take cannot be made: it says so in three lines else."""
    if "MPLCONFIGDIR" in os.environ:
        return
    try:
        home = Path.home()
        for name, usual in (("XDG_CONFIG_HOME", ".config"), ("XDG_CACHE_HOME", ".cache")):
            place = Path(os.environ.get(name) or home / usual) / "matplotlib"
            there = next(each for each in (place, *place.parents) if os.path.lexists(each))
            tempfile.TemporaryFile(dir=there).close()
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        os.environ["MPLCONFIGDIR"] = folder = tempfile.mkdtemp(prefix="benchsuite-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


_folder_for_matplotlib()
