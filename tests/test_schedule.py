import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing import forkserver
from pathlib import Path

import pytest
from engine_jobs import (
    Counted,
    Crasher,
    Echo,
    Failing,
    Full,
    Halting,
    Loader,
    NaN,
    Nothing,
    Pid,
    Random,
    Sleeper,
    Timing,
    Weighed,
)

from benchsuite.engine import schedule
from benchsuite.engine.alone import LOCK, machine
from benchsuite.engine.job import Job
from benchsuite.engine.progress import Lines, Reporter
from benchsuite.engine.schedule import Outcome, run_jobs
from benchsuite.engine.slots import Place, Slots
from benchsuite.engine.store import Store
from benchsuite.engine.times import TIMES
from benchsuite.errors import BenchError, InputError, Interrupted


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def go(jobs: Sequence[Job], store: Store, slots: int = 1, progress: Reporter | None = None) -> Outcome:
    return run_jobs(jobs, store, slots=Slots.on("cpu", slots), progress=progress or Reporter(), checkpoint_every=5)


def statuses(outcome: Outcome) -> list[str]:
    return [outcome.results[key].status for key in outcome.results]


def out(store: Store, job: Job) -> str:
    return store.verified(job.key).path("out.txt").read_text()


def test_inputs_come_first_and_nothing_is_done_twice(store: Store, tmp_path: Path) -> None:
    a = Echo(name="a", trace=str(tmp_path))
    b = Echo(name="b", after=a, trace=str(tmp_path))
    c = Echo(name="c", after=b, also=a, trace=str(tmp_path))
    assert statuses(go([a, b, c], store, slots=2)) == ["done"] * 3
    assert out(store, c) == "c(b(a))(a)"
    record = store.record(c.key)
    assert record["inputs"] == {"after": b.key, "also": a.key}
    assert record["label"] == "echo c"
    assert record["device"] == "cpu"
    assert record["ran_under"] == {"deterministic": True}
    again = go([a, b, c], store)
    assert statuses(again) == ["cached"] * 3
    assert again.exit_code == 0
    assert (tmp_path / "a").read_text() == "done\n"


def test_failures_stop_only_what_needs_them(store: Store) -> None:
    failing, lossy = Failing(name="f"), NaN(name="n")
    after = Echo(name="after", after=failing)
    last = Echo(name="last", after=after)
    other = Echo(name="other")
    outcome = go([failing, lossy, after, last, other], store)
    found = {result.job.label: result for result in outcome.results.values()}
    assert {label: result.status for label, result in found.items()} == {
        "failing f": "failed",
        "nan n": "failed",
        "echo after": "skipped",
        "echo last": "skipped",
        "echo other": "done",
    }
    assert outcome.exit_code == 1
    assert len(outcome.failures) == 2
    log = store.partial(failing.key) / "job.log"
    assert found["failing f"].message == f"failing f: ValueError: what a pity (log: {log})"
    assert found["nan n"].message == "nan n: iteration 3: loss is nan; lower the learning rate"
    assert found["echo after"].message == "echo after: its input failed: failing f"
    assert "about to fail" in log.read_text()
    assert "Traceback" in log.read_text()
    assert list((store.root / "scratch").iterdir()) == []


def test_a_worker_that_dies_is_replaced_and_its_job_resumed_once(store: Store) -> None:
    once, always, after = Crasher(name="once"), Crasher(name="always", times=9), Echo(name="x")
    notes = io.StringIO()
    outcome = go([once, always, after], store, progress=Lines(notes))
    assert statuses(outcome) == ["done", "failed", "done"]
    assert out(store, once) == "survived"
    assert "its worker died 2 times (SIGSEGV)" in outcome.results[always.key].message
    assert "crasher once: its worker died (SIGSEGV); going on from its last checkpoint" in notes.getvalue()
    assert "Segmentation fault" in (store.partial(always.key) / "job.log").read_text()


def test_a_job_that_gets_further_each_time_is_gone_on_with(store: Store) -> None:
    job = Crasher(name="on", times=4, further=True)
    assert statuses(go([job], store)) == ["done"] and out(store, job) == "survived"


def test_the_longest_goes_first(store: Store, tmp_path: Path) -> None:
    """By what the store knows of their like, else by effort; a chain counts as a whole."""
    first = [Weighed(name=f"{n}", weight=float(n), trace=str(tmp_path)) for n in (1, 5, 3)]
    behind = Weighed(name="behind", weight=9.0, trace=str(tmp_path), after=first[0])
    go([*first, behind], store)

    def order() -> list[str]:
        began = {file.name: float(file.read_text().split()[-1]) for file in tmp_path.iterdir() if file.is_file()}
        return sorted(began, key=began.__getitem__)

    assert order() == ["1", "behind", "5", "3"]
    again = [Weighed(name=job.name, weight=job.weight, trace=str(tmp_path), seed=1) for job in first]
    lines = (store.root / TIMES).read_text().splitlines()
    told = {line["alike"]: line for line in map(json.loads, lines)}
    assert set(told) == {job.alike for job in (*again, behind)}, "other seeds take as long"
    forged = [told[job.alike] | {"seconds": seconds} for job, seconds in zip(again, (7.0, 8.0, 9.0), strict=True)]
    (store.root / TIMES).write_text("torn {\n" + "".join(f"{json.dumps(line)}\n" for line in forged))
    for file in tmp_path.iterdir():
        file.unlink() if file.is_file() else None
    go(again, store)
    assert order() == ["3", "5", "1"]


def test_a_timing_waits_for_other_runs_of_the_machine(store: Store, tmp_path: Path) -> None:
    holding, notes = threading.Event(), io.StringIO()

    def another_run() -> None:
        with machine(alone=False) as free:
            assert free
            holding.set()
            time.sleep(3.0)

    thread = threading.Thread(target=another_run)
    thread.start()
    holding.wait(10)
    with machine(alone=False) as beside, machine(alone=True) as alone:
        assert beside and not alone
    started, timing = time.monotonic(), Timing(name="t", trace=str(tmp_path))
    assert statuses(go([timing], store, progress=Lines(notes))) == ["done"]
    assert time.monotonic() - started > 2.0
    assert "timing t: waiting for all other jobs on this machine to end" in notes.getvalue()
    thread.join()
    with machine(alone=True) as alone, machine(alone=False) as beside:
        assert alone and not beside


def test_without_a_lock_timings_are_refused_and_others_done(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOCK, str(tmp_path / "none" / "lock"))
    outcome = go([Nothing(name="n"), Timing(name="t", trace=str(tmp_path))], store)
    assert statuses(outcome) == ["done", "failed"] and outcome.exit_code == 2
    assert "cannot be locked (No such file or directory), and a timing must have" in outcome.failures[0].message


def test_an_edited_input_is_an_error_of_the_user(store: Store) -> None:
    a = Echo(name="a")
    go([a], store)
    (store.folder(a.key) / "out.txt").write_text("better")
    b = Echo(name="b", after=a)
    outcome = go([a, b], store)
    assert outcome.exit_code == 2
    assert f"{store.folder(a.key) / 'out.txt'}: was changed" in outcome.results[a.key].message


def test_a_full_disk_loses_nothing(store: Store) -> None:
    full, other = Full(name="f"), Echo(name="o")
    outcome = go([full, other], store)
    assert outcome.exit_code == 2
    assert outcome.results[full.key].message.startswith(f"full f: {store.root}: the disk is full; free some space")
    assert store.artifact(full.key) is None
    assert list((store.root / "scratch").iterdir()) == []
    assert store.verified(other.key)


def test_a_store_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "store").touch()
    with pytest.raises(InputError, match="a file is where the store needs a folder"):
        go([Nothing(name="n")], Store(tmp_path / "store"))


def test_a_timing_runs_alone(store: Store, tmp_path: Path) -> None:
    kinds = (Sleeper, Timing, Sleeper, Timing, Sleeper)
    jobs = [kind(name=str(i), trace=str(tmp_path), seconds=0.4) for i, kind in enumerate(kinds)]
    assert statuses(go(jobs, store, slots=2)) == ["done"] * 5
    spans = [[float(line.split()[1]) for line in (tmp_path / str(i)).read_text().splitlines()] for i in range(5)]
    for timing in (1, 3):
        for other in set(range(5)) - {timing}:
            assert spans[other][1] <= spans[timing][0] or spans[timing][1] <= spans[other][0]
    assert any(spans[i][0] < spans[j][1] and spans[j][0] < spans[i][1] for i in (0, 2) for j in (2, 4) if i != j)
    assert store.record(jobs[1].key)["threads"] == Slots.on("cpu").cores


def test_jobs_without_a_network_leave_gpus_to_others(store: Store, tmp_path: Path) -> None:
    """A GPU's place and the CPU's beside it; the fakes do not look where they are."""
    kinds = (Counted, Sleeper, Counted, Timing, Counted, Sleeper)
    jobs = [kind(name=str(i), trace=str(tmp_path), seconds=1.0) for i, kind in enumerate(kinds)]
    slots = Slots((Place("cuda:0", 1, "", "cuda:0"), Place("cpu", 1, "")), cores=2)
    assert statuses(run_jobs(jobs, store, slots=slots, progress=Reporter())) == ["done"] * 6
    assert {str(job.name): store.record(job.key)["device"] for job in jobs} == {
        "0": "cpu", "1": "cuda:0", "2": "cpu", "3": "cuda:0", "4": "cpu", "5": "cuda:0"
    }  # fmt: skip
    spans = [[float(line.split()[1]) for line in (tmp_path / str(i)).read_text().splitlines()] for i in range(6)]
    assert all(spans[i][1] <= spans[3][0] or spans[3][1] <= spans[i][0] for i in (0, 1, 2, 4, 5)), "a timing is alone"
    assert spans[0][0] < spans[1][1] and spans[1][0] < spans[0][1], "side by side"


@pytest.mark.parametrize(("device", "renewed"), [("cuda:0", True), ("cpu", False)])
def test_a_process_that_failed_on_a_gpu_is_not_used_again(store: Store, device: str, renewed: bool) -> None:
    """After some errors it can use its GPU no more."""
    before, after = Pid(name="before"), Pid(name="after")
    slots = Slots((Place(device, 1, "", device),), cores=1)
    outcome = run_jobs([before, Failing(name="f"), after], store, slots=slots, progress=Reporter())
    assert statuses(outcome) == ["done", "failed", "done"]
    assert (out(store, before) != out(store, after)) == renewed


def test_each_job_draws_from_its_own_seed(tmp_path: Path) -> None:
    jobs = [Random(name="a"), Random(name="b")]
    stores = [Store(tmp_path / "1"), Store(tmp_path / "2")]
    go(jobs, stores[0])
    go([Nothing(name="before"), *reversed(jobs)], stores[1])
    texts = [[out(store, job) for job in jobs] for store in stores]
    assert texts[0] == texts[1]
    assert json.loads(texts[0][0])["draws"] != json.loads(texts[0][1])["draws"]
    assert json.loads(texts[0][0])["threads"] == Slots.on("cpu").places[0].threads


def test_jobs_may_start_processes_and_what_they_print_is_kept(store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    job = Loader(name="l")
    assert statuses(go([job], store)) == ["done"]
    assert out(store, job) == "6"
    log = store.verified(job.key).path("job.log").read_text()
    assert "printed by a child" in log
    assert "printed by the job" in log
    assert "printed" not in "".join(capfd.readouterr())


def test_slots_divide_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert [place.threads for place in Slots.on("cpu").places] == [8]
    assert [place.threads for place in Slots.on("cpu", 3).places] == [2, 2, 2]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    *places, last = Slots.on("cuda", 2).places
    assert (last.name, last.visible, last.device, last.threads) == ("cpu", "", "cpu", 2), "for jobs that use no GPU"
    assert [(place.name, place.visible, place.device, place.threads) for place in places] == [
        ("cuda:0", "5", "cuda:0", 2),
        ("cuda:0", "5", "cuda:0", 2),
        ("cuda:1", "3", "cuda:0", 2),
        ("cuda:1", "3", "cuda:0", 2),
    ]
    assert [place.visible for place in Slots.on("cuda:1").places] == ["3", ""]
    assert Slots.on("auto") == Slots.on("cuda")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [place.visible for place in Slots.on("cuda").places] == ["0", "1", ""]
    assert Slots.on("cuda").mixed and not Slots.on("cpu", 2).mixed


@pytest.mark.parametrize(
    ("device", "slots", "message"),
    [
        ("tpu", 1, "--device tpu: unknown device; one of: auto, cpu, cuda, cuda:N"),
        ("cpu:1", 1, "unknown device"),
        ("cuda:x", 1, "unknown device"),
        ("cuda:7", 1, "there are 0 visible GPUs"),
        ("cuda", 1, "there is no usable GPU"),
        ("cpu", 0, "--slots 0: needs a positive number"),
    ],
)
def test_wrong_devices_are_named(monkeypatch: pytest.MonkeyPatch, device: str, slots: int, message: str) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(InputError, match=message):
        Slots.on(device, slots)


def test_a_finished_job_whose_files_were_changed_is_told(store: Store) -> None:
    """Also when nothing is left to do that would read them."""
    a = Echo(name="a")
    b = Echo(name="b", after=a)
    go([a, b], store)
    (store.folder(a.key) / "out.txt").unlink()
    outcome = go([a, b], store)
    assert statuses(outcome) == ["failed", "cached"] and outcome.exit_code == 2
    assert outcome.results[a.key].message == (
        f"echo a: {store.folder(a.key) / 'out.txt'}: is gone; delete the folder {store.folder(a.key)} and run again"
    )


def test_a_stopped_worker_is_told_of_and_replaced(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "SILENT_SECONDS", 0.4)
    monkeypatch.setattr(schedule, "STOPPED_SECONDS", 0.4)
    job, notes = Crasher(name="s", signal=int(signal.SIGSTOP)), io.StringIO()
    assert statuses(go([job], store, progress=Lines(notes))) == ["done"]
    assert "crasher s: no report for 0 s (its process is stopped; `kill -CONT` wakes it)" in notes.getvalue()
    assert "its worker died (SIGSTOP); going on from its last checkpoint" in notes.getvalue()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_signals_leave_a_checkpoint_also_of_a_stopped_worker(
    store: Store, tmp_path: Path, number: signal.Signals
) -> None:
    job = Halting(name="h", trace=str(tmp_path), iterations=10_000)
    asking = threading.Timer(4.0, lambda: os.kill(os.getpid(), number))
    asking.start()
    with pytest.raises(Interrupted):
        go([job], store)
    asking.join()
    state = json.loads((store.partial(job.key) / "state.json").read_text())
    assert state["iteration"] >= 10 and state["iteration"] % 5, "written when it was asked to stop"


def test_a_killed_server_is_replaced(store: Store, tmp_path: Path) -> None:
    """It may be found dead only when it is asked for a worker."""
    run_jobs([Echo(name="a")], store, slots=Slots.on("cpu"), progress=Reporter())
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    os.kill(server, signal.SIGSTOP)
    os.kill(server, signal.SIGKILL)
    outcome = run_jobs([Echo(name="b"), Echo(name="c")], store, slots=Slots.on("cpu", 2), progress=Reporter())
    assert statuses(outcome) == ["done", "done"]


def test_a_server_that_dies_when_asked_is_replaced(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, connect = [], forkserver.connect_to_new_process

    def dying(fds: object) -> object:
        asked.append(fds)
        if len(asked) < 3:
            raise EOFError("unexpected EOF")
        return connect(fds)

    monkeypatch.setattr(forkserver, "connect_to_new_process", dying)
    assert statuses(run_jobs([Echo(name="a")], store, slots=Slots.on("cpu"), progress=Reporter())) == ["done"]
    asked.clear()
    monkeypatch.setattr(forkserver, "connect_to_new_process", lambda fds: dying(asked.clear()))
    with pytest.raises(BenchError, match=r"no worker could be started .*; run again to go on"):
        run_jobs([Echo(name="b")], store, slots=Slots.on("cpu"), progress=Reporter())


def test_ctrl_c_does_not_reach_a_server_that_imports() -> None:
    """Its parent starts it with SIGINT blocked; what multiprocessing starts beside it unblocks it in passing."""
    code = (
        "import multiprocessing.util as util, signal; from benchsuite.engine import forks; seen = []\n"
        "spawn = util.spawnv_passfds\n"
        "def spying(path, args, fds):\n"
        "    seen.append((b'forkserver' in args[-1].encode(), signal.pthread_sigmask(signal.SIG_BLOCK, [])))\n"
        "    return spawn(path, args, fds)\n"
        "util.spawnv_passfds = spying; forks.warm()\n"
        "assert [server for server, _ in seen] == [False, True]\n"
        "assert all(signal.SIGINT in blocked for _, blocked in seen), seen\n"
        "assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
