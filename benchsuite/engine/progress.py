"""What a run shows while it works: live bars on a terminal, plain lines elsewhere; always on stderr."""

import os
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from typing_extensions import override

from benchsuite.engine.job import Job, Progress
from benchsuite.errors import visible

if TYPE_CHECKING:
    from rich.console import Console

LINE_SECONDS = 10.0  # at least between two plain lines of a job
LINE_FRACTION = 0.1  # of the job, after which a plain line is due
SUMMARY_SECONDS = 1.0  # of work, with which a kind of it is told of where a run's time went
LINE_PATIENCE = 60.0  # after which a plain line is due however little was done
RUN_SECONDS = 300.0  # between two plain lines on the whole run


@dataclass
class Running:
    """A job that runs now."""

    job: Job
    device: str
    since: float = field(default_factory=lambda: time.monotonic())
    first: Progress | None = None
    last: Progress | None = None

    def left(self) -> float | None:
        """Seconds to the end at the pace since the first report (a resumed job starts in the middle)."""
        if self.first is None or self.last is None or self.last.done <= self.first.done or not self.last.total:
            return None
        return self._pace(self.first, self.last) * (self.last.total - self.last.done)

    def whole(self) -> float | None:
        """Seconds that all of it would take at that pace; None where `left` is."""
        if self.left() is None:
            return None
        assert self.first is not None and self.last is not None
        return self._pace(self.first, self.last) * self.last.total

    def _pace(self, first: Progress, last: Progress) -> float:
        return (time.monotonic() - self.since) / (last.done - first.done)


class Reporter:
    """Follows a run and shows nothing. The scheduler calls its methods in one thread."""

    def begin(
        self, jobs: Sequence[Job], names: Mapping[str, str], *, cached: int, slots: int,
        expected: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        """A run starts: `jobs`, called `names` by key, are to be done, `cached` others are in the store. `expected` are
        seconds by key, of jobs whose like was done before."""
        self.names, self.cached, self.slots = names, cached, slots
        self.expected = expected or {}
        self.waiting = {job.key: job for job in jobs}
        self.running: dict[str, Running] = {}
        self.total, self.settled = len(jobs) + cached, cached
        self.paces: dict[str, tuple[float, int]] = {}
        self.spent: defaultdict[str, list[float]] = defaultdict(list)
        self.begun = time.monotonic()

    def started(self, job: Job, device: str) -> None:
        """A worker begins with `job`."""
        self.waiting.pop(job.key, None)
        self.running[job.key] = Running(job, device)

    def progressed(self, job: Job, progress: Progress) -> None:
        """A running job reports."""
        if (running := self.running.get(job.key)) is not None:
            if running.first is None:
                running.first, running.since = progress, time.monotonic()
            running.last = progress

    def deferred(self, job: Job) -> None:
        """A job goes back among those waiting."""
        self.running.pop(job.key, None)
        self.waiting[job.key] = job

    def finished(self, job: Job, status: str, seconds: float, message: str) -> None:
        """A job came to an end, or will not be tried."""
        self.waiting.pop(job.key, None)
        self.running.pop(job.key, None)
        self.settled += 1
        if status == "done":
            paces, count = self.paces.get(job.kind(), (0.0, 0))
            self.paces[job.kind()] = paces + seconds / self._base(job), count + 1
            self.spent[job.work].append(seconds)

    def note(self, text: str) -> None:
        """Something worth a line."""

    def tick(self) -> None:
        """Called a few times a second."""

    def end(self) -> None:
        """The run is over: says where its time went."""
        if any(sum(spent) >= SUMMARY_SECONDS for spent in self.spent.values()):
            self.note(self._summary())

    def _summary(self) -> str:
        sums = sorted(((sum(spent), work, len(spent)) for work, spent in self.spent.items()), reverse=True)
        parts = [f"{clock(seconds)} in {count} × {work}" for seconds, work, count in sums if seconds >= SUMMARY_SECONDS]
        whole = max(time.monotonic() - self.begun, 1e-9)
        busy = min(1.0, sum(seconds for seconds, _, _ in sums) / (whole * self.slots))
        slots = "the slot" if self.slots == 1 else f"{self.slots} slots"
        return f"{clock(whole)} in all, {slots} busy for {100 * busy:.0f} %: {', '.join(parts)}"

    def left(self) -> float | None:
        """Seconds to the end of the run: from how far running jobs are, and for others from their like in this run and
        in earlier ones. What has no example counts nothing (see `ahead`); None where nothing has one."""
        return self._together(self._each())

    def ahead(self) -> str:
        """`left` for people: `3:05 left`, or `at least 3:05 left` while some job has no example; "" if none has."""
        each = self._each()
        left = self._together(each)
        return f"{'at least ' if None in each else ''}{clock(left)} left" if left else ""

    def _together(self, each: Sequence[float | None]) -> float | None:
        known = [seconds for seconds in each if seconds is not None]
        return max(sum(known) / max(1, min(self.slots, len(each))), *known) if known else None

    def _each(self) -> list[float | None]:
        """Seconds to the end of each job that is not finished."""
        return [*map(self._rest, self.running.values()), *map(self._typical, self.waiting.values())]

    def _rest(self, running: Running) -> float | None:
        own, typical = running.left(), self._typical(running.job)
        if own is not None or typical is None:
            return own
        return max(0.0, typical - (time.monotonic() - running.since))

    def _typical(self, job: Job) -> float | None:
        """Seconds of a whole job."""
        if job.kind() in self.paces:
            paces, count = self.paces[job.kind()]
            return paces / count * self._base(job)
        if job.key in self.expected:
            return self.expected[job.key]
        alike = [
            whole / self._base(running.job)
            for running in self.running.values()
            if running.job.kind() == job.kind() and (whole := running.whole()) is not None
        ]
        return sum(alike) / len(alike) * self._base(job) if alike else None

    def _base(self, job: Job) -> float:
        """What seconds are compared by, among jobs of a kind."""
        return self.expected.get(job.key) or job.effort or 1.0

    def _closing(self, job: Job, status: str, seconds: float, message: str) -> str:
        text = f"[{self.settled}/{self.total}] {status} {self.names[job.key]}"
        return (
            f"{text}: {message.removeprefix(self.names[job.key] + ': ')}" if message else f"{text} ({clock(seconds)})"
        )


class Lines(Reporter):
    """Plain lines: a job's start, its progress now and then, its end."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.said: dict[str, tuple[float, int]] = {}
        self.due = time.monotonic() + LINE_PATIENCE

    @override
    def started(self, job: Job, device: str) -> None:
        super().started(job, device)
        self.said[job.key] = (time.monotonic(), 0)
        self.note(f"[{self.settled}/{self.total}] start {self.names[job.key]} on {device}")

    def progressed(self, job: Job, progress: Progress) -> None:
        """A line when enough time has passed or enough was done."""
        super().progressed(job, progress)
        now = time.monotonic()
        at, done = self.said.get(job.key, (now, 0))
        moved = progress.total > 0 and progress.done - done >= LINE_FRACTION * progress.total
        if now - at >= LINE_PATIENCE or (moved and now - at >= LINE_SECONDS):
            self.said[job.key] = (now, progress.done)
            self.note(f"{self.names[job.key]}: {self._describe(job, progress)}")

    @override
    def finished(self, job: Job, status: str, seconds: float, message: str) -> None:
        super().finished(job, status, seconds, message)
        ahead = self.ahead()
        self.note(self._closing(job, status, seconds, message) + (f", {ahead}" if ahead else ""))

    @override
    def tick(self) -> None:
        now = time.monotonic()
        if now >= self.due and (ahead := self.ahead()):
            self.due = now + RUN_SECONDS
            self.note(f"[{self.settled}/{self.total}] {ahead}")

    @override
    def note(self, text: str) -> None:
        print(visible(text), file=self.stream, flush=True)

    def _describe(self, job: Job, progress: Progress) -> str:
        parts = [
            f"{progress.done}/{progress.total} {progress.unit}"
            if progress.total
            else f"{progress.done} {progress.unit}"
        ]
        if progress.loss is not None:
            parts.append(f"loss {progress.loss:.4g}")
        if progress.note:
            parts.append(progress.note)
        left = self.running[job.key].left() if job.key in self.running else None
        return ", ".join(parts + ([f"{clock(left)} left"] if left is not None else []))


class Bars(Reporter):
    """Live bars: one for the run, one for each running job; finished jobs scroll by above them."""

    def __init__(self, console: "Console | None" = None) -> None:
        from rich import progress as bars
        from rich.console import Console

        console = console or Console(stderr=True, highlight=False, emoji=False)  # rich itself obeys NO_COLOR
        text = [bars.TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[count]")]
        detail = bars.TextColumn("{task.fields[detail]}", markup=False, style="dim")
        self.live = bars.Progress(text[0], bars.BarColumn(24), text[1], detail, console=console, transient=True)
        self.bars: dict[str, bars.TaskID] = {}

    @override
    def begin(
        self, jobs: Sequence[Job], names: Mapping[str, str], *, cached: int, slots: int,
        expected: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        super().begin(jobs, names, cached=cached, slots=slots, expected=expected)
        self.whole = self.live.add_task("jobs", total=self.total, completed=cached, count="", detail="")
        self.live.start()

    def started(self, job: Job, device: str) -> None:
        """Add a bar."""
        super().started(job, device)
        self.bars[job.key] = self.live.add_task(self.names[job.key], total=None, count="", detail=device)

    def progressed(self, job: Job, progress: Progress) -> None:
        """Move a bar."""
        super().progressed(job, progress)
        if job.key in self.bars:
            left = self.running[job.key].left()
            loss = f"loss {progress.loss:.4g}" if progress.loss is not None else ""
            ahead = f"{clock(left)} left" if left is not None else ""
            count = f"{progress.done}/{progress.total} {progress.unit}" if progress.total else str(progress.done)
            detail = "  ".join(part for part in (loss, progress.note, ahead) if part)
            self.live.update(self.bars[job.key], completed=progress.done, total=progress.total or None, count=count,
                             detail=detail)  # fmt: skip

    def deferred(self, job: Job) -> None:
        """Take its bar away."""
        super().deferred(job)
        self._drop(job)

    def finished(self, job: Job, status: str, seconds: float, message: str) -> None:
        """Take its bar away and leave a line."""
        super().finished(job, status, seconds, message)
        self._drop(job)
        self.note(self._closing(job, status, seconds, message))

    def note(self, text: str) -> None:
        """One line above the bars."""
        self.live.console.print(visible(text), markup=False, soft_wrap=True)

    def tick(self) -> None:
        """Renew the run's bar."""
        count = f"{self.settled}/{self.total}"
        self.live.update(self.whole, completed=self.settled, count=count, detail=self.ahead())

    def end(self) -> None:
        """Give the terminal back."""
        self.live.stop()
        super().end()

    def _drop(self, job: Job) -> None:
        if (bar := self.bars.pop(job.key, None)) is not None:
            self.live.remove_task(bar)


def reporter() -> Reporter:
    """Live bars if stderr is a terminal that can show them, plain lines otherwise."""
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return Bars() if terminal else Lines()


def clock(seconds: float) -> str:
    """A duration for people: `0.4 s`, `12 s`, `3:05`, `1:02:03`.

    >>> clock(185.2)
    '3:05'
    """
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
