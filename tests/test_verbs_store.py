"""`bench store`, `bench status` and `bench logs`."""

import io
import json
import os
import random
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_jobs import Counter, Echo, Failing
from typer.testing import CliRunner

from benchsuite.cli.app import app
from benchsuite.engine.progress import Reporter
from benchsuite.engine.schedule import run_jobs
from benchsuite.engine.slots import Slots
from benchsuite.engine.store import LOG, PROGRESS, Store
from benchsuite.errors import InputError, harmless
from benchsuite.verbs.status import find, lines, unfinished
from benchsuite.verbs.store import contents, damaged, delete, named, pack, unneeded, unpack

A, B, C = Echo(name="a"), Echo(name="b", after=Echo(name="a")), Echo(name="c")
FIXTURE = Path(__file__).parent / "fixtures" / "results" / "har-table1.mini.schema1.json"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with three jobs, of which `b` was made from `a`."""
    root = tmp_path_factory.mktemp("filled") / "store"
    run_jobs([A, B, C], Store(root), slots=Slots.on("cpu"), progress=Reporter())
    return root


@pytest.fixture
def store(filled: Path, tmp_path: Path) -> Store:
    packed = tmp_path / "all.tar"
    pack(Store(filled), [B.key, C.key], packed)
    store = Store(tmp_path / "store")
    unpack(store, packed)
    return store


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with a results file that names job `b`."""
    content = json.loads(FIXTURE.read_text())
    content["rows"][0]["keys"] = [B.key, "gone-long-ago"]
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "har-table1.mini.json").write_text(json.dumps(content))
    return folder


def test_contents_say_what_results_hang_on(store: Store, results: Path) -> None:
    found = {each.label: each for each in contents(store, results)}
    assert {label: each.named for label, each in found.items()} == {"echo a": True, "echo b": True, "echo c": False}
    assert found["echo b"].bytes == sum(
        file.stat().st_size for file in store.folder(B.key).rglob("*") if file.is_file()
    )


def test_prune_never_takes_what_a_results_file_names(store: Store, results: Path) -> None:
    (store.partial("abandoned")).mkdir()
    assert unneeded(store, results) == [store.folder(C.key), store.partial("abandoned")]
    assert delete(store, unneeded(store, results)) > 0
    assert named(store, results) == {A.key, B.key} == {each.key for each in contents(store, results)}
    assert set(unneeded(store, results, everything=True)) == {store.folder(A.key), store.folder(B.key)}


def test_prune_leaves_what_somebody_works_on(store: Store, results: Path) -> None:
    store.partial("busy").mkdir()
    with Store(store.root).lock("busy") as mine:
        assert mine and store.partial("busy") not in unneeded(store, results)
    with Store(store.root).lock(C.key):
        assert delete(store, [store.folder(C.key)]) == 0
    assert store.artifact(C.key)


def test_prune_stops_at_results_it_cannot_read(store: Store, results: Path) -> None:
    (results / "torn.json").write_text('{"schema": 1,')
    with pytest.raises(InputError, match=r"torn\.json"):
        unneeded(store, results)


def test_prune_asks_where_the_results_are(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no results file, so nothing says what is needed"):
        unneeded(store, tmp_path / "elsewhere")
    assert len(unneeded(store, tmp_path / "elsewhere", everything=True)) == 3


def test_verify_reads_everything(store: Store) -> None:
    assert list(damaged(store)) == []
    file = store.folder(C.key) / "out.txt"
    before = file.stat()
    file.write_text("C")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [line.partition(": ")[0] for line in damaged(Store(store.root))] == [str(file)]


def test_an_archive_brings_jobs_with_what_they_were_made_from(filled: Path, tmp_path: Path) -> None:
    packed = tmp_path / "b.tar.gz"
    assert pack(Store(filled), [B.key], packed) == sorted([A.key, B.key])
    there = Store(tmp_path / "there")
    assert unpack(there, packed) == sorted([A.key, B.key])
    assert there.verified(B.key).path("out.txt").read_text() == "b(a)"
    assert unpack(there, packed) == []
    assert list((there.root / "scratch").iterdir()) == []


def archive(file: Path, change: Callable[[tarfile.TarInfo], tarfile.TarInfo], content: bytes = b"x") -> Path:
    with tarfile.open(file, "w") as packed:
        member = change(tarfile.TarInfo("abc/out.txt"))
        member.size = len(content) if member.isfile() else 0
        packed.addfile(member, io.BytesIO(content))
    return file


def renamed(name: str) -> Callable[[tarfile.TarInfo], tarfile.TarInfo]:
    return lambda member: member.replace(name=name)


def linking(kind: bytes) -> Callable[[tarfile.TarInfo], tarfile.TarInfo]:
    def change(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.type, member.linkname = kind, "/etc/passwd"
        return member

    return change


@pytest.mark.parametrize(
    "change",
    [renamed("../out.txt"), renamed("/tmp/out.txt"), renamed("abc/../../x"), renamed(".hidden/x"),
     linking(tarfile.SYMTYPE), linking(tarfile.LNKTYPE), linking(tarfile.FIFOTYPE)],
)  # fmt: skip
def test_an_archive_that_leads_out_is_refused(change: Any, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(InputError, match="which is no file below a job's key; nothing was taken"):
        unpack(store, archive(tmp_path / "bad.tar", change))
    assert list((store.root / "artifacts").iterdir()) == []


def test_an_archive_with_a_changed_byte_is_refused(filled: Path, tmp_path: Path) -> None:
    packed = tmp_path / "c.tar"
    pack(Store(filled), [C.key], packed)
    content = packed.read_bytes()
    packed.write_bytes(content.replace(b'"AP": 1.0', b'"AP": 9.0'))
    assert packed.read_bytes() != content
    store = Store(tmp_path / "store")
    with pytest.raises(InputError, match=r"metrics\.json: was changed .*nothing of this job was taken"):
        unpack(store, packed)
    assert store.artifact(C.key) is None
    (tmp_path / "no.tar").write_bytes(b"no archive")
    with pytest.raises(InputError, match="cannot be read as an archive"):
        unpack(store, tmp_path / "no.tar")


def test_commands(store: Store, results: Path) -> None:
    def bench(*words: str) -> str:
        outcome = CliRunner().invoke(app, [*words, "--store", str(store.root)])
        assert outcome.exit_code == 0, outcome.output
        return outcome.stdout

    assert "3 finished jobs" in bench("store", "list", "--out", str(results))
    assert "3 finished jobs, 0 damaged" in bench("store", "verify")
    assert "can go; add --yes to delete" in bench("store", "prune", "--out", str(results)) and store.artifact(C.key)
    assert json.loads(bench("store", "prune", "--out", str(results), "--yes", "--json"))["deleted"] is True
    assert store.artifact(C.key) is None
    assert "2 jobs" in bench("store", "export", str(results / "x.tar.gz"), "--out", str(results))
    assert "0 jobs were new" in bench("store", "import", str(results / "x.tar.gz"))
    assert bench("status") == "no unfinished job\n"


# --- what goes on


def test_status_and_logs_of_a_running_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, seen = Store(tmp_path / "store"), list[Any]()
    job = Counter(name="n", trace=str(tmp_path), iterations=60, seconds=0.02)

    class Looking(Reporter):
        def progressed(self, job: Any, progress: Any) -> None:
            if not seen and (store.partial(job.key) / PROGRESS).is_file():
                seen.append(unfinished(store))

    run_jobs([job], store, slots=Slots.on("cpu"), progress=Looking(), names={job.key: "table/row count"})
    (state,) = seen[0]
    assert (state.key, state.name, state.working, state.total, state.unit) == (
        job.key, "table/row count", True, 60, "iterations")  # fmt: skip
    assert 1 <= state.done <= 60 and state.loss == 1.0
    assert unfinished(store) == []


def test_status_of_a_job_that_failed(tmp_path: Path) -> None:
    store, job = Store(tmp_path / "store"), Failing(name="f", trace=str(tmp_path))
    run_jobs([job], store, slots=Slots.on("cpu"), progress=Reporter(), names={job.key: "table/row fail"})
    (state,) = unfinished(store)
    assert not state.working and state.failed.startswith("table/row fail: ValueError")
    printed = CliRunner().invoke(app, ["status", "--store", str(store.root)]).stdout
    assert "failed" in printed.splitlines()[3] and f"failed {job.key[:8]} table/row fail: ValueError" in printed
    with store.lock(job.key), store.scratch(job.key):
        assert store.failure(job.key) is None, "tried again"


@pytest.mark.parametrize("words", [["status"], ["logs", "abc"], ["store", "list"], ["store", "verify"],
                                   ["store", "prune"], ["store", "export", "x.tar"]])  # fmt: skip
def test_no_store_is_told(tmp_path: Path, words: list[str]) -> None:
    outcome = CliRunner().invoke(app, [*words, "--store", str(tmp_path / "typo")])
    assert isinstance(outcome.exception, InputError) and "typo: is no store; bench run" in str(outcome.exception)
    assert not (tmp_path / "typo").exists()


def test_logs_follow_until_the_job_is_left(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    folder = store.partial("abc1")
    folder.mkdir()
    (folder / LOG).write_text("printed\nhalf")
    (folder / "log.jsonl").write_text('{"iteration": 1, "loss": 0.12345678}\n')
    assert list(lines(store, "abc1", follow=False)) == ["printed", "iteration 1  loss 0.1235"]

    holding, release = threading.Event(), threading.Event()

    def work() -> None:
        with store.lock("abc1"):
            holding.set()
            release.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    holding.wait(10)
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        with (folder / LOG).open("a") as log:
            log.write(" of it\n" if len(waits) == 1 else "more\n")
        if len(waits) == 2:
            release.set()
            thread.join()

    assert list(lines(store, "abc1", True, wait)) == ["printed", "iteration 1  loss 0.1235", "half of it", "more"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"done": "x"}', '{"name": [1], "loss": "nan"}', "[" * 100_000, '{"total": 1e400}']
)
def test_a_torn_report_is_none(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path)
    store.prepare()
    store.partial("abc1").mkdir()
    (store.partial("abc1") / PROGRESS).write_text(text)
    (state,) = unfinished(store)
    assert (state.key, state.name, state.working, state.done) == ("abc1", "abc1", False, 0)


@pytest.mark.timeout(20)
def test_logs_of_anything_are_lines_that_do_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    store.partial("abc1").mkdir()
    (store.partial("abc1") / LOG).write_bytes(b"\x1b[2J\xc2\x9b31m \xff\n")
    (store.partial("abc1") / "log.jsonl").write_text("[" * 100_000 + "\n[]\n{\n")
    printed = CliRunner().invoke(app, ["logs", "abc1", "--store", str(store.root)])
    assert printed.exit_code == 0 and len(printed.stdout.splitlines()) == 4
    assert all(map(harmless, printed.stdout.replace("\n", "")))
    for name in (LOG, "log.jsonl"):
        (store.partial("abc1") / name).unlink()
        os.mkfifo(store.partial("abc1") / name)
    assert CliRunner().invoke(app, ["logs", "abc1", "--store", str(store.root)]).stdout == ""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("form", [".tar", ".tar.gz"])
def test_a_damaged_archive_is_one_line_or_what_was_packed(filled: Path, tmp_path: Path, form: str) -> None:
    packed = tmp_path / f"all{form}"
    pack(Store(filled), [B.key, C.key], packed)
    text, draw = packed.read_bytes(), random.Random(0)
    for number in range(40):
        damaged_text = bytearray(text)
        if number % 2:
            del damaged_text[draw.randrange(len(text)) :]
        else:
            damaged_text[draw.randrange(len(text))] ^= 1 << draw.randrange(8)
        packed.write_bytes(damaged_text)
        store = Store(tmp_path / str(number))
        try:
            unpack(store, packed)
        except InputError as error:
            assert all(map(harmless, str(error)))
        assert list(damaged(store)) == []
    packed.unlink()
    os.mkfifo(packed)
    with pytest.raises(InputError, match="cannot be read as an archive"):
        unpack(Store(tmp_path / "pipe"), packed)


def test_a_key_by_its_beginning(store: Store) -> None:
    assert find(store, A.key[:8]) == A.key
    for start, told in (("zz", "no job begins with 'zz'"), ("", "3 jobs begin with ''")):
        with pytest.raises(InputError, match=told):
            find(store, start)
