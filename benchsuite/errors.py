"""What a user may be told: one line that names the thing, the value and the cure, and an exit code."""

from collections.abc import Iterable
from difflib import get_close_matches


class BenchError(Exception):
    """Something failed that a user can understand; shown as one line, never as a traceback."""

    exit_code = 1


class InputError(BenchError):
    """Wrong usage or wrong input: a recipe, an option, a file, a dataset."""

    exit_code = 2


class MissingData(InputError):
    """A dataset, split or weights file that is not on this machine; planning goes on without it."""


class Interrupted(BenchError):
    """Stopped by the user (SIGINT, SIGTERM); everything finished is kept."""

    exit_code = 130


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's, torch's on a GPU, or that of torch's allocator on a CPU, a
    plain RuntimeError known by its text alone. Needs no torch."""
    kind = any(known.__name__ in ("MemoryError", "OutOfMemoryError") for known in type(error).__mro__)
    return kind or (isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate" in str(error))


def nearest(name: str, choices: Iterable[str]) -> str:
    """The closing part of an error about an unknown name: the nearest spelling and what there is.

    >>> nearest("har-tabel1", ["har-table1", "pod-table2"])
    "did you mean 'har-table1'? (there are: har-table1, pod-table2)"
    """
    known = sorted(choices)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    listed = f"there are: {shown}" if known else "there are none"
    return f"did you mean '{close[0]}'? ({listed})" if close else listed
