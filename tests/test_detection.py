"""A detection row's jobs: per-class columns, cost and time of what is trained, submissions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchsuite.data.voc import CLASSES, Voc
from benchsuite.engine.environment import device_name
from benchsuite.engine.job import Artifact, Context, Job
from benchsuite.errors import BenchError, InputError
from benchsuite.loops import checkpoint
from benchsuite.metrics.metric import Found
from benchsuite.pipelines.detection import Detection
from benchsuite.pipelines.submit import Comp4
from benchsuite.verbs.score import score

SIZE = {"height": 64, "width": 64}
ROW: dict[str, Any] = {
    "kind": "detection.Detection",
    "data": {
        "train": {"kind": "generated.Generated", "images": 2, **SIZE},
        "val": {"kind": "generated.Generated", "split": "val", "images": 3, **SIZE},
    },
    "input": {"kind": "transforms.Fixed", **SIZE},
    "model": {
        "kind": "retinanet.RetinaNet",
        "backbone": {"kind": "resnet.ResNet", "depth": 18},
        "neck": {"kind": "fpn.Fpn", "channels": 8},
        "head": {"kind": "retinanet.Head", "channels": 8, "depth": 1},
    },
    "solver": {"lr": 0.01, "batch": 2, "iterations": 2},
    "post": {"score_threshold": 0.0},
    "metric": {"kind": "voc.Voc"},
    "timing": {"warmup": 0, "repeats": 2},
}


def row(**changes: Any) -> Detection:
    return Detection.model_validate(ROW | changes)


def do(job: Job, folder: Path, **inputs: Artifact) -> Artifact:
    folder.mkdir()
    job.do(Context(folder, folder / "partial", folder / "cache", inputs))
    return Artifact(job.key, folder)


@pytest.fixture
def trained(tmp_path: Path) -> Artifact:
    """What a training of `row()` could have left."""
    (tmp_path / "train").mkdir()
    torch.manual_seed(0)
    weights = row().model.build(24).state_dict()
    checkpoint.save(tmp_path / "train" / "weights.safetensors", weights)
    return Artifact("", tmp_path / "train")


def test_the_number_of_each_class_is_a_column(tmp_path: Path) -> None:
    pipeline = row()
    truth = pipeline.data.cut("val").open()
    (tmp_path / "seen").mkdir()
    owners = np.repeat(truth.image_ids, np.diff(truth.offsets))
    found = Found(owners, truth.boxes.astype(np.float32), np.ones(len(owners), np.float32), truth.labels)
    found.save(tmp_path / "seen" / "detections.safetensors")
    metrics = do(pipeline.jobs(0, "")["score"], tmp_path / "score", predict=Artifact("", tmp_path / "seen")).metrics
    present = {truth.classes[label] for label in truth.labels[~truth.difficult]}
    assert {name: metrics[f"AP50/{name}"] for name in truth.classes} == {
        name: pytest.approx(100) if name in present else None for name in truth.classes
    }  # fmt: skip


def test_cost_in_the_units_of_tables(tmp_path: Path) -> None:
    pipeline = row()
    found = do(pipeline.cost(0), tmp_path / "cost").metrics
    detector = pipeline.model.build(24)
    count = sum(value.numel() for value in detector.parameters())
    assert found["parameters"] == count and found["parameters_M"] == count / 1e6
    assert found["parameters_Mi"] == count / 2**20
    assert found["anchors"] == 6 * (8 * 8 + 4 * 4 + 2 * 2 + 1 + 1)
    assert found["gmac"] == (found["macs"] or 0) / 1e9 > 0
    assert pipeline.inspect() == {name: found[name] for name in ("parameters", "macs", "anchors")} | {
        "input": [3, 64, 64]
    }  # fmt: skip


def test_what_is_timed_is_what_was_trained(tmp_path: Path, trained: Artifact) -> None:
    """On real images: all three, though only two calls count, once each of the first two."""
    job = row().jobs(0, device_name("cpu"))["time"]
    found = do(job, tmp_path / "time", train=trained).metrics
    assert (found["forward_ms"] or 0) > 0 and (found["latency_ms"] or 0) > 0
    assert found["detections"] == 100, "there are boxes to post-process"
    samples = json.loads((tmp_path / "time" / "samples.json").read_text())
    assert samples["image_ids"] == [[1], [2]]


def test_times_of_another_device_are_refused(tmp_path: Path, trained: Artifact) -> None:
    with pytest.raises(BenchError, match=r"planned for another GPU, but this is .*; plan with the device to run on"):
        do(row().jobs(0, "another GPU")["time"], tmp_path / "time", train=trained)


def test_a_batch_larger_than_the_split_cannot_be_timed(tmp_path: Path, trained: Artifact) -> None:
    job = row(timing={"batch": 4}).jobs(0, device_name("cpu"))["time"]
    with pytest.raises(InputError, match=r"has 3 images; lower timing\.batch, which is 4"):
        do(job, tmp_path / "time", train=trained)


# --- VOC's server


@pytest.fixture
def withheld(tmp_path: Path) -> Voc:
    """VOC2012's test split as it is given out: images, a list, and annotations of another task for some."""
    kit = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "ImageSets/Main", "Annotations"):
        (kit / folder).mkdir(parents=True)
    for name in ("2008_000001", "2008_000004"):
        Image.new("RGB", (8, 6)).save(kit / "JPEGImages" / f"{name}.jpg")
    (kit / "Annotations" / "2008_000004.xml").write_text("<annotation><segmented>0</segmented></annotation>")
    (kit / "ImageSets" / "Main" / "test.txt").write_text("2008_000001\n2008_000004\n")
    return Voc(splits=("2012/test",), folder=tmp_path)


def test_a_voc_split_without_truth_is_opened(withheld: Voc) -> None:
    data = withheld.open()
    assert not withheld.annotated and data.classes == CLASSES
    assert data.sizes.tolist() == [[6, 8], [6, 8]] and len(data.boxes) == 0 and data.offsets.tolist() == [0, 0, 0]
    assert data.read(1).shape == (6, 8, 3)


def test_who_has_truth_is_known_without_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not Voc(splits=("2012/test",)).annotated
    assert Voc(splits=("2007/test",)).annotated and Voc(splits=("2007/trainval", "2012/trainval")).annotated


def test_a_missing_annotation_is_no_missing_truth(tmp_path: Path, withheld: Voc) -> None:
    kit = tmp_path / "VOCdevkit" / "VOC2012"
    (kit / "ImageSets" / "Main" / "val.txt").write_text("2008_000001\n2008_000004\n")
    val = Voc(splits=("2012/val",), folder=tmp_path)
    assert val.annotated
    with pytest.raises(InputError, match=r"2008_000001.xml: the annotation is missing"):
        val.open()


def test_comp4_files_score_as_their_detections(tmp_path: Path, withheld: Voc) -> None:
    """Read back by `bench score`, against a truth that is the detections."""
    boxes = np.array([[0, 0, 8, 6], [1, 2, 4, 6], [2, 2, 3, 3]], np.float32)
    found = Found(np.array([2, 1, 1]), boxes, np.array([0.9, 0.8, 0.25], np.float32), np.array([19, 0, 0]))
    folder = tmp_path / "comp4"
    Comp4().write(withheld.open(), found, folder)
    files = {file.name: file.read_text() for file in folder.iterdir()}
    assert files.keys() == {f"comp4_det_test_{name}.txt" for name in CLASSES}
    assert files["comp4_det_test_tvmonitor.txt"] == "2008_000004 0.900000 1.000 1.000 8.000 6.000\n"
    assert files["comp4_det_test_aeroplane.txt"].splitlines() == [
        "2008_000001 0.800000 2.000 3.000 4.000 6.000", "2008_000001 0.250000 3.000 3.000 3.000 3.000",
    ]  # fmt: skip
    assert not files["comp4_det_test_cat.txt"]
    kit = tmp_path / "VOCdevkit" / "VOC2012"
    for image, objects in (("2008_000001", [("aeroplane", 2, 3, 4, 6)]), ("2008_000004", [("tvmonitor", 1, 1, 8, 6)])):
        lines = [
            f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
            "</bndbox></object>"
            for name, x1, y1, x2, y2 in objects
        ]  # fmt: skip
        size = "<size><width>8</width><height>6</height></size>"
        (kit / "Annotations" / f"{image}.xml").write_text(f"<annotation>{size}{''.join(lines)}</annotation>")
    (kit / "ImageSets" / "Main" / "mine.txt").write_text("2008_000001\n2008_000004\n")
    scores = score(Path(f"{kit}:mine"), folder, "voc12")
    per_class = scores["per_class"]
    assert isinstance(per_class, dict) and scores["AP"] == pytest.approx(100)
    assert {each["name"]: each["AP50"] for each in per_class.values() if each["AP50"] is not None} == {
        "aeroplane": pytest.approx(100), "tvmonitor": pytest.approx(100),
    }  # fmt: skip


def test_a_row_of_vocs_server_is_predicted_and_submitted(tmp_path: Path, withheld: Voc) -> None:
    voc = {"kind": "voc.Voc", "splits": ["2012/test"], "folder": str(tmp_path)}
    pipeline = row(data={"train": {"kind": "voc.Voc", "splits": ["2007/trainval"]}, "val": voc},
                   submit={"kind": "submit.Comp4"})  # fmt: skip
    jobs = pipeline.jobs(0, "cpu")
    assert jobs.keys() == {"submission", "cost", "time"} and jobs["submission"].product == "comp4"
    (tmp_path / "train").mkdir()
    checkpoint.save(tmp_path / "train" / "weights.safetensors", pipeline.model.build(20).state_dict())
    seen = do(pipeline.predict(0), tmp_path / "seen", train=Artifact("", tmp_path / "train"))
    sent = do(jobs["submission"], tmp_path / "sent", predict=seen)
    assert len(list((tmp_path / "sent" / "comp4").iterdir())) == 20
    lines = sum(len(file.read_text().splitlines()) for file in (tmp_path / "sent" / "comp4").iterdir())
    assert lines == sent.metrics["submitted"] == 200
