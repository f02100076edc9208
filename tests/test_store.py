import errno
import json
import os
import re
from pathlib import Path

import pytest
from engine_jobs import Echo

from benchsuite.engine.store import LOG, PROGRESS, RECORD, Store
from benchsuite.errors import InputError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def publish(store: Store, key: str = "k1", text: str = "result") -> None:
    with store.lock(key) as mine, store.scratch(key) as folder:
        assert mine
        (store.partial(key) / LOG).write_text("a line")
        (store.partial(key) / "checkpoint").write_text("half-way")
        (folder / "out.txt").write_text(text)
        (folder / "deep").mkdir()
        (folder / "deep" / "metrics.txt").write_text("1")
        store.publish(key, folder, {"label": "a job", "inputs": {}})


def test_a_published_artifact_is_complete_and_leaves_nothing_behind(store: Store) -> None:
    assert store.artifact("k1") is None
    publish(store)
    artifact = store.verified("k1")
    assert artifact.path("out.txt").read_text() == "result"
    assert artifact.path(LOG).read_text() == "a line"
    assert set(store.record("k1")["files"]) == {"out.txt", "deep/metrics.txt", LOG}
    assert not store.partial("k1").exists()
    assert list((store.root / "scratch").iterdir()) == []


def test_reading_creates_nothing(tmp_path: Path) -> None:
    assert Store(tmp_path / "none").artifact("k") is None
    assert list(tmp_path.iterdir()) == []


def test_the_place_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_STORE", "elsewhere")
    assert Store().root == Path("elsewhere")
    monkeypatch.delenv("BENCH_STORE")
    assert Store().root == Path("runs")


def test_an_error_while_publishing_leaves_no_artifact(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(InputError, match="the disk is full; free some space"), store.explained():
        publish(store)
    monkeypatch.undo()
    assert store.artifact("k1") is None
    assert list((store.root / "scratch").iterdir()) == []
    assert (store.partial("k1") / "checkpoint").exists()
    publish(store)
    assert store.verified("k1")


@pytest.mark.parametrize("text", ["changed", "RESULT"])
def test_an_edited_file_is_named_with_its_cure(store: Store, text: str) -> None:
    publish(store)
    file = store.folder("k1") / "out.txt"
    file.write_text(text)
    os.utime(file, ns=(1, 1))
    with pytest.raises(InputError) as caught:
        store.verified("k1")
    message = str(caught.value)
    assert message.startswith(f"{file}: was changed after it was written")
    assert message.endswith(f"delete the folder {store.folder('k1')} and run again")
    assert "\n" not in message


def test_a_missing_file_or_artifact_is_named(store: Store) -> None:
    publish(store)
    (store.folder("k1") / "out.txt").unlink()
    with pytest.raises(InputError, match=r"out\.txt: is gone; delete the folder"):
        store.verified("k1")
    with pytest.raises(InputError, match="no such artifact"):
        store.verified("k2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "cannot be read as a record"),
        ('{"key": 1}', "cannot be read as a record"),
        ("[" * 100_000, "is nested too deep|is not JSON"),
        ('{"key": "k1", "seconds": ' + "9" * 5000 + "}", "is not JSON"),
        ('{"key": "other"}', "is of another artifact, other"),
        ('{"key": "k1"}', "no readable list"),
    ],
    ids=range(7),
)
def test_a_broken_record_is_named(store: Store, text: str, message: str) -> None:
    publish(store)
    (store.folder("k1") / RECORD).write_text(text)
    with pytest.raises(InputError, match=message):
        store.verified("k1")


def test_a_changed_record_is_named(store: Store) -> None:
    publish(store)
    file = store.folder("k1") / RECORD
    text = file.read_text()
    file.write_text(text.replace("a job", "another"))
    with pytest.raises(InputError, match=r"artifact\.json: was changed after it was written .*; delete the folder"):
        store.record("k1")
    record = json.loads(text)
    del record["checksum"]  # as records were written until 0.1
    file.write_text(json.dumps(record))
    assert store.verified("k1") and store.record("k1")["label"] == "a job"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"run": "r"}', '{"run": "r", "message": 1, "exit_code": "x"}', "[" * 9999]
)
def test_a_torn_note_of_a_failure_is_none(store: Store, text: str) -> None:
    (store.partial("k1")).mkdir()
    store.note_failure("k1", "r", "what a pity", 1)
    assert store.failure("k1", "r") == ("what a pity", 1)
    (store.partial("k1") / "failed.json").write_text(text)
    assert store.failure("k1", "r") is None


def test_a_link_in_a_locks_place_makes_no_file_elsewhere(store: Store, tmp_path: Path) -> None:
    (store.root / "locks" / "k1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"locks/k1: a link is where .*; delete it"), store.lock("k1"):
        pass
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", [LOG, PROGRESS])
def test_what_is_no_file_of_a_jobs_own_goes(store: Store, tmp_path: Path, name: str) -> None:
    store.partial("k1").mkdir()
    os.mkfifo(store.partial("k1") / name)
    with store.lock("k1"), store.scratch("k1"):
        assert not (store.partial("k1") / name).exists()
    (tmp_path / "mine").write_text("mine")
    (store.partial("k1") / name).symlink_to(tmp_path / "mine")
    with store.lock("k1"), store.scratch("k1"):
        assert not (store.partial("k1") / name).is_symlink()
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_limit_on_files_is_told_with_its_cure(store: Store) -> None:
    for error in (OSError(errno.EFBIG, "File too large", "x"), ValueError("I/O error: File too large (os error 27)")):
        told = store.explain(error)
        assert told is not None and "raise `ulimit -f`" in str(told)


def test_a_file_is_hashed_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(store)
    monkeypatch.setattr("hashlib.file_digest", None)
    assert store.verified("k1")  # known since it was written


def test_a_lock_is_held_once_and_freed(store: Store) -> None:
    with store.lock("k") as mine:
        assert mine
        with store.lock("k") as other:
            assert not other
        with store.lock("k") as other:
            assert not other
    with store.lock("k") as mine:
        assert mine


def test_leftovers_of_the_dead_are_swept_and_those_of_the_living_kept(store: Store) -> None:
    publish(store)
    for name in ("dead", "alive"):
        (store.root / "scratch" / name).mkdir()
        (store.root / "scratch" / name / "half").touch()
    store.partial("k1").mkdir()  # killed between publishing and cleaning
    store.partial("unfinished").mkdir()
    with store.lock("alive"):
        store.prepare()
    assert [folder.name for folder in (store.root / "scratch").iterdir()] == ["alive"]
    assert [folder.name for folder in (store.root / "partial").iterdir()] == ["unfinished"]


def test_a_file_in_the_place_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(InputError, match="a file is where the store needs a folder"):
        Store(tmp_path / "runs").prepare()


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    """In a child without root's rights, since root may write anywhere."""
    tmp_path.chmod(0o555)
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            Store(tmp_path / "runs").prepare()
            os.write(writer, b"no error")
        except InputError as error:
            os.write(writer, str(error).encode())
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        message = pipe.read()
    tmp_path.chmod(0o755)
    assert re.search(
        r"cannot be written \(Permission denied(: it belongs to \w+)?\); change its permissions, or", message
    )


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.ENOLCK])
def test_errors_of_the_file_system_are_explained(store: Store, number: int) -> None:
    told = store.explain(OSError(number, os.strerror(number), str(store.root / "scratch" / "k")))
    assert told is not None
    assert told.exit_code == 2
    assert "--store" in str(told)


def test_errors_about_something_else_are_not_explained(store: Store, tmp_path: Path) -> None:
    assert store.explain(PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "image.jpg"))) is None
    assert store.explain(ValueError("no")) is None
    assert store.explain(RuntimeError("I/O error: No space left on device (os error 28)")) is not None


def test_jobs_have_the_key_of_their_settings_and_inputs(tmp_path: Path) -> None:
    first = Echo(name="a")
    assert first.key == Echo(name="a").key != Echo(name="b").key
    assert Echo(name="b", after=first).form["inputs"] == {"after": first.key}
    assert json.loads(json.dumps(first.form)) == first.form


def test_what_a_run_reports_on_is_looked_at_cheaply(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(store)
    monkeypatch.setattr("benchsuite.engine.store._digest", lambda path: pytest.fail(f"{path} was hashed"))
    assert store.verified("k1", quickly=True)
    monkeypatch.undo()
    file = store.folder("k1") / "out.txt"
    file.write_text("RESULT")  # as long, later
    with pytest.raises(InputError, match="its hash differs"):
        store.verified("k1", quickly=True)
    file.write_text("result")  # as it was, later
    assert store.verified("k1", quickly=True)


def test_records_without_times_are_still_read(store: Store) -> None:
    publish(store)
    record = json.loads((store.folder("k1") / RECORD).read_text())
    record["files"] = {name: entry[:2] for name, entry in record["files"].items()}
    del record["checksum"]  # younger than the times
    (store.folder("k1") / RECORD).write_text(json.dumps(record))
    assert store.verified("k1", quickly=True)


def test_files_have_the_rights_of_the_umask(store: Store) -> None:
    before = os.umask(0o027)
    try:
        with store.lock("k1"), store.scratch("k1") as folder:
            (folder / "weights").write_text("w")
            (folder / "weights").chmod(0o600)  # as safetensors leaves it
            store.publish("k1", folder, {})
    finally:
        os.umask(before)
    assert (store.folder("k1") / "weights").stat().st_mode & 0o777 == 0o640


def test_a_umask_that_shuts_its_owner_out(store: Store) -> None:
    before = os.umask(0o777)
    try:
        with pytest.raises(InputError, match=r"umask 777: takes your own rights away .*; set it to 022"):
            store.prepare()
    finally:
        os.umask(before)


@pytest.mark.parametrize("place", ["artifacts", "partial", "scratch"])
@pytest.mark.parametrize("thing", ["file", "link", "linked folder", "folder"])
def test_what_lies_in_the_way_of_an_artifact(store: Store, place: str, thing: str, tmp_path: Path) -> None:
    where, kept = store.root / place / "k1", tmp_path / "kept"
    kept.mkdir()
    (kept / "precious").touch()
    match thing:
        case "file":
            where.touch()
        case "link":
            where.symlink_to(tmp_path / "nowhere")
        case "linked folder":
            where.symlink_to(kept)
        case _:
            where.mkdir()
            (where / "deep").mkdir()
    publish(store)
    assert store.verified("k1")
    assert (kept / "precious").exists(), "what a link leads to is not deleted"


def test_a_lock_that_is_no_file(store: Store, tmp_path: Path) -> None:
    (store.root / "locks" / "k1").mkdir()
    (store.root / "locks" / "k2").symlink_to(tmp_path / "none" / "nowhere")
    for key, told in (("k1", "a folder is where"), ("k2", "a link is where")):
        with (
            pytest.raises(InputError, match=rf"locks/{key}: {told} the store needs a file; delete it"),
            store.lock(key),
        ):
            pass
