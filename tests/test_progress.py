import io
from types import SimpleNamespace

import pytest
from engine_jobs import Nothing
from rich.console import Console

from benchsuite.engine.job import Progress
from benchsuite.engine.progress import Bars, Lines, Reporter, clock, reporter


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("benchsuite.engine.progress.time", SimpleNamespace(monotonic=lambda: self.now))


JOBS = [Nothing(name=name) for name in "abc"]
NAMES = {job.key: job.label for job in JOBS}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.9, "9.9 s"), (59.7, "1:00"), (185.2, "3:05"), (3723, "1:02:03")]
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_lines_say_start_progress_now_and_then_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    time, stream = Clock(monkeypatch), io.StringIO()
    lines = Lines(stream)
    lines.begin(JOBS, NAMES, cached=2, slots=1)
    lines.started(JOBS[0], "cpu")
    for done in range(0, 101):
        lines.progressed(JOBS[0], Progress(done, 100, loss=1.25))
        time.now += 1
    lines.finished(JOBS[0], "done", 101.0, "")
    lines.started(JOBS[1], "cpu")
    lines.finished(JOBS[1], "failed", 0.0, f"{JOBS[1].label}: no luck")
    said = stream.getvalue().splitlines()
    assert said[0] == "[2/5] start nothing a on cpu"
    assert said[1] == "nothing a: 10/100 iterations, loss 1.25, 1:30 left"
    assert said[10] == "nothing a: 100/100 iterations, loss 1.25, 0.0 s left"
    assert said[11] == "[3/5] done nothing a (1:41), 3:22 left"
    assert said[13].startswith("[4/5] failed nothing b: no luck")
    assert len(said) == 14


def test_a_slow_job_still_says_something(monkeypatch: pytest.MonkeyPatch) -> None:
    time, stream = Clock(monkeypatch), io.StringIO()
    lines = Lines(stream)
    lines.begin(JOBS, NAMES, cached=0, slots=1)
    lines.started(JOBS[0], "cpu")
    for done in range(300):
        lines.progressed(JOBS[0], Progress(done, 100_000))
        time.now += 1
    assert len(stream.getvalue().splitlines()) == 1 + 4


def test_time_left_follows_finished_jobs_of_the_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    time, seen = Clock(monkeypatch), Reporter()
    seen.begin(JOBS, NAMES, cached=0, slots=2)
    assert seen.left() is None
    seen.started(JOBS[0], "cpu")
    seen.finished(JOBS[0], "done", 10.0, "")
    assert seen.left() == 10.0  # two jobs of ten seconds on two slots
    seen.started(JOBS[1], "cpu")
    time.now += 4
    assert seen.left() == (6 + 10) / 2
    seen.deferred(JOBS[1])
    assert seen.left() == 10.0


def test_bars_show_jobs_and_leave_a_line_each() -> None:
    stream = io.StringIO()
    bars = Bars(Console(file=stream, force_terminal=True, width=120, color_system=None))
    bars.begin(JOBS, NAMES, cached=1, slots=1)
    bars.started(JOBS[0], "cpu")
    bars.progressed(JOBS[0], Progress(5, 10, loss=0.5, note="[warm-up]"))
    bars.tick()
    bars.live.refresh()
    bars.finished(JOBS[0], "done", 3.0, "")
    bars.started(JOBS[1], "cpu")
    bars.deferred(JOBS[1])
    bars.end()
    text = stream.getvalue()
    assert "5/10 iterations" in text
    assert "loss 0.5" in text
    assert "[warm-up]" in text
    assert "[2/4] done nothing a (3.0 s)" in text


def test_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert isinstance(reporter(), Lines)
