"""Run jobs: each on a free slot as soon as its inputs are there, with progress, signals and resumption."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import FrameType
from typing import Literal, TypeAlias

from benchsuite.engine.environment import environment
from benchsuite.engine.job import Execution, Job, Progress
from benchsuite.engine.progress import Reporter
from benchsuite.engine.slots import Place, Slots
from benchsuite.engine.store import LOG, Store
from benchsuite.engine.times import Times, longest_first
from benchsuite.engine.times import place as place_of
from benchsuite.engine.worker import Answer, Busy, Done, Failed, Note, Started, Stopped, Task, Worker
from benchsuite.errors import InputError, Interrupted

Status: TypeAlias = Literal["done", "cached", "failed", "skipped", "interrupted"]
ATTEMPTS = 2  # of a job whose worker died, and as many more as each gets further than the one before
BUSY_SECONDS = 0.2, 5.0  # until a job that another run works on is tried again: at first, and at most
RUN = "BENCH_RUN"
"""Names in the environment the run that several workers of a cluster belong to."""
TICK_SECONDS = 0.2  # between looks at signals and the clock
SILENT_SECONDS = 60.0  # without a report, after which the user is told
STOPPED_SECONDS = 60.0  # for which a worker may lie stopped (SIGSTOP) before it is replaced


@dataclass(frozen=True)
class Result:
    """What became of a job; `message` is one line for the user where it did not end well."""

    job: Job
    status: Status
    seconds: float = 0.0
    message: str = ""
    exit_code: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of all jobs of a run, by key."""

    results: Mapping[str, Result]

    @property
    def failures(self) -> list[Result]:
        """Jobs that failed themselves, without those skipped for want of them."""
        return [result for result in self.results.values() if result.status == "failed"]

    @property
    def exit_code(self) -> int:
        """0 all done, 2 if some input was wrong, otherwise 1."""
        return max((result.exit_code for result in self.results.values()), default=0)


def run_jobs(
    jobs: Sequence[Job],
    store: Store,
    *,
    slots: Slots,
    progress: Reporter,
    checkpoint_every: int = 500,
    execution: Execution | None = None,
    names: Mapping[str, str] | None = None,
    judges: Mapping[str, Job] | None = None,
) -> Outcome:
    """Do all `jobs` (unique, inputs before those that need them) that the store does not hold yet.

    `names` says by key how a job is called in progress and messages; its label otherwise. `judges` are jobs by the keys
    of those whose results they score: `Context.judge`.

    A failed job stops only those that need it; a finished one whose files were changed counts as failed. SIGINT,
    SIGTERM and SIGHUP make running jobs leave a checkpoint, a second one kills them; then `Interrupted` is raised.
    InputError if the store cannot be written.
    """
    known = {job.key: job.label for job in jobs} | dict(names or {})

    def task(job: Job, threads: int, name: str) -> Task:
        return Task(job, threads, name, checkpoint_every, execution or Execution(), (judges or {}).get(job.key))

    scheduler = _Scheduler(jobs, store, slots, progress, task, known)
    if scheduler.pending:
        store.prepare()
    return scheduler.run()


class _Scheduler:
    def __init__(
        self,
        jobs: Sequence[Job],
        store: Store,
        slots: Slots,
        progress: Reporter,
        task: Callable[[Job, int, str], Task],
        names: Mapping[str, str],
    ) -> None:
        self.store, self.slots, self.progress, self.task = store, slots, progress, task
        self.names = names
        self.results = {job.key: self._kept(job) for job in jobs if store.artifact(job.key)}
        todo = [job for job in jobs if job.key not in self.results]
        self.expected = self._expected(todo)
        first = longest_first(todo, lambda job: self.expected.get(job.key, job.effort))
        self.pending = {job.key: job for job in first}
        self.total = len(jobs)
        self.deaths: dict[str, list[int]] = {}
        self.furthest: dict[str, int] = {}
        self.not_before: dict[str, float] = {}
        self.patience: dict[str, float] = {}
        self.signals = 0
        self.together = os.environ.get(RUN, "")
        self.workers: list[Worker] = []

    def _kept(self, job: Job) -> Result:
        try:
            self.store.verified(job.key, quickly=True)
        except InputError as error:
            return Result(job, "failed", message=f"{self.names[job.key]}: {error}", exit_code=error.exit_code)
        return Result(job, "cached")

    def _expected(self, jobs: Sequence[Job]) -> dict[str, float]:
        """Seconds that jobs will take, as far as the store has seen their like."""
        times, found = Times(self.store.root), {}
        for job in jobs:
            its = next((place for place in self.slots.places if self._fits(job, place)), self.slots.places[0])
            threads = self.slots.cores if job.device_bound else its.threads
            if (seconds := times.guess(job, place_of(its.device, threads))) is not None:
                found[job.key] = seconds
        return found

    def _fits(self, job: Job, place: Place) -> bool:
        return not self.slots.mixed or job.on_device == (place.device != "cpu")

    def run(self) -> Outcome:
        self.progress.begin(
            list(self.pending.values()), self.names, cached=len(self.results), slots=len(self.slots.places),
            expected=self.expected,
        )  # fmt: skip
        if self.pending:
            known = environment(gpu=any(place.device != "cpu" for place in self.slots.places))
            self.workers = [Worker(place, self.store, known) for place in self.slots.places]
        asked = 0
        try:
            with self._signals():
                while self._running() or (self.pending and not self.signals):
                    if self.signals > asked:
                        asked = self.signals
                        self._ask_to_stop()
                    self._skip_hopeless()
                    self._dispatch()
                    self._listen()
        finally:
            for worker in self.workers:
                worker.end()
            self.progress.end()
        if self.signals:
            finished = sum(result.status in ("done", "cached") for result in self.results.values())
            raise Interrupted(f"interrupted: {finished} of {self.total} jobs are finished and kept, as are checkpoints "
                              "of the others; the same command goes on from there")  # fmt: skip
        return Outcome(self.results)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def count(number: int, frame: FrameType | None) -> None:
            self.signals += 1

        if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
            yield
            return
        before = {number: signal.signal(number, count) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _running(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.task is not None]

    def _ask_to_stop(self) -> None:
        if self.signals == 1:
            self.progress.note("stopping: running jobs leave a checkpoint (again to kill them)")
        for worker in self._running():
            if self.signals == 1:
                worker.stop()
            else:
                self._finish(worker, "interrupted")
                worker.end()

    def _skip_hopeless(self) -> None:
        for job in list(self.pending.values()):
            lost = [needed for needed in job.inputs.values() if self._status(needed) in ("failed", "skipped")]
            if lost:
                del self.pending[job.key]
                self._settle(
                    Result(
                        job,
                        "skipped",
                        message=f"{self.names[job.key]}: its input failed: {self.names[lost[0].key]}",
                        exit_code=1,
                    )
                )

    def _status(self, job: Job) -> Status | None:
        result = self.results.get(job.key)
        return result.status if result else None

    def _dispatch(self) -> None:
        for worker in self.workers:
            if worker.task is None and not self.signals and (job := self._next(worker.place)):
                del self.pending[job.key]
                if known := self.store.failure(job.key, self.together) if self.together else None:
                    self._settle(Result(job, "failed", 0.0, *known))
                    continue
                # what a timing measures does not depend on how many slots the other jobs had
                threads = self.slots.cores if job.device_bound else worker.place.threads
                worker.send(self.task(job, threads, self.names[job.key]))

    def _next(self, place: Place) -> Job | None:
        """The longest job that may start on `place`: timings only when nothing else runs, and nothing beside them."""
        running = {worker.task.job.key: worker.task.job for worker in self.workers if worker.task}
        if any(job.device_bound for job in running.values()):
            return None
        now, bound = time.monotonic(), None
        for job in self.pending.values():
            if (
                (job.device_bound and (bound or running))
                or not self._fits(job, place)
                or self.not_before.get(job.key, 0.0) > now
                or any(needed.key in self.pending or needed.key in running for needed in job.inputs.values())
            ):
                continue
            if not job.device_bound:
                return job
            bound = job
        return bound

    def _listen(self) -> None:
        waitable = [thing for worker in self._running() for thing in worker.waitable()]
        if waitable:
            wait(waitable, TICK_SECONDS)
        elif self.pending:  # all of them are worked on by another run
            time.sleep(TICK_SECONDS)
        for worker in self._running():
            self._watch(worker)
            for answer in worker.answers():
                self._hear(worker, answer)
                if worker.task is None:
                    break
        self.progress.tick()

    def _watch(self, worker: Worker) -> None:
        """Tell once of a job that is silent for long; replace a worker that somebody stopped (SIGSTOP)."""
        assert worker.task is not None
        silent = time.monotonic() - worker.heard
        if silent < SILENT_SECONDS:
            return
        name = self.names[worker.task.job.key]
        if not worker.told:
            worker.told = True
            state = "its process is stopped; `kill -CONT` wakes it" if worker.stopped() else "it may be a long step"
            self.progress.note(f"{name}: no report for {silent:.0f} s ({state})")
        elif worker.stopped() and silent >= SILENT_SECONDS + STOPPED_SECONDS:
            worker.end()
            self._died(worker, "SIGSTOP")

    def _hear(self, worker: Worker, answer: Answer | None) -> None:
        assert worker.task is not None
        job = worker.task.job
        match answer:
            case Started():
                self.progress.started(job, worker.place.name)
            case Progress(done):
                self.furthest[job.key] = max(done, self.furthest.get(job.key, 0))
                self.progress.progressed(job, answer)
            case Note(text):
                self.progress.note(f"{self.names[job.key]}: {text}")
            case Done(seconds, cached):
                self._finish(worker, "cached" if cached else "done", seconds)
            case Busy(why):
                self._wait_with(worker, why)
            case Failed(message, exit_code):
                self._finish(worker, "failed", message=message, exit_code=exit_code)
                if worker.place.device != "cpu":  # after some errors a process can use its GPU no more
                    worker.end()
            case Stopped():
                self._stopped(worker)
            case None:
                self._died(worker, worker.end())

    def _wait_with(self, worker: Worker, why: str) -> None:
        """Try the job again later, and later still from time to time."""
        assert worker.task is not None
        job = worker.task.job
        self._again(worker)
        if job.key not in self.patience:
            self.progress.note(f"{self.names[job.key]}: {why}")
        first, most = BUSY_SECONDS
        pause = self.patience[job.key] = min(most, self.patience.get(job.key, first / 2) * 2)
        self.not_before[job.key] = time.monotonic() + pause

    def _finish(
        self, worker: Worker, status: Status, seconds: float = 0.0, message: str = "", exit_code: int = 0
    ) -> None:
        assert worker.task is not None
        job, worker.task = worker.task.job, None
        told = f"{self.names[job.key]}: {message}" if message else ""
        if status == "failed":
            self.store.note_failure(job.key, self.together, told, exit_code)
        self._settle(Result(job, status, seconds, told, exit_code))

    def _settle(self, result: Result) -> None:
        self.results[result.job.key] = result
        self.progress.finished(result.job, result.status, result.seconds, result.message)

    def _again(self, worker: Worker) -> None:
        assert worker.task is not None
        job, worker.task = worker.task.job, None
        self.pending = {job.key: job, **self.pending}
        self.progress.deferred(job)

    def _stopped(self, worker: Worker) -> None:
        if self.signals:
            self._finish(worker, "interrupted")
        else:  # somebody stopped this worker alone
            worker.end()
            self._died(worker, "SIGTERM")

    def _died(self, worker: Worker, how: str) -> None:
        assert worker.task is not None
        job = worker.task.job
        deaths = self.deaths.setdefault(job.key, [])
        deaths.append(self.furthest.get(job.key, 0))
        if self.signals:
            self._finish(worker, "interrupted")
        elif len(deaths) < ATTEMPTS or (deaths[-1] > deaths[-2] and self.store.begun(job.key)):
            self._again(worker)
            self.progress.note(f"{self.names[job.key]}: its worker died ({how}); going on from its last checkpoint")
        else:
            hint = "; perhaps memory ran out: lower the batch or --slots" if how == "SIGKILL" else ""
            log = self.store.partial(job.key) / LOG
            message = f"its worker died {len(deaths)} times ({how}){hint} (log: {log})"
            self._finish(worker, "failed", message=message, exit_code=1)
