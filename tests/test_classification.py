"""Tables of classification from recipe to results: jobs, columns, costs, differences, `--data`, one-line errors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_cases import TOY
from safetensors.numpy import load_file, save_file
from test_classification_data import class_folders
from test_cli import bench, complaint, told

import benchsuite as bs
from benchsuite.engine.job import Artifact, Context
from benchsuite.errors import InputError
from benchsuite.pipelines.classification import Classification, ClassifierCost, ScoreClasses
from benchsuite.pipelines.pipeline import Pipeline
from benchsuite.recipe.loading import load
from benchsuite.recipe.recipe import Recipe

TABLE = """
id: tiny-classes
paper: {id: tiny, title: T, cite: C}
table: "1"
title: A table of classification
columns:
  - {id: top1_error, better: lower, decimals: 2}
  - {id: top5_error, better: lower, decimals: 2}
  - {id: gmac_ptflops_224, label: GMac, better: lower}
  - {id: parameters_M, label: Params, better: lower}
base:
  kind: classification.Classification
  model: {backbone: {kind: cifar_nets.ShuffleNetV2}}
  input: {kind: class_batches.Whole, side: 32}
  augment: [{kind: class_batches.PadCrop, pad: 4}, {kind: class_batches.BatchFlip}]
tiers:
  smoke:
    data:
      train: {kind: generated_classes.GeneratedClasses, images: 24}
      val: {kind: generated_classes.GeneratedClasses, split: val, images: 10}
      val_limit: 8
    solver: {lr: 0.01, batch: 6, iterations: 2, drops: [1], warmup_iterations: 0}
    eval_batch: 5
  paper:
    data: {train: {kind: cifar.Cifar100, split: train}, val: {kind: cifar.Cifar100, split: test}}
    solver: {lr: 0.1, batch: 128, iterations: 78200, drops: [19550], warmup_iterations: 0}
rows:
  - {id: shuffle, published: {top1_error: 48.87, top5_error: 20.07, gmac_ptflops_224: 2.23, parameters_M: 1.40}}
  - {id: shuffle-slow, solver: {lr: 0.001}}
claims:
  - {better: shuffle, than: shuffle-slow, on: top1_error}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "tiny-classes.yaml").write_text(TABLE)
    return load(Path("tiny-classes.yaml"))


def test_from_recipe_to_results(recipe: Recipe, tmp_path: Path) -> None:
    plan = bs.make_plan([recipe], "smoke", seeds=[3])
    kinds = [job.kind().partition(".")[2] for job in plan.jobs.values()]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "TrainClassifier": 2, "Classify": 2, "ScoreClasses": 2, "ClassifierCost": 1, "ResampleClasses": 2,
        "Difference": 1,
    }  # fmt: skip
    store = bs.Store(tmp_path / "runs")
    results = bs.run_plan(plan, store, bs.RunOptions(out=tmp_path / "results")).results["tiny-classes"]
    assert results.protocol == "top-k" and results.data.name == "generated classes (synthetic) val (≤ 8 images)"
    for planned in plan.rows:
        pipeline, row = planned.pipeline, results.row(planned.row.id)
        assert isinstance(pipeline, Classification)
        assert row.status == "done" and row.deviations == ()
        held = load_file(tmp_path / "runs" / "artifacts" / pipeline.classify(3).key / "logits.safetensors")
        labels = pipeline.data.cut("val").open().labels.tolist()
        assert held["logits"].shape == (8, 24) and held["labels"].tolist() == labels
        for column, k in (("top1_error", 1), ("top5_error", 5)):
            wrong = 0
            for scores, label in zip(held["logits"].tolist(), labels, strict=True):
                best = sorted(range(24), key=scores.__getitem__, reverse=True)[:k]
                wrong += label not in best
            assert results.values(row.id, column)[3] == pytest.approx(100 * wrong / 8)
        # 24 classes instead of 100: less of the last layer
        assert results.values(row.id, "parameters_M")[3] == pytest.approx((1_360_896 - 76 * 1025) / 1e6)
        assert results.values(row.id, "gmac_ptflops_224")[3] == pytest.approx(2.228845156 - 76 * 1025 / 1e9)
    (image,) = results.claims[0].images
    one, other = (results.values(row, "top1_error")[3] for row in ("shuffle", "shuffle-slow"))
    assert image.difference == pytest.approx(one - other) and image.low <= image.difference <= image.high
    together = results.claims[0].images_together
    assert together is not None and (together.seeds, together.low, together.high) == ((3,), image.low, image.high)


def test_inspect_at_the_paper_tier(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = told(capsys, "inspect", "tiny-classes.yaml", "--json")["rows"]
    assert first == {
        "id": "shuffle", "parameters": 1_360_896, "macs": 43_675_520, "macs_ptflops_224": 2_228_845_156,
        "input": [3, 32, 32], "anchors": None,
    }  # fmt: skip
    assert bench("inspect", "tiny-classes.yaml") == 0
    assert "2.229 G" in capsys.readouterr().out
    assert "cifar100 train: not in" in complaint(capsys, "run", "tiny-classes.yaml", "--tier", "paper")


def test_data_given_by_folder(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = class_folders(tmp_path / "beasts")
    before, after = (bs.make_plan([recipe], "smoke", data=data) for data in (None, folder))
    assert not set(before.jobs) & set(after.jobs)
    pipeline = after.rows[0].pipeline
    assert [pipeline.data.cut(split).name for split in ("train", "val")] == ["beasts train", "beasts val (≤ 8 images)"]
    assert isinstance(pipeline, Classification) and pipeline.cost(0).classes == 2
    assert "this is about classification" in complaint(capsys, "plan", "tiny-classes.yaml", "--data", TOY)
    assert "this is about detection" in complaint(capsys, "plan", "har-table1", "--data", folder)
    kinds = bs.make_plan([bs.load_recipe("har-table1")], "smoke", data=TOY).rows[0].pipeline.data
    assert kinds.cut("val").name.startswith("toy val")
    reports = told(capsys, "data", "verify", "--data", folder, "--json")
    assert [(report["images"], report["classes"]) for report in reports] == [(3, {"ant": 1, "zebra": 2})] * 2
    assert bench("data", "verify", "tiny-classes.yaml", "--tier", "smoke") == 0
    assert "no problems" in capsys.readouterr().out
    assert "makes no detections" in complaint(capsys, "plot", "detections", "tiny-classes.yaml/shuffle")


def settings(**changes: Any) -> dict[str, Any]:
    generated = {"kind": "generated_classes.GeneratedClasses", "images": 4}
    return {
        "kind": "classification.Classification",
        "data": {"train": generated, "val": {**generated, "split": "val"}},
        "model": {"backbone": {"kind": "classifier.ResNet", "depth": 18}},
        "input": {"kind": "class_batches.CentreCrop", "side": 48, "short": 56},
        "train_input": {"kind": "class_batches.RandomResizedCrop", "side": 48},
        "solver": {"lr": 0.1, "batch": 2, "iterations": 1},
    } | changes


def test_what_changes_which_keys() -> None:
    row = Classification.model_validate(settings())
    larger = Classification.model_validate(settings(eval_batch=3))
    assert row.fit(0).key == larger.fit(0).key != row.fit(1).key
    assert row.classify(0).key != larger.classify(0).key
    assert row.fit(0).view.kind() == "class_batches.RandomResizedCrop" and row.classify(0).view.side == 48
    assert row.difference(larger, 0, "gmac") is None
    assert {name: type(job) for name, job in row.jobs(3, "cpu").items()} == {
        "score": ScoreClasses,
        "cost": ClassifierCost,
    }
    assert row.jobs(3, "cpu")["cost"].key == larger.jobs(4, "cpu")["cost"].key


def test_bad_settings_are_one_line(tmp_path: Path) -> None:
    random = {"kind": "class_batches.RandomResizedCrop", "side": 48}
    for change, told_ in (
        ({"input": random}, "is random"),
        ({"train_input": {**random, "side": 32}}, "side 32 and input 48; give both the same"),
        ({"model": {"backbone": {"kind": "resnet.Resnet"}}}, "did you mean 'resnet.ResNet'"),
        (
            {"augment": [{"kind": "transforms.Flip"}]},
            "unknown kind 'transforms.Flip': is for Augment, and here goes BatchAugment: class_batches.",
        ),
        ({"data": {"train": {"kind": "generated.Generated", "images": 2}}}, "unknown kind 'generated.Generated'"),
    ):
        with pytest.raises(ValueError, match=told_):
            Pipeline.model_validate(settings(**change))
    splits = settings()["data"] | {"val": {"kind": "imagenet.Folders", "split": "val", "folder": str(tmp_path)}}
    row = Pipeline.model_validate(settings(data=splits))
    assert row.jobs(0, "cpu"), "planning goes on without the data"
    class_folders(tmp_path)
    with pytest.raises(InputError, match=r"has 24 classes and .* val 2: only .* need the same classes"):
        Pipeline.model_validate(settings(data=splits)).jobs(0, "cpu")  # settings ask once


def test_fewer_than_five_classes_have_no_top_5(tmp_path: Path) -> None:
    job = Classification.model_validate(settings()).jobs(0, "cpu")["score"]
    (tmp_path / "in").mkdir()
    logits = np.array([[2, 1, 0], [0, 3, 1]], np.float32)
    save_file({"logits": logits, "labels": np.array([1, 1])}, tmp_path / "in" / "logits.safetensors")
    job.do(Context(tmp_path, tmp_path, tmp_path, {"predict": Artifact("", tmp_path / "in")}))
    assert json.loads((tmp_path / "metrics.json").read_text()) == {
        "protocol": "top-k", "top1": 50, "top1_error": 50,
    }  # fmt: skip
