"""POD's jobs: learn scales, measure, decompose, train again (sections 3 and 4); pod.spec 2, 4, 7."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pod_cases import Tiny
from safetensors.torch import load_file, save_file
from torch import nn

from benchsuite.engine.environment import device_name
from benchsuite.engine.job import Artifact, Context, Job
from benchsuite.errors import InputError
from benchsuite.loops import checkpoint
from benchsuite.loops.solver import Solver
from benchsuite.metrics.metric import Found
from benchsuite.models.fpn import Fpn
from benchsuite.models.resnet import ResNet
from benchsuite.models.retinanet import Head, RetinaNet
from benchsuite.papers import pod, pod_jobs
from benchsuite.papers.pod_decompose import Dilations, SubConv, decompose
from benchsuite.papers.pod_jobs import Decompose, Fd, Gsl, Plain, Scales, Transfer, spread, stretched
from benchsuite.pipelines.detection import Predict, Train

SMALL: dict[str, Any] = {
    "data": {
        "train": {"kind": "generated.Generated", "images": 5, "height": 64, "width": 64},
        "val": {"kind": "generated.Generated", "split": "val", "images": 2, "height": 64, "width": 64},
    },
    "input": {"kind": "transforms.Fixed", "height": 64, "width": 64},
    "model": RetinaNet(backbone=Tiny(), neck=Fpn(channels=8), head=Head(channels=8, depth=1)),
    "solver": {"lr": 0.01, "batch": 2, "iterations": 2, "warmup_iterations": 1, "drops": (1,)},
    "metric": {"kind": "coco.Coco"},
    "gsl": {"kind": "pod.Gsl", "init": "he"},
    "measure": {"images": 3},
    "timing": {"warmup": 0, "repeats": 1},
}  # fmt: skip
LAYERS = {"R31": 16, "R41": 32, "R51": 64}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """Artifacts by key; jobs are done once."""
    return {"": Artifact("", tmp_path_factory.mktemp("jobs"))}


def do(job: Job, done: dict[str, Artifact]) -> Artifact:
    """The job's artifact, its inputs done before it."""
    if job.key not in done:
        inputs = {name: do(needed, done) for name, needed in job.inputs.items()}
        folder = done[""].folder / job.key
        folder.mkdir()
        job.do(Context(folder, folder / "partial", done[""].folder / "cache", inputs))
        done[job.key] = Artifact(job.key, folder)
    return done[job.key]


def row(kind: type[Plain], **changes: Any) -> Any:
    return kind.model_validate(SMALL | changes)


# --- what is planned


def test_rows_share_what_they_can() -> None:
    plain, gsl = row(Plain), row(Gsl)
    fd, wt, twice = row(Fd), row(Fd, weights="gsl"), row(Fd, schedule=2)
    assert plain.learn(0).key == gsl.fit(0).key != plain.fit(0).key
    assert len({each.scales(0).key for each in (plain, gsl, fd, wt, twice)}) == 1
    assert len({each.network(0).key for each in (fd, wt, twice)}) == 1
    assert len({each.fit(0).key for each in (plain, gsl, fd, wt, twice)}) == 5
    assert fd.fit(0).inputs.keys() == {"model"} and wt.fit(0).inputs == {
        "model": fd.network(0),
        "gsl": gsl.fit(0),
    }
    assert fd.jobs(0, "cpu")["cost"].key == wt.jobs(0, "cpu")["cost"].key, "weights do not matter"
    for each in (plain, gsl, fd, wt):
        assert each.jobs(0, "cpu")["time"].inputs == {"train": each.fit(0)}
    assert row(Fd, post={"score_threshold": 0.3}).fit(0).key == fd.fit(0).key
    assert row(Fd, measure={"images": 4}).fit(0).key != fd.fit(0).key
    jittered = row(Fd, finetune_augment=({"kind": "transforms.Flip"},))
    assert jittered.network(0).key == fd.network(0).key and jittered.fit(0).key != fd.fit(0).key


def test_a_longer_schedule() -> None:
    once = Solver(lr=0.02, batch=16, iterations=95_277, drops=(58_632, 80_619))
    assert stretched(once, 1) == once
    assert stretched(once, 2) == once.model_copy(update={"iterations": 190_554, "drops": (117_264, 161_238)})
    assert stretched(once, 1.5) == once.model_copy(update={"iterations": 142_916, "drops": (87_948, 120_929)})


def test_inspect_knows_nothing_before_the_plan() -> None:
    fd: Fd = row(Fd)
    found = fd.inspect()
    assert found["parameters"] is None and fd.network(0).key in str(found["reason"])
    assert fd.inspect(Artifact("other", Path())) == found
    assert row(Gsl).inspect()["parameters"] - row(Plain).inspect()["parameters"] == sum(
        2 * c + 2 for c in LAYERS.values()
    )


# --- what is done


def test_scales_are_those_of_single_images(done: dict[str, Artifact]) -> None:
    job = row(Plain).scales(0)
    measured = do(job, done)
    tensors, state = checkpoint.load(measured.path("scales.safetensors"), "")
    scales = tensors["scales"]
    assert scales.shape == (3, 3, 2) and scales.dtype == torch.double
    assert state == {"layers": list(LAYERS), "channels": LAYERS, "train": job.train.key}
    assert measured.metrics["images"] == 3
    assert measured.metrics["R41_w"] == pytest.approx(scales[:, 1, 1].mean().item())
    assert measured.metrics["R41_w_std"] == pytest.approx(scales[:, 1, 1].std(correction=0).item())
    assert len(measured.metrics) == 1 + 3 * 2 * 2
    data = job.data.open()
    chosen = np.sort(np.random.default_rng(0).choice(5, 3, replace=False))
    detector = job.train.trained(len(data.classes), done[job.train.key]).eval()
    convs = pod_jobs.learners(detector)
    for expected, index in zip(scales, chosen, strict=True):
        image = torch.from_numpy(data.read(int(index)).copy()).permute(2, 0, 1)[None]
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        with torch.inference_mode():
            detector(((image / 255) - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        found = torch.cat([conv.scales for conv in convs.values() if conv.scales is not None])
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_spread() -> None:
    scales = torch.tensor([[[1.0, 2.0]], [[3.0, 2.5]]])
    assert spread(["R31"], scales) == {"R31_h": 2.0, "R31_h_std": 1.0, "R31_w": 2.25, "R31_w_std": 0.25}


@pytest.mark.parametrize("direction", ["h", "w"])
def test_a_row_of_table_3(direction: str, done: dict[str, Artifact]) -> None:
    chosen = row(pod_jobs.Distribution, direction=direction)
    (last,) = chosen.jobs(0, "cpu").values()
    found, measured = do(last, done).metrics, do(chosen.scales(0), done).metrics
    assert found == {f"{name}{end}": measured[f"{name}_{direction}{end}"] for name in LAYERS for end in ("", "_std")}
    minival = row(pod_jobs.Distribution, direction=direction, split="val").jobs(0, "cpu")["scales"]
    assert minival.inputs["scales"].key != chosen.scales(0).key, "measured on the other split"
    assert minival.inputs["scales"].inputs == chosen.scales(0).inputs, "of the same training"


def test_the_plan_is_of_the_means(done: dict[str, Artifact]) -> None:
    pipeline = row(Fd)
    plan = Dilations.load(do(pipeline.network(0), done).path("dilations.json"))
    measured = do(pipeline.scales(0), done).metrics
    for name, channels in LAYERS.items():
        assert plan.layers[name] == decompose(measured[f"{name}_h"] or 0, measured[f"{name}_w"] or 0, channels)
    assert any(len(parts) == 2 for parts in plan.layers.values()), "there is something to decompose"


def test_fd_starts_from_the_gsl_network(done: dict[str, Artifact]) -> None:
    """With a rate of nothing the trained FD network is what was transferred."""
    still = SMALL["solver"] | {"lr": 1e-12, "weight_decay": 0.0}
    whole: Transfer = row(Fd, weights="gsl").fit(0)
    start = whole.model_copy(update={"solver": Solver.model_validate(still)})
    after = load_file(do(start, done).path("weights.safetensors"))
    gsl = load_file(do(row(Gsl).fit(0), done).path("weights.safetensors"))
    network = start.trained(24, done[start.key])
    mapped = pod.transfer(network, gsl)
    assert mapped.keys() == after.keys() == network.state_dict().keys()
    for name, value in after.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(value, mapped[name], rtol=1e-5, atol=1e-6)


def test_plain_fd_starts_as_the_baseline_does(done: dict[str, Artifact]) -> None:
    still = Solver.model_validate(SMALL["solver"] | {"lr": 1e-12, "weight_decay": 0.0})
    start = row(Fd).fit(0).model_copy(update={"solver": still})
    after = load_file(do(start, done).path("weights.safetensors"))
    torch.manual_seed(0)
    plain = SMALL["model"].build(24)
    mapped = pod.transfer(start.trained(24, done[start.key]), plain.state_dict())
    for name, value in after.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(value, mapped[name], rtol=1e-5, atol=1e-6)


def test_an_fd_network_detects(done: dict[str, Artifact]) -> None:
    job = row(Fd, weights="gsl", post={"score_threshold": 0.0}).predict(0)
    assert isinstance(job, Predict)
    found = Found.load(do(job, done).path("detections.safetensors"))
    assert len(found) and set(found.image_ids) <= set(job.data.open().image_ids)


def test_times(done: dict[str, Artifact]) -> None:
    for kind in (Gsl, Fd):
        found = do(row(kind).jobs(0, device_name("cpu"))["time"], done).metrics
        assert (found["forward_ms"] or 0) > 0 and (found["latency_ms"] or 0) > 0


def test_inspect_with_the_rows_own_plan(done: dict[str, Artifact]) -> None:
    fd: Fd = row(Fd)
    plan = do(fd.network(0), done)
    found, plain = fd.inspect(plan), row(Plain).inspect()
    assert isinstance(found["parameters"], int) and found["parameters"] <= plain["parameters"]
    network = fd.fit(0).trained(24, do(fd.fit(0), done))
    assert found["parameters"] == sum(value.numel() for value in network.parameters())


# --- bad input, one line each


def refused(job: Job, folder: Path, inputs: Mapping[str, Artifact]) -> str:
    folder.mkdir(exist_ok=True)
    with pytest.raises(InputError) as raised:
        job.do(Context(folder, folder / "partial", folder / "cache", inputs))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_refuses_fewer_images_than_asked_for(tmp_path: Path) -> None:
    told = refused(row(Plain, measure={"images": 6}).scales(0), tmp_path, {})
    assert "has 5 images, scales of 6 are asked for; lower measure.images" in told


def test_refuses_a_model_that_learns_no_scale(tmp_path: Path, done: dict[str, Artifact]) -> None:
    pipeline = row(Plain)
    job = Scales(train=pipeline.fit(0), data=pipeline.data.cut("train"), input=pipeline.input, images=1)
    assert "pod.Gsl" in refused(job, tmp_path, {"train": do(pipeline.fit(0), done)})


@pytest.mark.parametrize("bad", [math.nan, -0.25])
def test_refuses_scales_that_are_none(bad: float, tmp_path: Path) -> None:
    state = {"layers": ["R31"], "channels": {"R31": 8}, "train": "key"}
    checkpoint.save(tmp_path / "scales.safetensors", {"scales": torch.tensor([[[1.0, bad]]]).double()}, state)
    job = Decompose(model=SMALL["model"], scales=row(Plain).scales(0))
    assert "R31: has the scale (1, " in refused(job, tmp_path, {"scales": Artifact("key", tmp_path)})


def test_refuses_a_plan_of_another_backbone(tmp_path: Path) -> None:
    Dilations(layers={"R31": (SubConv(channels=128, dilation=(1, 1)),)}).save(tmp_path / "dilations.json")
    told = refused(row(Fd).fit(0), tmp_path / "out", {"model": Artifact("key", tmp_path)})
    assert told.startswith("dilations: are of another backbone")


def test_refuses_weights_of_another_architecture(tmp_path: Path, done: dict[str, Artifact]) -> None:
    wt = row(Fd, weights="gsl").fit(0)
    save_file(nn.Linear(2, 2).state_dict(), tmp_path / "weights.safetensors")
    inputs = {"model": do(wt.model, done), "gsl": Artifact("key", tmp_path)}
    told = refused(wt, tmp_path / "out", inputs)
    assert "weights.safetensors: " in told and "so it is of another model" in told


def test_refuses_a_model_without_a_backbone_to_edit() -> None:
    class Bare(pod_jobs.Model):
        def build(self, num_classes: int) -> Any:
            raise NotImplementedError  # refused before it is built

    with pytest.raises(InputError, match="no backbone that can be edited"):
        pod_jobs.edited(Bare(), pod.Gsl())
    twice = pod_jobs.edited(pod_jobs.edited(RetinaNet(), pod.Gsl()), pod.Gsl(init="he"))
    assert isinstance(twice, RetinaNet) and isinstance(twice.backbone, ResNet)
    assert twice.backbone.edits == (pod.Gsl(), pod.Gsl(init="he"))
    assert isinstance(row(Gsl).fit(0), Train)
