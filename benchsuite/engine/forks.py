"""Processes forked from a warm server: one that has imported torch and its kin before any of them is wanted."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from types import ModuleType

# Read by glibc and Python when the server starts. Large blocks stay with the process: giving them back after every
# step costs page faults, up to ten times the step on a CPU. A fixed hash seed makes the order of sets repeat.
SERVER_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "PYTHONHASHSEED": "0",
}


def forked(
    target: Callable[..., None], arguments: tuple[object, ...], name: str
) -> multiprocessing.process.BaseProcess:
    """A process that calls `target`, started from the warm server."""
    warm()
    process = multiprocessing.get_context("forkserver").Process(target=target, args=arguments, name=name)
    with _no_main_module():
        process.start()
    return process


def halted(process: multiprocessing.process.BaseProcess) -> bool:
    """Whether somebody stopped it (SIGSTOP); False where the system does not tell."""
    try:
        state = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
    except OSError:
        return False
    return state.split()[:1] == ["T"]


def warm() -> None:
    """Start the fork server if it does not run: it imports torch while the caller goes on planning."""
    before = {name: os.environ.get(name) for name in SERVER_ENVIRONMENT}
    os.environ.update(SERVER_ENVIRONMENT)
    try:
        forkserver.set_forkserver_preload(["benchsuite.engine.preload"])
        resource_tracker.ensure_running()  # which would unblock Ctrl-C when it is started
        # Ctrl-C in the terminal reaches the server too, while it imports; what it forks ignores it or has it blocked
        signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with _no_main_module():
                forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _no_main_module() -> Iterator[None]:
    # multiprocessing imports the caller's main script again in each child: a script without a main guard would start
    # itself over, and any other costs its imports. Workers need nothing from it.
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
