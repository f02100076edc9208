"""What the fork server imports before it forks workers, so that no job pays for it again.

Pure imports only: a library that runs parallel torch operations while it is imported would leave threads that a
forked worker waits for in vain. Importing this module outside the fork server is of no use.
"""

import ctypes
import gc
import importlib
import signal
import sys
import traceback
from contextlib import suppress
from multiprocessing import spawn
from pickle import UnpicklingError
from types import TracebackType

MODULES = (
    "torch",
    "torchvision",
    "timm",
    "hotcoco",
    "pandas",
    "yaml",
    "safetensors.torch",
    "PIL.Image",
    "benchsuite.pipelines.detection",
    "benchsuite.engine.worker",
)
PR_SET_PDEATHSIG = 1


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Says nothing of a run that died before it had told its worker what to do: nobody is left to hear of it."""
    unsaid = any(frame.f_code is spawn._main.__code__ for frame, _ in traceback.walk_tb(trace))
    if not (unsaid and issubclass(kind, EOFError | UnpicklingError)):
        sys.__excepthook__(kind, error, trace)


# The server dies with the run that started it even while it is still importing; workers watch for themselves.
with suppress(OSError, AttributeError):
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
sys.excepthook = _hook
for _name in MODULES:
    with suppress(Exception):  # what is missing or broken is reported by the job that needs it
        importlib.import_module(_name)
gc.freeze()  # workers share these objects: their collector passes over them instead of copying every page of them
