import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from benchsuite.errors import InputError, MissingData
from benchsuite.pipelines.detection import Time
from benchsuite.recipe.loading import load, select
from benchsuite.recipe.recipe import Column, Recipe
from benchsuite.recipe.shelf import available, folder
from benchsuite.verbs.plan import Plan, PlannedRow, make_plan, require_all, unreached

GOLDEN = Path(__file__).parent / "fixtures" / "golden_keys.json"


def trains(plan: Plan) -> set[str]:
    return {key for key, job in plan.jobs.items() if job.kind() == "detection.Train"}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.chdir(tmp_path)  # no ./data or ./datasets of the machine
    return select(["har-table1"])[0]


def test_jobs_come_after_their_inputs_and_once(recipe: Recipe) -> None:
    plan = make_plan([recipe, recipe], "paper", seeds=[0, 1])
    kinds = [job.kind() for job in plan.jobs.values()]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "detection.Train": 10, "detection.Predict": 10, "detection.Score": 10,
        "detection.Resample": 14, "steps.Difference": 12,
    }  # fmt: skip
    seen: set[str] = set()
    for key, job in plan.jobs.items():
        assert {needed.key for needed in job.inputs.values()} <= seen
        seen.add(key)


def test_a_score_threshold_replans_no_training(recipe: Recipe) -> None:
    before, after = make_plan([recipe], "paper"), make_plan([recipe], "paper", overrides=["post.score_threshold=0.1"])
    assert trains(before) == trains(after)
    assert not {key for key, job in before.jobs.items() if job.kind() == "detection.Predict"} & set(after.jobs)


def test_a_learning_rate_replans_one_training(tmp_path: Path, recipe: Recipe) -> None:
    shutil.copytree(folder(), tmp_path / "recipes")
    file = tmp_path / "recipes" / "har-table1.yaml"
    text = file.read_text().replace("label: SA(1-1-1)\n", "label: SA(1-1-1)\n    solver: {lr: 0.1}\n")
    file.write_text(text)
    assert len(trains(make_plan([recipe], "paper")) - trains(make_plan([load(file)], "paper"))) == 1


def test_a_moved_recipe_replans_nothing(tmp_path: Path, recipe: Recipe) -> None:
    shutil.copytree(folder(), tmp_path / "elsewhere")
    moved = load(tmp_path / "elsewhere" / "har-table1.yaml")
    for tier in ("smoke", "mini", "paper"):
        assert set(make_plan([recipe], tier).jobs) == set(make_plan([moved], tier).jobs)


def test_a_metric_rescores_saved_detections(recipe: Recipe) -> None:
    before = make_plan([recipe], "paper")
    after = make_plan([recipe], "paper", overrides=["metric.evaluator=pycocotools"])
    changed = {job.kind() for key, job in after.jobs.items() if key not in before.jobs}
    assert changed == {"detection.Score", "detection.Resample", "steps.Difference"}


@pytest.mark.parametrize(("number", "kind"), [("fps", "detection.Time"), ("anchors", "detection.DetectorCost")])
def test_a_column_asks_for_the_job_that_measures_it(recipe: Recipe, number: str, kind: str) -> None:
    plain = make_plan([recipe], "paper")
    assert not {"detection.Time", "detection.DetectorCost"} & {job.kind() for job in plain.jobs.values()}
    column = Column(id="told", measures=number)
    asked = make_plan([recipe.model_copy(update={"columns": (*recipe.columns, column)})], "paper")
    assert {job.kind() for key, job in asked.jobs.items() if key not in plain.jobs} == {kind}
    assert len(asked.jobs) == len(plain.jobs) + 5


def test_timings_are_planned_for_the_device_they_run_on(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever $BENCH_DEVICE says: a plan knows its device, and so do its timings."""
    monkeypatch.setenv("BENCH_DEVICE", "cuda")
    monkeypatch.setattr("benchsuite.verbs.plan.device_name", lambda device: f"the name of {device}")
    timed = recipe.model_copy(update={"columns": (Column(id="latency_ms"),), "claims": ()})
    keys = []
    for device in ("cpu", "cuda:1"):
        plan = make_plan([timed], "smoke", rows=["baseline"], device=device)
        (time,) = (job for job in plan.jobs.values() if isinstance(job, Time))
        assert (plan.device, time.device) == (device, f"the name of {device}")
        keys.append(time.key)
    assert keys[0] != keys[1]
    elsewhere = make_plan([timed], "smoke", rows=["baseline"], device="cpu", timed_on="the name of cuda:1")
    assert [job.key for job in elsewhere.jobs.values() if isinstance(job, Time)] == keys[1:]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("metric: {kind: voc.Voc}", "are of unlike protocol (coco and voc07)"),
        (
            "data: {val: {split: train2017}}",
            "are of unlike val (coco val2017, absent and coco train2017, absent)",
        ),
        ("data: {train_limit: 9}", "are of unlike train (coco train2017, absent and coco train2017 (≤ 9 images)"),
    ],
)
def test_rows_of_other_data_or_rules_are_refused(tmp_path: Path, recipe: Recipe, change: str, told: str) -> None:
    shutil.copytree(folder(), tmp_path / "recipes")
    file = tmp_path / "recipes" / "har-table1.yaml"
    file.write_text(file.read_text().replace("label: SA(1-1-1)\n", f"label: SA(1-1-1)\n    {change}\n"))
    with pytest.raises(InputError) as raised:
        make_plan([load(file)], "paper")
    assert f"har-table1: rows 'baseline' and 'sa-1-1-1' {told}" in str(raised.value) and "\n" not in str(raised.value)
    make_plan([load(file)], "paper", rows=["sa-1-1-1"])


@pytest.mark.parametrize("recipe_id", available())
def test_golden_keys(recipe_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed default shows here. If the change is meant: raise the settings class's `version` where behaviour
    changed under equal settings, and write the keys anew with `python tests/test_plan.py`."""
    monkeypatch.chdir(tmp_path)
    assert golden(recipe_id) == json.loads(GOLDEN.read_text())[recipe_id]


@patch(
    "benchsuite.verbs.plan.device_name", lambda device: "a device"
)  # a timing's key names it: the same one everywhere
def golden(recipe_id: str) -> dict[str, dict[str, str]]:
    recipe = select([recipe_id])[0]
    return {
        tier: {
            f"{planned.row.id} {name}": job.key
            for planned in make_plan([recipe], tier, seeds=[0]).rows
            for name, job in planned.jobs[0].items()
        }
        for tier in recipe.tiers
    }


def test_rows_of_one_training_say_so() -> None:
    rows = {each.row.id: each.trained for each in make_plan(select(["har-table5"]), "smoke", seeds=[3]).rows}
    assert (
        rows["resnet-101-ha"] == rows["resnet-101-ha-ms"] != rows["se-resnext-101-ha"] == rows["se-resnext-101-ha-ms"]
    )
    plain = make_plan(select(["har-table1"]), "smoke").rows
    assert len({each.trained for each in plain}) == len(plain)
    with patch.object(PlannedRow, "last", lambda planned, seed: {}):
        untrained = {each.trained for each in (replace(row) for row in plain)}
    assert untrained == {""}, "rows without trainings have none in common"


def test_rows_are_chosen_and_unknown_ones_offered(recipe: Recipe) -> None:
    assert [row.id for row in make_plan([recipe], "smoke", rows=["baseline"]).rows] == ["har-table1/baseline"]
    with pytest.raises(InputError, match="no row 'base'; did you mean 'baseline'"):
        make_plan([recipe], "smoke", rows=["base"])
    with pytest.raises(InputError, match="no tier 'smoky'; did you mean 'smoke'"):
        make_plan([recipe], "smoky")


def test_equal_rows_are_refused_unless_said_to_be_one(tmp_path: Path, recipe: Recipe) -> None:
    shutil.copytree(folder(), tmp_path / "recipes")
    file = tmp_path / "recipes" / "har-table1.yaml"
    text = file.read_text()
    file.write_text(
        text.replace("claims:", "  - {id: again}\nclaims:", 1).replace("# Section V-A, in the text's order.\n", "")
    )
    with pytest.raises(InputError, match=r"rows 'baseline' and 'again' come out equal"):
        make_plan([load(file)], "paper")
    file.write_text(file.read_text().replace("{id: again}", "{id: again, same_as: baseline}"))
    assert len(trains(make_plan([load(file)], "paper"))) == 5


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("solver.lrr=1", "--set solver.lrr=1: unknown key `solver.lrr`; did you mean 'lr'?"),
        ("model.head.spatial={dilations: [0, 1], channels: 3}", "`model.head.spatial.dilations.0` is 0"),
        (
            "model.head.kind=harnet.Heads",
            "--set model.head.kind=harnet.Heads: `model.head.kind` is 'harnet.Heads': unknown kind 'harnet.Heads'; did "
            "you mean 'harnet.Head'?",
        ),
        ("kind=detection.Detector", "--set kind=detection.Detector: `kind` is 'detection.Detector': unknown kind"),
        ("model.backbone.depht=18", "unknown key `model.backbone.depht`; did you mean 'depth'?"),
        ("solver.lr=fast", "`solver.lr` is 'fast'"),
        ("model.backbone.weights=IMAGENET1K_V9", "unknown weights 'IMAGENET1K_V9'"),
    ],
)
def test_settings_mistakes_name_where_they_were_written(recipe: Recipe, override: str, told: str) -> None:
    with pytest.raises(InputError) as raised:
        make_plan([recipe], "paper", overrides=[override])
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_recipes_mistake_names_file_and_line(tmp_path: Path) -> None:
    shutil.copytree(folder(), tmp_path / "recipes")
    file = tmp_path / "recipes" / "har-table1.yaml"
    file.write_text(file.read_text().replace("channels: 16", "chanels: 16"))
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if "chanels" in text)
    with pytest.raises(InputError, match=rf"har-table1.yaml:{line}: unknown key .*chanels.*did you mean 'channels'"):
        make_plan([load(file)], "paper")


def test_missing_data_is_said_before_anything_runs(recipe: Recipe) -> None:
    plan = make_plan([recipe], "paper")
    with pytest.raises(MissingData) as raised:
        require_all(plan)
    assert "train2017" in str(raised.value)
    assert "\n" not in str(raised.value)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({recipe_id: golden(recipe_id) for recipe_id in available()}, indent=1) + "\n")


@pytest.mark.parametrize("tier", ["mini", "paper"])
def test_every_schedule_comes_to_its_end(tier: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    for recipe in select(["*"]):
        assert tier not in recipe.tiers or unreached(make_plan([recipe], tier, device="cpu")) == []


def test_drops_beyond_the_end_are_told() -> None:
    plan = make_plan(select(["har-table1"]), "mini", device="cpu", overrides=["solver.iterations=500"])
    (line,) = unreached(plan)
    assert line.startswith("har-table1: solver.drops [") and "beyond its 500 iterations" in line
    assert line.endswith("--set 'solver.drops=[400]'")
    for device in ("gpu", "cuda:x", "cpu:1", "cuda:"):
        with pytest.raises(InputError, match=f"--device {device}: unknown device"):
            make_plan(select(["har-table1"]), "mini", device=device)
