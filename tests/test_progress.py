import io
from types import SimpleNamespace

import pytest
from engine_jobs import Nothing, Weighed
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
    assert seen.left() == 10.0  # of the two, six seconds and ten, the longer one
    seen.deferred(JOBS[1])
    assert seen.left() == 10.0


def test_time_left_from_the_first_minutes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """From how far a running job is, for its like by their efforts; `at least` while a kind has no example."""
    time, stream = Clock(monkeypatch), io.StringIO()
    lines = Lines(stream)
    trainings = [Weighed(name=str(effort), weight=effort) for effort in (1.0, 3.0)]
    jobs = [*trainings, *JOBS[:1]]
    lines.begin(jobs, NAMES | {job.key: job.label for job in trainings}, cached=0, slots=1)
    assert lines.left() is None and lines.ahead() == ""
    lines.started(trainings[0], "cpu")
    lines.progressed(trainings[0], Progress(0, 100))
    time.now += 10
    lines.progressed(trainings[0], Progress(10, 100))
    assert lines.left() == pytest.approx(90 + 300)
    assert lines.ahead() == "at least 6:30 left"
    lines.tick()
    assert "[0/3] at least" not in stream.getvalue()
    time.now += 60
    lines.progressed(trainings[0], Progress(70, 100))
    lines.tick()
    lines.tick()
    assert stream.getvalue().splitlines()[-1] == "[0/3] at least 5:30 left"
    assert stream.getvalue().count("at least") == 1


def test_time_left_from_earlier_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    seen = Reporter()
    seen.begin(JOBS, NAMES, cached=0, slots=3, expected={job.key: 10.0 * n for n, job in enumerate(JOBS, 1)})
    assert seen.left() == 30.0, "the longest one, whatever the slots"
    seen.started(JOBS[0], "cpu")
    seen.finished(JOBS[0], "done", 20.0, "")
    assert seen.left() == 60.0, "twice as slow as expected, so the others too"
    assert seen.ahead() == "1:00 left"


def test_a_run_ends_with_where_its_time_went(monkeypatch: pytest.MonkeyPatch) -> None:
    time, stream = Clock(monkeypatch), io.StringIO()
    lines = Lines(stream)
    lines.begin([*JOBS, Weighed(name="w")], {**NAMES, Weighed(name="w").key: "weighed w"}, cached=0, slots=2)
    for job in JOBS[:2]:
        lines.started(job, "cpu")
        lines.finished(job, "done", 30.0, "")
    lines.finished(Weighed(name="w"), "done", 120.0, "")
    time.now += 100
    lines.end()
    told = stream.getvalue().splitlines()[-1]
    assert told == "1:40 in all, 2 slots busy for 90 %: 2:00 in 1 × Weighed, 1:00 in 2 × Nothing"
    idle = Lines(stream := io.StringIO())
    idle.begin([], {}, cached=3, slots=2)
    idle.end()
    assert stream.getvalue() == ""


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
