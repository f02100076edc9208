"""A table from recipe to plot on real files, and what a run says when something is wrong with them."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_cli import bench, told, toy

import benchsuite as bs

TINY = (
    "model.backbone.depth=18", "input.short=96", "input.long=160", "solver.iterations=2", "solver.drops=[1]",
    "post.score_threshold=0.005", "post.per_level=50",
)  # fmt: skip
RUN = ["run", "har-table1", "--rows", "baseline,sa-1-2-5-2-1", *(word for s in TINY for word in ("--set", s))]


@pytest.fixture(autouse=True)
def _one_thread_in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return toy(tmp_path / "toy")


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The lines on failures of a run that exits with 2; none of them a traceback."""
    assert bench(*arguments) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return " ".join((captured.out + captured.err).split())


def test_from_recipe_to_plot_and_back_from_the_store(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [*RUN, "--data", data, "--json"]
    first = told(capsys, *run)
    (files,) = first["files"].values()
    assert [Path(file).name for file in files] == [f"har-table1.smoke.toy.{end}" for end in ("json", "md", "png")]
    results: dict[str, Any] = first["results"]["har-table1"]
    status = {row["id"]: row["status"] for row in results["rows"]}
    assert status == dict.fromkeys(status, "not_run") | {"baseline": "done", "sa-1-2-5-2-1": "done"}
    assert results["data"]["name"].startswith("toy")
    assert results["overrides"] == list(TINY)
    plan = ["plan", *(word for word in run[1:])]
    assert all(job["cached"] for job in told(capsys, *plan)["jobs"])
    assert told(capsys, *run)["results"]["har-table1"]["rows"] == results["rows"]
    assert str(tmp_path) not in Path(files[0]).read_text()

    assert bench("compare", files[0], "--check") == 0
    assert "numbers mean nothing" in capsys.readouterr().out
    assert bench("plot", "har-table1", "--format", "pdf") == 0
    assert (tmp_path / "results" / "har-table1.smoke.toy.pdf").stat().st_size > 1000
    chosen = ["--data", data, *(word for setting in TINY for word in ("--set", setting))]
    assert bench("plot", "detections", "har-table1/baseline", *chosen) == 0
    capsys.readouterr()
    refused = failure(capsys, *run, "--set", "post.per_image=5")
    assert "give this one a name of its own (--name of `bench run`" in refused


def test_a_smoke_run_ends_with_the_table_and_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    own = tmp_path / "own.yaml"
    own.write_text(
        "id: mine\nextends: _har-ablation.yaml\ntable: A\ntitle: Mine\n"
        "columns: [AP, AP_50]\nrows: [{id: baseline}, {id: twin, same_as: baseline}]\n"
        "claims: [{close: twin, to: baseline, within: 1, on: AP}]\n"
    )
    arguments = [own, "--data", data, *(word for setting in TINY for word in ("--set", setting))]
    assert bench("run", *arguments) == 0
    table = capsys.readouterr().out.partition("mine: Mine (Table A)")[2].strip().splitlines()
    assert not any("settled" in line or "Differences" in line for line in table)
    assert "twin" in "".join(table)
    assert table[-2].startswith("note mine: no job left a number 'AP_50' for the column 'AP_50'; did you mean 'AP50'?")
    assert table[-1] == (
        "written: results/mine.smoke.toy.json results/mine.smoke.toy.md results/mine.smoke.toy.png; go on with: "
        f"bench run {own} --tier mini, with --data and --set as here"
    )
    assert bench("compare", "results/mine.smoke.toy.json") == 0
    assert "not settled" in capsys.readouterr().out


def test_every_attention_weight_moves(data: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    plan = bs.make_plan([bs.load_recipe("har-table1")], "smoke", rows=["sa-1-2-5-2-1"], data=data, overrides=TINY)
    bs.run_plan(plan, bs.Store(tmp_path / "runs"), bs.RunOptions(out=tmp_path / "results"))
    (key,) = (key for key, job in plan.jobs.items() if job.kind() == "detection.Train")
    trained = load_file(tmp_path / "runs" / "artifacts" / key / "weights.safetensors")
    torch.manual_seed(0)
    start = plan.rows[0].pipeline.model.build(2).state_dict()  # type: ignore[attr-defined]
    attention = [name for name in start if "spatial" in name]
    assert len(attention) == 5 * 5 * 2
    assert all(not torch.equal(start[name], trained[name]) for name in attention)


def test_python_in_five_lines(data: Path, tmp_path: Path) -> None:
    wide = {"model": {"head": {"spatial": {"channels": 64}}}}
    recipe = bs.load_recipe("har-table1").with_row("wide", like="sa-1-1-1", change=wide)
    plan = bs.make_plan([recipe], "smoke", rows=["baseline", "wide"], data=data, overrides=TINY)
    frame = bs.to_frame(bs.run_plan(plan).results["har-table1"])
    measured = frame.dropna(subset="measured")
    assert set(measured["row"]) == {"baseline", "wide"}
    assert (tmp_path / "results" / "har-table1.smoke.toy.json").is_file()

    # numbers kept from an earlier commit are not shown as this one's
    for file in (tmp_path / "runs" / "artifacts").glob("*/artifact.json"):
        record = json.loads(file.read_text())
        record["environment"]["commit"] = "earlier"
        del record["checksum"]
        file.write_text(json.dumps(record))
    again = bs.run_plan(plan, options=bs.RunOptions(out=tmp_path / "again")).results["har-table1"]
    assert again.environment["commit"] == "earlier"


def test_an_undecodable_image_is_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "train2017" / "2.jpg").write_bytes(b"not a picture")
    told_ = failure(capsys, *RUN, "--data", data)
    assert "2.jpg" in told_
    assert "bench data verify" in told_ or "decode" in told_


def test_a_box_outside_its_image_is_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = data / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"][1]["bbox"] = [500, 500, 10, 10]
    file.write_text(json.dumps(content))
    assert "instances_train2017.json" in failure(capsys, *RUN, "--data", data)


def test_a_truncated_checkpoint_and_an_edited_artifact(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = [*RUN, "--data", data, "--rows", "baseline"]
    jobs = told(capsys, "plan", *run[1:], "--json")["jobs"]
    train = next(job["key"] for job in jobs if job["type"] == "detection.Train")
    checkpoint = Path("runs", "partial", train, "checkpoint.safetensors")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    capsys.readouterr()
    assert bench(*run) == 0
    (note,) = [line for line in capsys.readouterr().err.splitlines() if "checkpoint" in line]
    assert f"{checkpoint}: truncated or not a safetensors file" in note and note.endswith("the training starts again")
    weights = Path("runs", "artifacts", train, "weights.safetensors")
    edited = bytearray(weights.read_bytes())
    edited[-1] ^= 1
    weights.write_bytes(edited)
    capsys.readouterr()
    said = failure(capsys, *run, "--set", "post.per_image=7", "--name", "other")
    assert "weights.safetensors: was changed after it was written" in said
    assert "delete the folder" in said


def test_results_that_cannot_be_written(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("results").write_text("a file in the place of the folder")
    said = failure(capsys, *RUN, "--data", data, "--rows", "baseline")
    assert "results" in said
    assert "--out" in said
    assert not list(Path().rglob("artifact.json")), "told before anything is trained"
    Path("results").unlink()
    assert bench(*RUN, "--data", data, "--rows", "baseline") == 0


def test_a_failing_row_does_not_stop_the_others(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(*RUN, "--data", data, "--set", "solver.lr=1e30", "--set", "solver.clip_norm=null") == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "not finite at iteration" in out
    assert "har-table1/baseline" in out
    assert "har-table1/sa-1-2-5-2-1" in out
