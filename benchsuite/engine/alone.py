"""One lock for the machine: a timing holds it alone, all other jobs of all runs hold it together."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchsuite.disk import locked
from benchsuite.errors import InputError

LOCK = "BENCH_MACHINE_LOCK"
"""Names another file for it in the environment; by default it is the user's own in the folder for temporary files."""


def lock_file() -> Path:
    """Where the lock is."""
    named = os.environ.get(LOCK)
    return Path(named) if named else Path(os.environ.get("TMPDIR") or "/tmp") / f"benchsuite-{os.getuid()}.lock"


@contextmanager
def machine(alone: bool) -> Iterator[bool]:
    """Hold it: True, or False at once while a timing does, or with `alone` while any job does.

    InputError where a timing finds that the file cannot be locked; other jobs then go without.
    """
    file = lock_file()
    with ExitStack() as held:
        try:
            mine = held.enter_context(locked(file, shared=not alone, mode=0o600))
        except OSError as error:
            if alone:
                raise InputError(f"{file}: cannot be locked ({error.strerror}), and a timing must have the machine for "
                                 f"itself; name another file with {LOCK}") from None  # fmt: skip
            mine = True
        yield mine
