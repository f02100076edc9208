"""Test-dev: its list of images, submissions, and columns measured on minival."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchsuite.data import testdev
from benchsuite.data.coco import CLASSES
from benchsuite.engine.job import Artifact, Context
from benchsuite.engine.schedule import Outcome
from benchsuite.engine.store import Store
from benchsuite.errors import InputError, MissingData
from benchsuite.metrics.metric import Found
from benchsuite.pipelines.detection import Submit
from benchsuite.pipelines.pipeline import Pipeline
from benchsuite.pipelines.submit import coco_results
from benchsuite.recipe.loading import select
from benchsuite.recipe.recipe import Claim, Recipe
from benchsuite.verbs import run
from benchsuite.verbs.plan import make_plan
from benchsuite.verbs.score import score


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two test images in COCO's layout."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "test2017").mkdir()
    images = [{"id": number, "file_name": f"{number}.png", "height": 6, "width": 8} for number in (20, 10)]
    for image in images:
        Image.new("RGB", (8, 6), (int(str(image["id"])), 0, 0)).save(tmp_path / "test2017" / str(image["file_name"]))
    kinds = [{"id": 2 * place + 1, "name": name} for place, name in enumerate(CLASSES)]
    text = json.dumps({"images": images, "categories": kinds})
    (tmp_path / "annotations" / "image_info_test-dev2017.json").write_text(text)
    return tmp_path


def found() -> Found:
    boxes = np.array([[1, 2, 4, 6], [0, 0, 8, 6], [2, 2, 3, 3]], np.float32)
    return Found(np.array([10, 20, 20]), boxes, np.array([0.9, 0.8, 0.25], np.float32), np.array([0, 3, 79]))


def test_images_without_truth(folder: Path) -> None:
    data = testdev.TestDev(folder=folder)
    opened = data.open()
    assert opened.image_ids.tolist() == [10, 20] and opened.sizes.tolist() == [[6, 8], [6, 8]]
    assert [int(opened.read(index)[0, 0, 0]) for index in (0, 1)] == [10, 20]
    assert len(opened.boxes) == 0 and opened.offsets.tolist() == [0, 0, 0]
    assert data.classes == opened.classes == CLASSES and data.name == "coco test-dev2017"
    before = data.fingerprint()
    (folder / "test2017" / "10.png").write_bytes(b"other")
    assert testdev.TestDev(folder=folder).fingerprint() != before


def test_missing_or_broken_lists_are_one_line(folder: Path) -> None:
    file = folder / "annotations" / "image_info_test-dev2017.json"
    for text in ("{}", "[1]", "no json", '{"images": [{"id": 1}], "categories": []}'):
        file.write_text(text)
        with pytest.raises(InputError, match=r"test-dev2017\.json: ") as raised:
            testdev.TestDev(folder=folder).open()
        assert "\n" not in str(raised.value)
    file.write_text('{"images": [], "categories": [{"id": 1, "name": "cat"}]}')
    with pytest.raises(InputError, match="has not COCO's 80 classes but 1"):
        testdev.TestDev(folder=folder).open()
    file.unlink()
    with pytest.raises(MissingData, match=r"coco test-dev2017: not in .*--set submit=null"):
        testdev.TestDev(folder=folder).require()


def test_submission_is_in_cocos_format(folder: Path) -> None:
    lines = coco_results(testdev.TestDev(folder=folder).open(), found())
    assert lines[0] == {"image_id": 10, "category_id": 1, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.9}
    assert [line["category_id"] for line in lines] == [1, 7, 159]


def test_a_submission_of_a_known_split_scores_as_its_detections(folder: Path, tmp_path: Path) -> None:
    """The file that the server would get, read back by `bench score`."""
    data = testdev.TestDev(folder=folder).open()
    truth = {
        "images": [{"id": int(number), "height": 6, "width": 8} for number in data.image_ids],
        "categories": [{"id": int(i), "name": n} for i, n in zip(data.category_ids, data.classes, strict=True)],
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
            {"id": 2, "image_id": 20, "category_id": 7, "bbox": [0, 0, 8, 6], "area": 48, "iscrowd": 0},
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(coco_results(data, found())))
    assert score(tmp_path / "truth.json", tmp_path / "found.json", "coco")["AP"] == pytest.approx(100)


def settings(**changes: Any) -> dict[str, Any]:
    size = {"height": 64, "width": 64}
    return {
        "kind": "detection.Detection",
        "data": {
            "train": {"kind": "generated.Generated", "images": 2, **size},
            "val": {"kind": "generated.Generated", "split": "val", "images": 2, **size},
        },
        "input": {"kind": "transforms.Fixed", **size},
        "model": {"kind": "retinanet.RetinaNet"},
        "solver": {"lr": 0.01, "batch": 2, "iterations": 2},
        "metric": {"kind": "coco.Coco"},
        "submit": {"kind": "submit.CocoResults"},
    } | changes


def test_a_submission_beside_the_score(tmp_path: Path) -> None:
    last = Pipeline.model_validate(settings()).jobs(0, "cpu")
    assert last.keys() == {"score", "submission", "cost", "time"}
    sent = last["submission"]
    assert last["score"].inputs["predict"].key == sent.inputs["predict"].key
    (tmp_path / "predict").mkdir()
    Found(np.array([1]), np.ones((1, 4), np.float32) * [0, 0, 9, 9], np.ones(1, np.float32), np.array([3])).save(
        tmp_path / "predict" / "detections.safetensors"
    )
    (tmp_path / "sent").mkdir()
    inputs = {"predict": Artifact("", tmp_path / "predict")}
    sent.do(Context(tmp_path / "sent", tmp_path / "partial", tmp_path / "cache", inputs))
    assert json.loads((tmp_path / "sent" / "metrics.json").read_text()) == {"submitted": 1}
    (line,) = json.loads((tmp_path / "sent" / "detections.json").read_text())
    assert line == {"image_id": 1, "category_id": 4, "bbox": [0, 0, 9, 9], "score": 1.0}


def test_a_split_without_truth_is_submitted_and_not_scored() -> None:
    """Of data.val itself; without a submission there is nothing to do with it."""
    data = settings()["data"] | {
        "train": {"kind": "coco.Coco", "split": "train2017"},
        "val": {"kind": "testdev.TestDev"},
    }
    last = Pipeline.model_validate(settings(data=data)).jobs(0, "cpu")
    assert last.keys() == {"submission", "cost", "time"}
    with pytest.raises(InputError, match="coco test-dev2017 has no ground truth to score with; choose another val"):
        Pipeline.model_validate(settings(data=data, submit=None)).jobs(0, "cpu")


def test_columns_say_what_is_measured_where(recipe: Recipe) -> None:
    """Published numbers of test-dev stand beside none of ours, and claims are compared on minival."""
    columns = {column.id: column.number for column in recipe.columns}
    assert columns["AP"] is None and columns["minival_AP50"] == "AP50"
    chosen = recipe.model_copy(update={"claims": (Claim(better="resnet-101-ha-ms", than="resnet-101-ha", on=on)
                                                  for on in ("AP", "minival_AP"))})  # fmt: skip
    (job,) = make_plan([chosen], "smoke").differences.values()
    assert job.label == "difference on AP seed 0"


def test_test_images_of_other_classes_are_refused() -> None:
    row = Pipeline.model_validate(settings(submit={"kind": "submit.CocoResults", "data": {"kind": "testdev.TestDev"}}))
    with pytest.raises(InputError, match="has 24 classes and coco test-dev2017 80: only "):
        row.jobs(0, "cpu")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.chdir(tmp_path)
    return select(["har-table5"])[0]


def test_table_5_quotes_twenty_rows_and_trains_nothing_of_its_own(recipe: Recipe) -> None:
    quoted = [row for row in recipe.rows if row.role == "quoted"]
    assert len(quoted) == 20 and all(row.cite for row in quoted)
    fourth = select(["har-table4"])[0]
    trains = [
        {key for key, job in make_plan([each], "paper").jobs.items() if job.kind() == "detection.Train"}
        for each in (recipe, fourth)
    ]
    assert len(trains[0]) == 2 and trains[0] <= trains[1]
    submitted = [job for job in make_plan([recipe], "paper").jobs.values() if isinstance(job, Submit)]
    assert {job.predict.data.name for job in submitted} == {"coco test-dev2017"} and len(submitted) == 4
    assert all(not set(row.published) & set(recipe.column_ids[6:]) for row in quoted)


def test_a_run_tells_where_the_submission_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, plan = Store(tmp_path / "runs"), make_plan(select(["har-table5"]), "smoke", rows=["resnet-101-ha"])
    (submit,) = (job for job in plan.jobs.values() if isinstance(job, Submit))

    def run_jobs(*given: object, **options: object) -> Outcome:
        store.folder(submit.key).mkdir(parents=True)
        (store.folder(submit.key) / "detections.json").write_text("[]")
        return Outcome({})

    monkeypatch.setattr(run, "run_jobs", run_jobs)
    ran = run.run_plan(plan, store, run.RunOptions(out=tmp_path))
    (told,) = ran.form()["products"].items()
    assert told == (plan.names[submit.key], (store.folder(submit.key) / "detections.json").as_posix())
    ran.show()
    assert submit.key in capsys.readouterr().out
