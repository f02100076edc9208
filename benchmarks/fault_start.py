"""Starting `bench` many times: by forking from a process that has imported everything, as does the server that its
workers are forked from. A start costs 0.1 s of imports in place of 7, and all that comes after it is the program's own
code. What hangs on Python's start (encodings, Ctrl-C in the first moments) is started as a process of its own (`cold`).
"""

import atexit
import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver, process, resource_tracker, util
from pathlib import Path
from typing import NoReturn

from benchsuite.cli import entry

COLD = "from benchsuite.cli.entry import main; main()"
PATIENCE = 60.0  # seconds after which a start hangs
PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 15, 36


class Wrong(Exception):
    """A fault got through."""


def settle() -> None:
    """Make this process the one that everything is forked from. Nothing of torch may run in it."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure
    import matplotlib.font_manager  # noqa: F401

    import benchsuite.cli.app
    import benchsuite.engine.preload
    import benchsuite.report.page
    import benchsuite.verbs.run
    import benchsuite.verbs.score  # noqa: F401

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)  # what `preload` asked for is for the server
    util.spawnv_passfds = _fork_exec
    adopt()


def adopt() -> None:
    """What outlives its parent becomes this process' child, and is seen."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def _fork_exec(path: bytes, args: list[str], keep: Iterable[int]) -> int:
    """What multiprocessing starts as another Python, forked: the code that this Python would run, in its state."""
    pid = os.fork()
    if pid:
        return pid
    code: object = 1
    try:
        named = "bench-server" if "forkserver" in args[-1] else "bench-tracker"
        ctypes.CDLL(None).prctl(PR_SET_NAME, named.encode())
        for number in [int(file.name) for file in Path("/proc/self/fd").iterdir()]:
            if number not in {0, 1, 2, *keep}:
                with suppress(OSError):  # the folder's own
                    os.close(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        forkserver._forkserver.__init__()
        resource_tracker._resource_tracker.__init__()
        util._finalizer_registry.clear()
        process._children.clear()
        sys.modules.pop("benchsuite.engine.preload", None)
        exec(args[-1], {"__name__": "__main__"})
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code if isinstance(code, int) else 1)


@dataclass(frozen=True)
class Ended:
    """How a start of `bench` ended: its exit code, or the signal that killed it below zero, and what it printed."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str

    def told(self) -> str:
        """The words and what came of them, for a report: of a traceback its end."""
        if "Traceback" in self.err:
            return f"bench {' '.join(self.words)} → {self.code}: {self.err.strip().splitlines()[-1]!r}"
        return f"bench {' '.join(self.words)} → {self.code}: {(self.out + self.err).strip()[-1800:]!r}"


class Start:
    """A start of `bench` that runs."""

    def __init__(self, words: tuple[str, ...], pid: int, out: Path, err: Path) -> None:
        self.words, self.pid, self.out, self.err = words, pid, out, err
        self.began, self.status = time.monotonic(), None if pid else 0

    def running(self) -> bool:
        """Whether it has not ended."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if pid else None
        return self.status is None

    def send(self, number: int, group: bool = False) -> None:
        """Send a signal, unless it has ended."""
        if self.running():
            (os.killpg if group else os.kill)(self.pid, number)

    def wait(self) -> Ended:
        """How it ends; Wrong where it does not."""
        while self.running():
            if time.monotonic() - self.began > PATIENCE:
                hung = [f"{pid} {state}" for pid, (_, state, _) in processes().items() if pid in below(self.pid)]
                end([*below(self.pid), self.pid])
                os.waitpid(self.pid, 0)
                self.status = 0
                raise Wrong(f"bench {' '.join(self.words)} hangs ({', '.join(hung)}): {self.err.read_bytes()[-300:]!r}")
            time.sleep(0.005)
        assert self.status is not None
        code = os.waitstatus_to_exitcode(self.status)
        return Ended(self.words, code, *(file.read_text("utf-8", "replace") for file in (self.out, self.err)))


def processes() -> dict[int, tuple[int, str, str]]:
    """Parent, state and name of every process."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                head, _, tail = (folder / "stat").read_text(errors="replace").rpartition(")")
                state, parent, *_ = tail.split()
                found[int(folder.name)] = (int(parent), state, head.partition("(")[2])
            except OSError:
                continue
    return found


def below(pid: int) -> list[int]:
    """All processes that a process started, and those that they started."""
    known, found = processes(), [pid]
    for each in found:
        found += [child for child, (parent, _, _) in known.items() if parent == each]
    return found[1:]


def children(pid: int, name: str = "") -> list[int]:
    """Processes that a process started; those of a name."""
    return [child for child, (parent, _, called) in processes().items() if parent == pid and name in ("", called)]


def workers(start: Start) -> list[int]:
    """The workers of a run."""
    return [worker for server in children(start.pid, "bench-server") for worker in children(server)]


def loaders(start: Start) -> list[int]:
    """Processes that a run's workers started."""
    return [loader for worker in workers(start) for loader in children(worker)]


def end(pids: Iterable[int]) -> None:
    """Kill processes of ours."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def become(
    words: tuple[str, ...], out: Path, err: Path, folder: Path, environ: Mapping[str, str],
    before: Callable[[], object], cold: str,
) -> NoReturn:  # fmt: skip
    """In a new process: be `bench`; where `cold` is a program's text, as a Python of its own."""
    code: object = 1
    try:
        os.setsid()
        streams = os.open(os.devnull, os.O_RDONLY), *(os.open(file, os.O_WRONLY | os.O_CREAT) for file in (out, err))
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environ)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        before()
        if cold:
            os.execve(sys.executable, [sys.executable, "-c", cold, *words], environ)
        sys.argv = ["bench", *words]
        entry.main()
    except SystemExit as end_:
        code = end_.code or 0
    except BaseException:
        traceback.print_exc()
    try:  # as Python ends
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
    finally:
        os._exit(code if isinstance(code, int) else 1)


def reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
