"""`bench pack`, `bench unpack` and `bench score` of an archive: a table counted again without images."""

import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_cases import shaken
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from benchsuite.cli.app import app
from benchsuite.engine.job import Artifact, Context, Job
from benchsuite.engine.store import Store
from benchsuite.errors import InputError
from benchsuite.pipelines.detection import Predict
from benchsuite.recipe.loading import load_recipe
from benchsuite.recipe.recipe import Recipe
from benchsuite.report.saving import save
from benchsuite.settings import content_key
from benchsuite.verbs import again, archive
from benchsuite.verbs.again import count_again
from benchsuite.verbs.capsule import opened, pack, unpack
from benchsuite.verbs.collect import collect
from benchsuite.verbs.plan import Plan, make_plan

ROWS, SEEDS = ("baseline", "sa-1-1-1"), (0, 1)


def finish(job: Job, store: Store, known: dict[str, Artifact]) -> None:
    """Do a job as a worker does, but detect without a network."""
    with store.lock(job.key) as mine, store.scratch(job.key) as folder:
        assert mine
        if isinstance(job, Predict):
            shaken(job.data.open(), job.train.seed + len(job.key)).save(folder / "detections.safetensors")
            (folder / "job.log").write_text("detecting\n")
        else:
            inputs = {name: known[each.key] for name, each in job.inputs.items()}
            job.do(Context(folder, store.partial(job.key), store.cache, inputs))
        record = {"label": job.label, "job": job.form, "inputs": {n: each.key for n, each in job.inputs.items()},
                  "device": "cpu", "threads": 1, "seconds": 1.0, "environment": {"benchsuite": "test"}}  # fmt: skip
        known[job.key] = store.publish(job.key, folder, record)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Recipe, Store]:
    """Two rows under two seeds, detected on generated scenes and scored."""
    recipe = load_recipe("har-table1")
    plan = make_plan([recipe], "smoke", rows=ROWS, seeds=SEEDS, device="cpu")
    store = Store(tmp_path_factory.mktemp("capsule") / "store")
    store.prepare()
    known: dict[str, Artifact] = {}
    for job in plan.jobs.values():
        if job.work != "Train":
            finish(job, store, known)
    return plan, recipe, store


@pytest.fixture(scope="module")
def packed(table: tuple[Plan, Recipe, Store], tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan, recipe, store = table
    file = tmp_path_factory.mktemp("packed") / "har.tar.xz"
    made = pack(plan, recipe, store, file)
    assert made.absent == () and made.bytes == file.stat().st_size < 200_000
    return file


def test_round_trip_to_identical_numbers_in_an_empty_store(
    table: tuple[Plan, Recipe, Store], packed: Path, tmp_path: Path
) -> None:
    plan, recipe, store = table
    there = Store(tmp_path / "there")
    results, new = unpack(packed, there, tmp_path / "results")
    assert json.loads(results.read_text()) == json.loads(
        save(collect(plan, recipe, store), tmp_path / "own").read_text()
    )
    assert {job.key for job in plan.jobs.values() if job.work != "Train"} == set(new)
    assert not any((there.folder(job.key)).exists() for job in plan.jobs.values() if job.work == "Train")
    assert list((there.root / "scratch").iterdir()) == []
    with opened(packed) as held:
        again = list(count_again(held))
    scores = [each for each in again if "AP" in each.numbers]
    assert len(scores) == len(ROWS) * len(SEEDS) and len(again) >= len(scores) + len(plan.differences) > len(scores)
    assert all(each.numbers["AP"] > 5 for each in scores), "some skill, or nothing is shown"
    assert {each.what for each in scores} >= {"baseline score seed 0"} and not any(each.unlike for each in again)
    assert unpack(packed, there, tmp_path / "results")[1] == [], "a second time brings nothing new"


def test_equal_tables_make_equal_archives(table: tuple[Plan, Recipe, Store], packed: Path, tmp_path: Path) -> None:
    plan, recipe, store = table
    pack(plan, recipe, store, tmp_path / "again.tar.xz")
    assert (tmp_path / "again.tar.xz").read_bytes() == packed.read_bytes()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_altered_byte_is_noticed(
    packed: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(packed.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    changed = tmp_path_factory.mktemp("changed") / "har.tar.xz"
    changed.write_bytes(content)
    with pytest.raises(InputError) as caught, opened(changed):
        pass
    assert "\n" not in str(caught.value) and str(changed) in str(caught.value)


def repacked(packed: Path, file: Path, change: Callable[[dict[str, bytes]], None], *more: tarfile.TarInfo) -> Path:
    """The archive with other contents, and with members of odd kinds."""
    with tarfile.open(packed) as old:
        held = {member.name: old.extractfile(member).read() for member in old}  # type: ignore[union-attr]
    change(held)
    with tarfile.open(file, "w:xz", preset=0) as new:
        for name, content in held.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
        for member in more:  # the head alone: what it declares need not be there
            assert new.fileobj is not None
            new.fileobj.write(member.tobuf())
    return file


def unlike(packed: Path, file: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The archive with other contents whose manifest says so: a forgery that hashes do not tell."""

    def forge(held: dict[str, bytes]) -> None:
        change(held)
        form = json.loads(held["capsule/capsule.json"])
        del form["hash"]
        with tarfile.open(packed) as old:
            before = {member.name: old.extractfile(member).read() for member in old}  # type: ignore[union-attr]
        for name, content in held.items():
            if name != "capsule/capsule.json" and content != before.get(name):
                form["files"][name] = [len(content), hashlib.sha256(content).hexdigest()]
        held["capsule/capsule.json"] = json.dumps({"hash": content_key(form), **form}).encode()

    return repacked(packed, file, forge)


def test_a_results_file_that_its_detections_do_not_give(packed: Path, tmp_path: Path) -> None:
    def flatter(held: dict[str, bytes]) -> None:
        form = json.loads(held["capsule/results.json"])
        cell = form["rows"][0]["measured"]["AP"]
        cell["values"] = [value + 1 for value in cell["values"]]
        cell["mean"] += 1
        held["capsule/results.json"] = json.dumps(form).encode()

    with opened(unlike(packed, tmp_path / "forged.tar.xz", flatter)) as held:
        told = [each for each in count_again(held) if each.unlike]
    assert [each.what for each in told] == [f"baseline seed {seed} in the results file" for seed in SEEDS]
    assert all(recorded == pytest.approx(now + 1) for each in told for recorded, now in each.unlike.values())
    result = CliRunner().invoke(app, ["score", str(tmp_path / "forged.tar.xz")])
    assert result.exit_code == 1 and "AP: recorded" in result.output


def results_changed(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes]], None]:
    def forge(held: dict[str, bytes]) -> None:
        form = json.loads(held["capsule/results.json"])
        change(form)
        held["capsule/results.json"] = json.dumps(form).encode()

    return forge


def one_seed_more(form: dict[str, Any]) -> None:
    form["seeds"].append(7)
    for row in form["rows"]:
        for cell in row["measured"].values():
            cell["values"].append(cell["mean"])


def a_row_more(form: dict[str, Any]) -> None:
    form["rows"].append({**form["rows"][0], "id": "invented", "role": "foreign", "published": {}})


@pytest.mark.parametrize(("change", "told"), [
    (one_seed_more, "has no jobs of baseline seed 7"),
    (a_row_more, "has no jobs of invented seed 0"),
    (lambda form: form.update(tier="paper"), "is of har-table1 paper"),
])  # fmt: skip
def test_results_that_nothing_backs(
    packed: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], told: str
) -> None:
    forged = unlike(packed, tmp_path / "forged.tar.xz", results_changed(change))
    with pytest.raises(InputError, match=told), opened(forged) as held:
        list(count_again(held))


def test_intervals_of_claims_are_counted_again(packed: Path, tmp_path: Path) -> None:
    def wider(form: dict[str, Any]) -> None:
        claim = next(each for each in form["claims"] if each["images"])
        claim["images"][0]["low"] -= 1
        claim["images_together"]["high"] += 1

    with opened(unlike(packed, tmp_path / "forged.tar.xz", results_changed(wider))) as held:
        (told,) = [each for each in count_again(held) if each.unlike]
    assert told.what == "the claim that sa-1-1-1 beats baseline on AP"
    assert set(told.unlike) == {"over images, seed 0", "over images, all seeds"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda held: held.update({"capsule/results.json": held["capsule/results.json"] + b" "}),
            "results.json was ch",
        ),
        (lambda held: held.pop("capsule/results.json"), "results.json is missing"),
        (lambda held: held.pop("capsule/capsule.json"), "capsule.json was changed or is missing"),
        (lambda held: held.update({"capsule/more": b""}), "capsule/more was added"),
        (lambda held: [held.pop(name) for name in list(held) if name.startswith("capsule/")], "is no capsule"),
        (lambda held: held.update({"capsule/capsule.json": b"[]"}), "capsule.json was changed or is missing"),
    ],
)
def test_what_was_changed_is_named(
    packed: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], None], told: str
) -> None:
    with pytest.raises(InputError, match=told), opened(repacked(packed, tmp_path / "bad.tar.xz", change)):
        pass


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname = kind, size, "/etc/passwd"
    return made


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        (member("../out"), "no file below a job's key"),
        (member("/tmp/out"), "no file below a job's key"),
        (member("abc/../../out"), "no file below a job's key"),
        (member("capsule/link", tarfile.SYMTYPE), "no file below a job's key"),
        (member("capsule/link", tarfile.LNKTYPE), "no file below a job's key"),
        (member("capsule/pipe", tarfile.FIFOTYPE), "no file below a job's key"),
        (member("capsule/disk", tarfile.BLKTYPE), "no file below a job's key"),
        (member("capsule/null", tarfile.CHRTYPE), "no file below a job's key"),
        (member("capsule/results.json"), "twice"),
        (member("capsule/bomb", size=5 << 30), r"would unpack to 5\.0 GiB or more"),
    ],
)
def test_what_leads_out_links_devices_and_bombs_are_refused(
    packed: Path, tmp_path: Path, odd: tarfile.TarInfo, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = repacked(packed, tmp_path / "bad.tar.xz", lambda held: None, odd)
    monkeypatch.setattr(archive.Archive, "extract", lambda *args: pytest.fail("unpacked before it was refused"))
    result = CliRunner().invoke(app, ["unpack", str(bad), "--store", str(tmp_path / "s"), "--out", str(tmp_path / "o")])
    assert isinstance(result.exception, InputError)
    assert str(result.exception).count("\n") == 0 and pytest.raises(InputError, match=told)
    with pytest.raises(InputError, match=told), opened(bad):
        pass
    assert not (tmp_path / "o").exists()


def test_a_head_that_declares_gigabytes_is_not_read(tmp_path: Path) -> None:
    """Of a name: `tarfile` would read all of it into memory."""
    head = tarfile.TarInfo("abc/long")
    head.type, head.size = tarfile.GNUTYPE_LONGNAME, 8 << 30
    first = tarfile.TarInfo("abc/out.txt").tobuf()
    (tmp_path / "bad.tar").write_bytes(first + head.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(InputError, match="a head of 8589934592 bytes"), archive.reading(tmp_path / "bad.tar"):
        pass


@pytest.mark.parametrize("cut", [0.3, 0.8])
def test_a_cut_off_archive_is_one_line(packed: Path, tmp_path: Path, cut: float) -> None:
    for name, content in (("a.tar.xz", packed.read_bytes()), ("a.tar", lzma.decompress(packed.read_bytes()))):
        (tmp_path / name).write_bytes(content[: int(len(content) * cut) // 512 * 512])
        with pytest.raises(InputError) as caught, opened(tmp_path / name):
            pass
        assert "\n" not in str(caught.value)


def test_a_damaged_head_is_not_taken_for_the_end(packed: Path, tmp_path: Path) -> None:
    content = bytearray(lzma.decompress(packed.read_bytes()))
    at = content.index(b"capsule/results.json")
    content[at] ^= 1
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(InputError, match="damaged"), opened(tmp_path / "a.tar"):
        pass


@pytest.mark.parametrize("text", ["{}", '{"schema": 1}', "[]", "nothing", '{"schema": 99}', '{"schema": 1, "rows": 3}'])
def test_results_that_are_none_are_one_line(packed: Path, tmp_path: Path, text: str) -> None:
    bad = unlike(packed, tmp_path / "bad.tar.xz", lambda held: held.update({"capsule/results.json": text.encode()}))
    with pytest.raises(InputError) as caught, opened(bad):
        pass
    assert str(caught.value).startswith(f"{bad}: results.json") and "\n" not in str(caught.value)


def tampered(content: bytes, change: Callable[[dict[str, np.ndarray]], object], folder: Path) -> bytes:
    file = folder / "columns.safetensors"
    file.write_bytes(content)
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as held:
        words = held.metadata()
    columns = load_file(file)
    change(columns)
    save_file(columns, file, metadata=words)
    return file.read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda columns: columns.pop("boxes"),
        lambda columns: columns.update(boxes=columns["boxes"][:-1]),
        lambda columns: columns.update(labels=columns["labels"] + 99),
        lambda columns: columns.update(offsets=columns["offsets"][::-1].copy()),
        lambda columns: columns.update(boxes=columns["boxes"] * np.nan),
        lambda columns: columns.update(image_ids=columns["image_ids"].astype(np.float32)),
        lambda columns: columns.update(image_ids=np.array(3)),
        lambda columns: columns.update(mask_bytes=np.zeros(3, np.uint8)),
    ],
)
def test_truth_that_is_none_is_one_line(
    packed: Path, tmp_path: Path, change: Callable[[dict[str, np.ndarray]], object]
) -> None:
    def spoil(held: dict[str, bytes]) -> None:
        name = "capsule/truth-0.safetensors"
        held[name] = tampered(held[name], change, tmp_path)

    with opened(unlike(packed, tmp_path / "bad.tar.xz", spoil)) as held, pytest.raises(InputError) as caught:
        list(count_again(held))
    assert "\n" not in str(caught.value)


def test_no_module_is_imported_because_a_capsule_names_it(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(again, "find", lambda slot, kind: pytest.fail(f"{kind} was looked up"))

    def name_another(held: dict[str, bytes]) -> None:
        for name in [each for each in held if each.endswith("/artifact.json")]:
            record = json.loads(held[name])
            record["job"]["kind"] = "mypkg.evil:Score"
            record["checksum"] = content_key({each: value for each, value in record.items() if each != "checksum"})
            held[name] = json.dumps(record).encode()

    with opened(unlike(packed, tmp_path / "evil.tar.xz", name_another)) as held:
        assert [each for each in count_again(held) if each.key] == []


def test_commands(table: tuple[Plan, Recipe, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, recipe, store = table
    monkeypatch.chdir(tmp_path)
    save(collect(plan, recipe, store), tmp_path / "results")  # which says what seeds there are
    run = CliRunner()
    result = run.invoke(app, ["pack", "har-table1", "--rows", ",".join(ROWS), "--store", str(store.root), "--json",
                              "--device", "cpu"])  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["file"] == "har-table1.smoke.tar.xz"
    result = run.invoke(app, ["unpack", "har-table1.smoke.tar.xz", "--store", "there", "--out", "there/results"])
    assert result.exit_code == 0 and (tmp_path / "there" / "results" / "har-table1.smoke.json").is_file()
    result = run.invoke(app, ["score", "har-table1.smoke.tar.xz"])
    assert result.exit_code == 0 and "none unlike" in result.output
    result = run.invoke(app, ["pack", "har-table2", "--store", str(store.root), "--rows", "baseline"])
    assert "holds nothing of it" in str(result.exception) or result.exit_code == 0  # Tables I and II share a baseline


def test_what_the_store_lacks_is_left_out_and_told(table: tuple[Plan, Recipe, Store], tmp_path: Path) -> None:
    recipe, store = table[1], table[2]
    plan = make_plan([recipe], "smoke", rows=ROWS, seeds=(0, 7), device="cpu")
    made = pack(plan, recipe, store, tmp_path / "part.tar.xz")
    assert made.absent == tuple(f"{row} seed 7" for row in ROWS)
    nothing = make_plan([recipe], "smoke", rows=ROWS, seeds=(7,), device="cpu")
    with pytest.raises(InputError, match=r"holds nothing of it at tier smoke .*; first: bench run har-table1"):
        pack(nothing, recipe, store, tmp_path / "none.tar.xz")
    assert not (tmp_path / "none.tar.xz").exists()


def test_an_archive_is_named_by_what_it_is(table: tuple[Plan, Recipe, Store], tmp_path: Path) -> None:
    plan, recipe, store = table
    with pytest.raises(InputError, match=r"har\.zip: is no name of an archive; end it in \.tar, "):
        pack(plan, recipe, store, tmp_path / "har.zip")
    (tmp_path / "har.tar.xz").write_text("{}")
    with pytest.raises(InputError, match="it is no tar"), opened(tmp_path / "har.tar.xz"):
        pass
