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
LINE_PATIENCE = 60.0  # after which a plain line is due however little was done


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
        pace = (time.monotonic() - self.since) / (self.last.done - self.first.done)
        return pace * (self.last.total - self.last.done)


class Reporter:
    """Follows a run and shows nothing. The scheduler calls its methods in one thread."""

    def begin(self, jobs: Sequence[Job], names: Mapping[str, str], *, cached: int, slots: int) -> None:
        """A run starts: `jobs`, called `names` by key, are to be done, `cached` others are in the store."""
        self.names, self.cached, self.slots = names, cached, slots
        self.waiting = {job.key: job for job in jobs}
        self.running: dict[str, Running] = {}
        self.total, self.settled = len(jobs) + cached, cached
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)

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
            self.seconds[job.kind()].append(seconds)

    def note(self, text: str) -> None:
        """Something worth a line."""

    def tick(self) -> None:
        """Called a few times a second."""

    def end(self) -> None:
        """The run is over."""

    def left(self) -> float | None:
        """Seconds to the end of the run, from jobs of the same kinds that are done; None while one has no example."""
        total = 0.0
        for running in self.running.values():
            own, typical = running.left(), self._typical(running.job)
            if own is None and typical is None:
                return None
            total += own if own is not None else max(0.0, (typical or 0.0) - (time.monotonic() - running.since))
        for job in self.waiting.values():
            typical = self._typical(job)
            if typical is None:
                return None
            total += typical
        return total / max(1, min(self.slots, len(self.running) + len(self.waiting)))

    def _typical(self, job: Job) -> float | None:
        known = self.seconds.get(job.kind())
        return sum(known) / len(known) if known else None

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
        left = self.left() if self.waiting or self.running else None
        ahead = f", {clock(left)} left" if left else ""
        self.note(self._closing(job, status, seconds, message) + ahead)

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

        console = console or Console(stderr=True, highlight=False)  # rich itself obeys NO_COLOR
        text = [bars.TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[count]")]
        detail = bars.TextColumn("{task.fields[detail]}", markup=False, style="dim")
        self.live = bars.Progress(text[0], bars.BarColumn(24), text[1], detail, console=console, transient=True)
        self.bars: dict[str, bars.TaskID] = {}

    def begin(self, jobs: Sequence[Job], names: Mapping[str, str], *, cached: int, slots: int) -> None:
        """Show the run's bar."""
        super().begin(jobs, names, cached=cached, slots=slots)
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
        left = self.left()
        ahead = f"{clock(left)} left" if left else ""
        self.live.update(self.whole, completed=self.settled, count=f"{self.settled}/{self.total}", detail=ahead)

    def end(self) -> None:
        """Give the terminal back."""
        self.live.stop()

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
