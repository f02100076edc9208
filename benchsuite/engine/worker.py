"""A worker: a process, forked from a warm server, that does one job after another on one device.

It lives in a session of its own, so that Ctrl-C in the terminal reaches only the scheduler, and ends with the
scheduler, whatever kills that. The scheduler sends it a `Task`, and SIGTERM to ask it to stop; the worker answers with
`Started`, `Progress`, `Note` and then one of `Done`, `Busy`, `Stopped`, `Failed`. Nothing here imports torch before a
job is done.
"""

import faulthandler
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeAlias

from benchsuite.disk import whole
from benchsuite.engine import times
from benchsuite.engine.alone import machine
from benchsuite.engine.environment import determinism, tidy
from benchsuite.engine.forks import forked, halted
from benchsuite.engine.job import Context, Execution, Job, Progress
from benchsuite.engine.slots import Place
from benchsuite.engine.store import LOG, PROGRESS, Store
from benchsuite.errors import BenchError, Interrupted, out_of_memory
from benchsuite.settings import Json

STARTS, START_SECONDS = 5, 0.2  # times that a worker is tried to be started, and between them
REPORT_SECONDS = 0.1
NOTE_SECONDS = 2.0  # between notes of the progress for other terminals


@dataclass(frozen=True)
class Task:
    """One job to do."""

    job: Job
    threads: int
    name: str
    checkpoint_every: int
    execution: Execution
    judge: Job | None = None


@dataclass(frozen=True)
class Started:
    """The worker holds the job's lock and begins."""


@dataclass(frozen=True)
class Done:
    """The job's artifact is in the store; `cached` when another run had made it meanwhile."""

    seconds: float
    cached: bool = False


@dataclass(frozen=True)
class Busy:
    """The job cannot be done yet: why, for the user."""

    why: str


@dataclass(frozen=True)
class Stopped:
    """The job was asked to stop and left a checkpoint."""


@dataclass(frozen=True)
class Failed:
    """The job failed: one line for the user and the exit code it stands for."""

    message: str
    exit_code: int


@dataclass(frozen=True)
class Note:
    """A line for the user about a job that goes on."""

    text: str


Answer: TypeAlias = Started | Progress | Note | Done | Busy | Stopped | Failed


class Worker:
    """The scheduler's end of a worker process. A worker that died is started again by the next `send`."""

    def __init__(self, place: Place, store: Store, environment: Mapping[str, Json]) -> None:
        self.place = place
        self.task: Task | None = None
        self.heard = time.monotonic()  # when it last reported
        self.told = False  # whether the user knows of its silence
        self._arguments = (place, store.root, dict(environment))
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def send(self, task: Task) -> None:
        """Give the worker a task; starts the process if there is none."""
        self.task = task
        self._heard()
        if self._process is None or not self._process.is_alive():
            self._start()
        assert self._pipe is not None
        with suppress(BrokenPipeError, ConnectionResetError):  # died at this moment: `answers` tells
            self._pipe.send(task)

    def waitable(self) -> list[Connection | int]:
        """What becomes ready when the worker has answered or died."""
        if self._process is None or self._pipe is None:
            return []
        return [self._pipe, self._process.sentinel]

    def answers(self) -> Iterator[Answer | None]:
        """What the worker said since the last call; ends with None if it died."""
        if self._process is None or self._pipe is None:
            return
        alive = self._process.is_alive()  # asked before reading, so that last words are not lost
        try:
            while self._pipe.poll():
                self._heard()
                yield self._pipe.recv()
        except (EOFError, OSError):
            alive = False
        if not alive:
            yield None

    def stop(self) -> None:
        """Ask the running job to leave a checkpoint and stop; a process that lies stopped is woken for it."""
        if self._process is not None and self._process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)
                os.kill(self._process.pid, signal.SIGCONT)

    def stopped(self) -> bool:
        """Whether somebody stopped the process (SIGSTOP); False where the system does not tell."""
        return self._process is not None and halted(self._process)

    def _heard(self) -> None:
        self.heard, self.told = time.monotonic(), False

    def end(self) -> str:
        """Kill the process and everything it started, if it still runs; how it ended. An idle worker loses nothing."""
        if self._process is None or self._pipe is None or self._process.pid is None:
            return "not started"
        self._pipe.close()
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # ended, or not yet a group of its own
            self._process.kill()
        self._process.join()
        code = self._process.exitcode or 0
        self._process = self._pipe = None
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def _start(self) -> None:
        if self._process is not None:
            self.end()
        for left in reversed(range(STARTS)):
            try:
                self._fork()
                return
            except (EOFError, OSError) as error:  # somebody killed the server at this moment: there will be another
                if not left:
                    told = f"{type(error).__name__}: {error}"
                    raise BenchError(f"no worker could be started ({told}); run again to go on") from error
                time.sleep(START_SECONDS)  # until it is known to be dead

    def _fork(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        with theirs:
            process = forked(serve, (theirs, dict(os.environ), *self._arguments), "bench-worker")
        self._process, self._pipe = process, ours


def serve(
    pipe: Connection, environ: Mapping[str, str], place: Place, root: Path, environment: Mapping[str, Json]
) -> None:
    """The worker's process: do tasks until the scheduler closes the pipe, dies, or asks to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(environ)
    os.environ["RAYON_NUM_THREADS"] = str(place.threads)
    if place.visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = place.visible
    faulthandler.enable()  # a crash leaves its traceback in the job's log
    store = Store(root)
    with suppress(BrokenPipeError, ConnectionResetError):  # the scheduler died, and nobody is left to be told
        while not stop.is_set():
            try:
                task = pipe.recv()
            except (EOFError, OSError):
                return
            except Exception as error:  # the job's own module may fail to import in any way
                pipe.send(Failed(f"a job cannot be sent to a worker: {_in_short(error)}; "
                                 "define its classes in a module that can be imported", 2))  # fmt: skip
                continue
            pipe.send(_answer(task, place, store, environment, pipe, stop))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os.killpg(0, signal.SIGKILL)  # loader processes included


def _answer(
    task: Task, place: Place, store: Store, environment: Mapping[str, Json], pipe: Connection, stop: threading.Event
) -> Answer:
    job, key = task.job, task.job.key
    log = store.partial(key) / LOG
    try:
        with store.lock(key) as mine, machine(alone=job.device_bound) as free:
            if not mine:
                return Busy("waiting for another run that works on it")
            if store.artifact(key) is not None:
                return Done(0.0, cached=True)
            if not free:
                what = "all other jobs" if job.device_bound else "a timing"
                return Busy(f"waiting for {what} on this machine to end")
            anew = not store.begun(key)
            pipe.send(Started())
            inputs = {name: store.verified(needed.key) for name, needed in job.inputs.items()}
            with store.explained(), store.scratch(key) as folder:
                context = Context(
                    folder=folder,
                    partial=store.partial(key),
                    cache=store.cache,
                    inputs=inputs,
                    device=place.device,
                    threads=task.threads,
                    checkpoint_every=task.checkpoint_every,
                    report=_throttled(pipe, store.partial(key) / PROGRESS, task.name),
                    note=lambda text: pipe.send(Note(text)),
                    stop=stop.is_set,
                    execution=task.execution,
                    judge=task.judge,
                )
                with captured(log):
                    seconds = _do(job, context)
                record: dict[str, Json] = {
                    "label": job.label,
                    "job": job.form,
                    "inputs": {name: needed.key for name, needed in job.inputs.items()},
                    "device": place.device,
                    "threads": task.threads,
                    "seconds": round(seconds, 3),
                    "ran_under": context.ran_under,
                    "environment": environment,
                }
                store.publish(key, folder, record)
                if anew:
                    times.note(store.root, job, times.place(place.device, task.threads), seconds)
        return Done(seconds)
    except Interrupted:
        return Stopped()
    except BenchError as error:
        return Failed(str(error), error.exit_code)
    except Exception as error:
        return Failed(_told(error, job, place, log), 1)


def _do(job: Job, context: Context) -> float:
    _seed(int(job.key, 16), context.threads)
    context.ran_under["deterministic"] = determinism(context.device, context.execution.deterministic)
    started = time.perf_counter()
    try:
        job.do(context)
    except (BenchError, SystemExit):
        raise
    except Exception:
        traceback.print_exc()
        raise
    finally:
        tidy(context.device)
    return time.perf_counter() - started


def _seed(seed: int, threads: int) -> None:
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed % 2**63)
    torch.set_num_threads(threads)


@contextmanager
def captured(log: Path) -> Iterator[None]:
    """Write what the process prints, in C too, to the end of `log`."""
    kept = [os.dup(1), os.dup(2)]
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        for number, stream in enumerate((sys.stdout, sys.stderr)):
            with suppress(OSError, ValueError):  # the disk may be full
                stream.flush()
            os.dup2(kept[number], number + 1)
            os.close(kept[number])


def _throttled(pipe: Connection, note: Path, name: str) -> Callable[[Progress], None]:
    """Reports go to the scheduler, and now and then into the file `note`, for whoever looks at the store."""
    last = noted = 0.0

    def report(progress: Progress) -> None:
        nonlocal last, noted
        now = time.monotonic()
        if now - noted >= NOTE_SECONDS:
            noted = now
            with suppress(OSError), whole(note) as fresh:
                fresh.write_text(json.dumps({"name": name, **asdict(progress)}), encoding="utf-8")
        if now - last >= REPORT_SECONDS or progress.done == progress.total:
            last = now
            pipe.send(progress)

    return report


def _told(error: Exception, job: Job, place: Place, log: Path) -> str:
    if out_of_memory(error):
        return f"out of memory on {place.name}; lower the batch, the input's size or --slots (log: {log})"
    return f"{_in_short(error)} (log: {log})"


def _in_short(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0][:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
