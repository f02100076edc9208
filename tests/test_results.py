"""Results files: schema, versions, merging, atomic writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchsuite.errors import InputError
from benchsuite.report.results import (
    ClaimRecord,
    DataRecord,
    ImageInterval,
    ImagesTogether,
    Measured,
    Results,
    RowRecord,
    load,
    to_frame,
)
from benchsuite.report.saving import merged, save, unlike

STORED = Path(__file__).parent / "fixtures" / "results" / "har-table1.mini.schema1.json"


@pytest.fixture
def stored() -> Results:
    return load(STORED)


def only(results: Results, row_id: str, seeds: tuple[int, ...]) -> Results:
    """What a run of one row with those seeds would give: values 10 + seed."""
    rows = [
        row.model_copy(update={"measured": {"AP": Measured.of([10.0 + seed for seed in seeds])}, "status": "done"})
        if row.id == row_id
        else row.model_copy(update={"measured": {}, "keys": (), "status": "not_run" if row.role == "run" else "quoted"})
        for row in results.rows
    ]
    return results.model_copy(update={"rows": tuple(rows), "seeds": seeds})


def test_schema_one_stays_readable(stored: Results) -> None:
    assert stored.schema_version == 1
    assert stored.row("baseline").published["AP"] == 35.1
    assert stored.values("sa-5-2-1", "AP").keys() == {0}
    assert stored.values("sa-1-2-5", "AP") == {}


def test_file_has_the_documented_keys(stored: Results, tmp_path: Path) -> None:
    content = json.loads(save(stored, tmp_path).read_text())
    documented = {"schema", "recipe", "tier", "data", "protocol", "overrides", "seeds", "rows", "claims", "environment"}
    assert documented <= content.keys()
    assert {"name", "fingerprint"} <= content["data"].keys()
    row = content["rows"][0]
    assert {"id", "role", "status", "published", "measured", "keys", "device"} <= row.keys()
    assert set(row["measured"]["AP"]) == {"mean", "values"}


def test_saved_and_loaded_are_equal(stored: Results, tmp_path: Path) -> None:
    assert load(save(stored, tmp_path)) == stored


@pytest.mark.parametrize(
    ("name", "expected"), [(None, "har-table1.mini.json"), ("my data", "har-table1.mini.my-data.json")]
)
def test_file_names(stored: Results, tmp_path: Path, name: str | None, expected: str) -> None:
    assert save(stored, tmp_path, name).name == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, ["schema 2", "up to 1", "upgrade benchsuite"]),
        ({"schema": "one"}, ["no `schema` number"]),
        ({"tier": "huge"}, ["tier", "'smoke', 'mini' or 'paper'"]),
        ({"seeds": [0]}, ["3 values for 1 seeds"]),
        ({"extra": 1}, ["extra"]),
        ({"rows": None}, ["rows"]),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, change: dict[str, object], words: list[str]) -> None:
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(json.loads(STORED.read_text()) | change))
    with pytest.raises(InputError) as error:
        load(file)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(str(file))
    for word in words:
        assert word in message


@pytest.mark.parametrize("text", ["", "{", "[]", "NaN"])
def test_not_json_is_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"bad\.json") as error:
        load(file)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        load(tmp_path / "none.json")


def test_a_mean_edited_by_hand_is_refused(tmp_path: Path) -> None:
    content = json.loads(STORED.read_text())
    content["rows"][0]["measured"]["AP"]["mean"] = 99.0
    file = tmp_path / "edited.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"rows\.0\.measured\.AP.*mean is 99"):
        load(file)


def test_no_number_is_nan() -> None:
    with pytest.raises(ValueError, match="finite"):
        Measured.of([float("nan")])
    with pytest.raises(ValueError, match="is no measurement"):
        Measured.of([1e200, 2.0])


def test_unlike_settings_are_never_overwritten(stored: Results, tmp_path: Path) -> None:
    file = save(stored, tmp_path)
    before = file.read_bytes()
    other = stored.model_copy(update={"overrides": ("solver.lr=0.1",)})
    with pytest.raises(InputError, match=r"--name.*--force") as error:
        save(other, tmp_path)
    assert "overrides" in str(error.value)
    assert file.read_bytes() == before
    assert load(save(other, tmp_path, force=True)).overrides == ("solver.lr=0.1",)


@pytest.mark.parametrize("change", [
    {"recipe": "x"}, {"tier": "paper"}, {"protocol": "voc07"}, {"overrides": ("a=1",)},
    {"data": DataRecord(name="generated val (1000 images)", fingerprint="other")},
])  # fmt: skip
def test_unlike_looks_at_explicit_fields(stored: Results, change: dict[str, object]) -> None:
    assert unlike(stored, stored) == ""
    assert unlike(stored, stored.model_copy(update=change)) != ""
    renamed = stored.data.model_copy(update={"name": "the same in another folder"})
    assert unlike(stored, stored.model_copy(update={"data": renamed})) == ""


def test_a_run_of_one_row_keeps_the_others(stored: Results, tmp_path: Path) -> None:
    save(stored, tmp_path)
    after = load(save(only(stored, "sa-1-2-5", (0, 1, 2)), tmp_path))
    assert after.values("baseline", "AP") == stored.values("baseline", "AP")
    assert after.values("sa-1-2-5", "AP") == {0: 10.0, 1: 11.0, 2: 12.0}
    assert after.row("sa-1-2-5").status == "done"
    assert after.row("baseline").keys == stored.row("baseline").keys
    assert after.row("elsewhere").status == "quoted"


def test_seeds_are_united(stored: Results) -> None:
    after = merged(stored, only(stored, "baseline", (2, 3)))
    assert after.seeds == (0, 1, 2, 3)
    old = stored.values("baseline", "AP")
    assert after.values("baseline", "AP") == {0: old[0], 1: old[1], 2: 12.0, 3: 13.0}
    assert after.row("baseline").status == "done"
    assert after.row("sa-1-1-1").status == "partial"


def test_values_of_changed_settings_are_dropped(stored: Results) -> None:
    new = only(stored, "baseline", (3,))
    rows = tuple(row.model_copy(update={"settings": "changed"}) if row.id == "baseline" else row for row in new.rows)
    after = merged(stored, new.model_copy(update={"rows": rows}))
    assert after.values("baseline", "AP") == {3: 13.0}
    assert after.values("baseline", "AP50") == {}
    assert set(after.values("sa-1-1-1", "AP")) == {0, 1, 2}


def test_merging_twice_changes_nothing(stored: Results) -> None:
    once = merged(stored, only(stored, "baseline", (3,)))
    assert merged(once, only(stored, "baseline", (3,))) == once
    assert merged(stored, stored) == stored


def test_a_failure_is_remembered_by_a_run_of_other_rows(stored: Results) -> None:
    failed = stored.row("sa-1-2-5").model_copy(update={"status": "failed", "reason": "loss is NaN"})
    earlier = stored.model_copy(update={"rows": tuple(failed if r.id == failed.id else r for r in stored.rows)})
    row = merged(earlier, only(stored, "baseline", (0,)).model_copy()).row("sa-1-2-5")
    assert row.status == "failed"


def test_environments_of_kept_cells_are_kept(stored: Results) -> None:
    new = only(stored, "baseline", (3,)).model_copy(update={"environment": {"commit": "new"}})
    after = merged(stored, new)
    assert after.environment == {"commit": "new"}
    assert after.earlier == (stored.environment,)


def test_image_intervals_are_united(stored: Results) -> None:
    claim = stored.claims[0].model_copy(update={"images": (ImageInterval(seed=3, difference=1, low=0, high=2),)})
    new = only(stored, "baseline", (3,)).model_copy(update={"claims": (claim, *stored.claims[1:])})
    assert [image.seed for image in merged(stored, new).claims[0].images] == [0, 3]


def test_the_interval_over_images_of_most_seeds_is_kept(stored: Results) -> None:
    """It is of the mean over some seeds, and cannot be put together from those of others."""
    three, one = (ImagesTogether(seeds=seeds, low=0, high=2) for seeds in ((0, 1, 2), (3,)))
    found = []
    for before, after in ((three, one), (one, three), (three, None)):
        runs = [
            stored.model_copy(
                update={"claims": tuple(c.model_copy(update={"images_together": it}) for c in stored.claims)}
            )
            for it in (before, after)
        ]
        found.append(merged(runs[0], only(runs[1], "baseline", (0,))).claims[0].images_together)
    assert found == [three, three, three]


def test_no_absolute_path_is_written(stored: Results, tmp_path: Path) -> None:
    secret = stored.model_copy(update={
        "overrides": ("data.root=/home/somebody/coco", "x=1/2"),
        "environment": {"note": ["see /srv/private/log.txt, ~/runs/a/b or https://example.org/a/b"]},
    })  # fmt: skip
    text = save(secret, tmp_path).read_text()
    assert "/home" not in text and "/srv" not in text and "~/" not in text
    assert "data.root=…/coco" in text and "x=1/2" in text and "https://example.org/a/b" in text
    save(secret, tmp_path)  # the cleaned overrides are the same settings


def test_a_folder_that_cannot_be_written_is_one_line(stored: Results, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match="cannot be written") as error:
        save(stored, file / "results")
    assert "\n" not in str(error.value)


def test_a_full_disk_leaves_the_old_file(stored: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save(stored, tmp_path)
    before = file.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        save(stored, tmp_path)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_frame_has_a_line_per_row_column_and_seed(stored: Results) -> None:
    frame = to_frame(stored)
    assert len(frame) == len(stored.rows) * len(stored.columns) * len(stored.seeds)
    one = frame.query("row == 'baseline' and column == 'AP' and seed == 1").iloc[0]
    assert one.measured == stored.values("baseline", "AP")[1]
    assert one.published == 35.1
    assert frame.query("row == 'elsewhere'").measured.isna().all()


def test_reports_load_neither_torch_nor_matplotlib_nor_pandas() -> None:
    code = (
        "import sys, benchsuite.report.figures, benchsuite.report.tables\n"
        "benchsuite.report.figures.available()\n"
        "assert not {'torch', 'matplotlib', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_a_claim_about_an_unknown_row_is_refused(stored: Results) -> None:
    claim = ClaimRecord(better="nobody", than="baseline", on="AP")
    with pytest.raises(ValueError, match="nobody"):
        Results.model_validate({**dict(stored), "claims": [claim]})


def test_only_one_run_at_a_time_merges_into_a_file(tmp_path: Path) -> None:
    """Each of several processes adds its own seed; all are there afterwards."""
    code = (
        "import sys; from pathlib import Path; from benchsuite.report.results import Measured, load\n"
        "from benchsuite.report.saving import save\n"
        f"stored, seed = load(Path({str(STORED)!r})), int(sys.argv[1])\n"
        "row = stored.row('baseline').model_copy(update={'measured': {'AP': Measured.of([float(seed)])}})\n"
        "rows = tuple(row if each.id == row.id else each.model_copy(update={'measured': {}}) for each in stored.rows)\n"
        "for _ in range(20):\n"
        "    save(stored.model_copy(update={'rows': rows, 'seeds': (seed,), 'claims': ()}), Path(sys.argv[2]))\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(seed), str(tmp_path)]) for seed in range(4)]
    assert [each.wait() for each in running] == [0] * 4
    (file,) = tmp_path.iterdir()
    assert load(file).values("baseline", "AP") == {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0}


def test_a_column_that_the_recipe_lost_goes(stored: Results) -> None:
    def only(row: RowRecord) -> RowRecord:
        cells = {
            name: {"AP": each["AP"]} if "AP" in (each := getattr(row, name)) else {}
            for name in ("measured", "published")
        }
        return row.model_copy(update=cells)

    rows = tuple(map(only, stored.rows))
    fewer = stored.model_copy(update={"columns": stored.columns[:1], "claims": (), "rows": rows})
    found = merged(stored, fewer)
    assert all(set(row.measured) <= {"AP"} for row in found.rows) and found.seeds == stored.seeds
