"""What changes how a training is executed and not what comes of it: activations made again, batches in parts, compiled
parts, evaluations on the way; and what memory it takes."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_cli import bench
from test_ddp import MODELS, SIZE, Until, a_row, classes, detections, frozen, lines, training
from torch.profiler import ProfilerActivity, profile

import benchsuite as bs
from benchsuite.data.batches import Batches
from benchsuite.engine.job import Context, Execution
from benchsuite.errors import InputError, Interrupted
from benchsuite.loops.looks import Looks
from benchsuite.loops.train import Run
from benchsuite.models.memory import footprint
from benchsuite.pipelines.detection import Detection
from benchsuite.pipelines.pipeline import Pipeline
from benchsuite.pipelines.steps import Scoring

FEW = {"iterations": 6, "warmup_iterations": 2, "drops": [4]}


def do(job: Any, folder: Path, *, judge: Any = None, **execution: Any) -> Path:
    (folder / "artifact").mkdir(parents=True, exist_ok=True)
    context = Context(
        folder / "artifact", folder / "partial", folder.parent / "cache", execution=Execution(**execution), judge=judge
    )
    job.do(context)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "artifact" / "weights.safetensors")


def equal(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return lines(one) == lines(other) and all(first[name].equal(second[name]) for name in first)


@pytest.mark.parametrize("model", ["padet", pytest.param("c4", marks=pytest.mark.slow)])
def test_what_is_made_again_is_equal(tmp_path: Path, model: str) -> None:
    """To the last bit, running statistics included: here norms train."""
    job = training(a_row(model, **FEW))
    assert equal(do(job, tmp_path / "kept"), do(job, tmp_path / "again", recompute=True))


@pytest.mark.parametrize(
    ("model", "size"),
    [("retinanet", 2), *(pytest.param(*each, marks=pytest.mark.slow) for each in (("mask", 2), ("c4", 1)))],
)
def test_parts_of_a_batch_are_the_batch_where_norms_are_frozen(tmp_path: Path, model: str, size: int) -> None:
    """Normalisers and random draws are those of the whole batch."""
    job = training(frozen(model, tmp_path, **FEW))
    for one, other in zip(
        lines(do(job, tmp_path / "whole")), lines(do(job, tmp_path / "parts", micro_batch=size)), strict=True
    ):
        for line in (one, other):  # a deviation over images is not the mean of deviations
            for name in [name for name in line if "spread" in name]:
                del line[name]
        assert one == pytest.approx(other, rel=1e-5, abs=1e-7)


def test_parts_are_refused_where_norms_train(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--micro-batch: the BatchNorm 'backbone\.\S+' trains"):
        do(training(a_row("retinanet")), tmp_path / "a", micro_batch=2)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"compiled": True, "recompute": True}, "--compile with --recompute: "),
        ({"micro_batch": 2, "per_job": 2}, "--micro-batch 2 with --per-job 2: "),
    ],
)
def test_what_does_not_go_together_is_told(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=f"^{told}"):
        Execution(**settings)


# --- memory


def measured(row: Pipeline, recompute: bool, folder: Path) -> int:
    """What torch's allocator gave out at most in a step, momentum there, by its own account."""
    job: Any = training(row)
    network = job.blank(24)
    context = Context(folder, folder / "partial", folder, execution=Execution(recompute=recompute))
    run = Run(network, job.solver, context)
    data = row.data.cut("train").open()  # type: ignore[attr-defined]
    batch = Batches(data, job.input, job.augment, job.solver.batch, 0, 2, None, job.model.masks)[0]
    before = sum(each.nbytes for each in (*network.parameters(), *network.buffers()))
    run.step(batch, 0)
    before += sum(each["momentum_buffer"].nbytes for each in run.optimizer.state.values() if each)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run.step(batch, 0)
    events: Any = seen.profiler.kineto_results.events()  # type: ignore[union-attr]
    now = most = 0
    for each in sorted((each for each in events if each.name() == "[memory]"), key=lambda each: each.start_ns()):
        now += each.nbytes()
        most = max(most, now)
    return before + most


LARGER = {"kind": "transforms.Fixed", "height": 256, "width": 256}


CASES = [("ssd", False), ("padet", True)]
SLOW = [(model, recompute) for model in MODELS for recompute in (False, True) if (model, recompute) not in CASES]


@pytest.mark.parametrize(
    ("model", "recompute"), [*CASES, *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)]
)
def test_memory_is_as_estimated(tmp_path: Path, model: str, recompute: bool) -> None:
    row = a_row(model, batch=4)
    settings = dict(MODELS[model])
    if model == "c4":  # as on a GPU
        settings["backbone"] = settings["backbone"] | {"edits": [{"kind": "pod.Gsl", "backend": "deform"}]}
    row = row.changed(input=LARGER, augment=[], model=settings)
    job = training(row)
    found = job.footprint(Execution(recompute=recompute))
    assert found is not None
    real = measured(row, recompute, tmp_path)
    assert found.peak == pytest.approx(real, rel=0.2), (found, real)


def test_memory_of_a_hand_counted_network() -> None:
    """A convolution without bias, 3×3 of 3 channels to 4, on 2 images of 8×8."""

    class One(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False, device="meta")

        def imagined(self, images: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.conv(images).sum()
            return found

    found: Any = footprint(One(), 2, (8, 8))  # type: ignore[arg-type]
    assert (found.weights, found.momentum, found.gradients) == (432, 432, 432)
    assert found.kept == 4 * 2 * 3 * 64 + 4  # the images and the loss
    averaged: Any = footprint(One(), 2, (8, 8), averaged=True)  # type: ignore[arg-type]
    assert (averaged.momentum, averaged.peak) == (864, found.peak + 432)


@pytest.mark.slow
def test_pods_paper_tier_needs_more_than_a_gpu_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("plan", "pod-table1", "--tier", "paper", "--memory", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    worst = max(rows, key=lambda row: row["bytes"]["peak"])
    assert worst["bytes"]["peak"] > 70 * 2**30
    assert worst["cures"] and all(peak <= 70 * 2**30 for peak in worst["cures"].values())


# --- evaluations on the way


def scoring(row: Pipeline) -> Any:
    return row.jobs(0, "")["score"]


def test_looks_change_nothing_and_keep_the_best_and_the_last(tmp_path: Path) -> None:
    row = a_row("ssd", **FEW)
    job = training(row)
    plain, looked = do(job, tmp_path / "plain"), do(job, tmp_path / "looked", judge=scoring(row), eval_every=2)
    assert equal(plain, looked)
    told = [json.loads(line) for line in (looked / "artifact" / "evaluations.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in told] == [2, 4, 6] and all("AP" in line for line in told)
    last = load_file(looked / "artifact" / "last.safetensors")
    assert all(value.equal(last[name]) for name, value in weights(looked).items())
    assert (looked / "artifact" / "best.safetensors").exists()
    assert not (plain / "artifact" / "evaluations.jsonl").exists()


def test_looks_go_on_where_a_training_was_stopped(tmp_path: Path) -> None:
    row = classes(**FEW)
    job = training(row)
    whole = do(job, tmp_path / "whole", judge=scoring(row), eval_every=2)
    stopping = Until(3)
    part = tmp_path / "part"
    (part / "artifact").mkdir(parents=True)
    how: dict[str, Any] = {"execution": Execution(eval_every=2), "judge": scoring(row), "stop": stopping.stop}
    with pytest.raises(Interrupted):
        job.do(Context(part / "artifact", part / "partial", tmp_path / "cache", report=stopping.report, **how))
    do(job, part, judge=scoring(row), eval_every=2)
    told = [(each / "artifact" / "evaluations.jsonl").read_text() for each in (whole, part)]
    assert told[0] == told[1] and equal(whole, part)
    best = [load_file(each / "artifact" / "best.safetensors") for each in (whole, part)]
    assert all(best[0][name].equal(best[1][name]) for name in best[0])


def test_the_best_is_the_best(tmp_path: Path) -> None:
    scores = iter([1.0, 3.0, 2.0])
    network = torch.nn.Linear(1, 1)
    (tmp_path / "partial").mkdir()
    context = Context(tmp_path, tmp_path / "partial", tmp_path)
    looks = Looks(2, lambda network, where: {"AP": next(scores), "per_class": {}}, "AP", context)
    looks.begin(0)
    for iteration in range(1, 7):
        torch.nn.init.constant_(network.weight, iteration)
        looks.after(iteration, network)
    looks.leave()
    assert looks.note == "AP 2.00 at 6, best 3.00"
    assert load_file(tmp_path / "best.safetensors")["weight"].item() == 4
    assert load_file(tmp_path / "last.safetensors")["weight"].item() == 6


@pytest.mark.parametrize(("table", "name"), [("har-table1", "AP"), ("assd-table3", "AP50"), ("cat-table3", "top1")])
def test_the_protocol_says_what_is_best(table: str, name: str) -> None:
    jobs = bs.make_plan([bs.load_recipe(table)], "smoke").jobs.values()
    assert {job.decisive for job in jobs if isinstance(job, Scoring)} == {name}


def test_looks_of_several_processes(tmp_path: Path) -> None:
    row = a_row("ssd", **FEW)
    job = training(row)
    one = do(job, tmp_path / "1")
    two = do(job, tmp_path / "2", judge=scoring(row), eval_every=3, per_job=2)
    for mine, theirs in zip(lines(one), lines(two), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-7)
    assert len((two / "artifact" / "evaluations.jsonl").read_text().splitlines()) == 2


# --- compiled


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("model", ["retinanet", "padet"])
def test_compiled_parts_give_the_same_numbers(tmp_path: Path, model: str) -> None:
    row: Any = Detection.model_validate(
        dict(a_row(model, **FEW)) | {"input": {"kind": "transforms.Fixed", **SIZE}, "augment": []}
    )
    if model == "padet":
        row = a_row(model, **FEW)
    job = training(row)
    assert job.one_frame
    plain, compiled = lines(do(job, tmp_path / "plain")), lines(do(job, tmp_path / "compiled", compiled=True))
    assert plain[0]["loss"] == pytest.approx(compiled[0]["loss"], rel=1e-6)
    for mine, theirs in zip(plain, compiled, strict=True):  # rounded otherwise, and so never quite the same weights
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
    if model == "retinanet":
        for one, other in zip(*(detections(job, tmp_path / each) for each in ("plain", "compiled")), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_without_a_compiler_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"^--compile: there is no C\+\+ compiler no-such-compiler; install one"):
        do(training(a_row("ssd", **FEW)), tmp_path / "a", compiled=True)


def test_frames_of_unlike_size_are_not_compiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = training(a_row("retinanet", **(FEW | {"iterations": 1})))
    assert not job.one_frame
    assert equal(do(job, tmp_path / "plain"), do(job, tmp_path / "compiled", compiled=True))
    assert "not compiled: its frames are of unlike sizes" in capsys.readouterr().out
