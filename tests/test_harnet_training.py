"""Incremental training (section III-D, IV-B) and slower parameters; har-net.spec 3, 7.16."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from benchsuite.engine.job import Artifact, Context
from benchsuite.loops.solver import Solver, factors
from benchsuite.loops.train import Run
from benchsuite.models.retinanet import RetinaNet
from benchsuite.papers.harnet import Head
from benchsuite.papers.harnet_training import Incremental
from benchsuite.pipelines.detection import Detection, Train
from benchsuite.recipe.loading import select
from benchsuite.verbs.plan import make_plan

SMALL_HEAD = {
    "kind": "harnet.Head", "channels": 8, "depth": 1, "clgn": {"groups": 4}, "extra_conv": True,
    "spatial": {"dilations": (1, 1), "channels": 4}, "channel": {"kind": "harnet.CLSE"},
}  # fmt: skip
SMALL: dict[str, Any] = {
    "kind": "harnet_training.Incremental",
    "attach_at": 2,
    "data": {
        "train": {"kind": "generated.Generated", "images": 4, "height": 64, "width": 64},
        "val": {"kind": "generated.Generated", "split": "val", "images": 2, "height": 64, "width": 64},
    },
    "input": {"kind": "transforms.Fixed", "height": 64, "width": 64},
    "model": {
        "kind": "retinanet.RetinaNet",
        "backbone": {"kind": "resnet.ResNet", "depth": 18},
        "neck": {"kind": "harnet.AlignedNeck", "align": (5,), "channels": 8, "groups": 4,
                 "of": {"kind": "fpn.Fpn", "channels": 8}},
        "head": SMALL_HEAD,
    },
    "solver": {"lr": 0.01, "batch": 2, "iterations": 4, "warmup_iterations": 1, "drops": (3,)},
    "metric": {"kind": "coco.Coco"},
}  # fmt: skip


def pipeline(**changes: Any) -> Detection:
    chosen = Detection.model_validate(SMALL | changes)
    assert isinstance(chosen, Detection)
    return chosen


def do(job: Train, folder: Path, **inputs: Artifact) -> Artifact:
    folder.mkdir(parents=True)
    job.do(Context(folder, folder / "partial", folder.parent / "cache", inputs))
    return Artifact(job.key, folder)


def test_the_first_training_has_no_attention_in_its_head() -> None:
    whole = pipeline().fit(0)
    main = whole.start
    assert main is not None and main.start is None
    assert main.solver == whole.solver.model_copy(update={"iterations": 2})
    assert isinstance(main.model, RetinaNet) and isinstance(whole.model, RetinaNet)
    assert main.model.head == Head(channels=8, depth=1)
    assert main.model.neck == whole.model.neck, "the main network has aligned attention"
    with torch.device("meta"):
        names = set(main.model.build(2).state_dict())
    assert not [name for name in names if "spatial" in name or "attention" in name]
    assert whole.inputs == {"start": main}


def test_the_second_goes_on_from_the_first(tmp_path: Path) -> None:
    whole = pipeline().fit(0)
    assert whole.start is not None
    main = do(whole.start, tmp_path / "main")
    before = load_file(main.path("weights.safetensors"))
    none = pipeline(solver=SMALL["solver"] | {"lr": 1e-12, "weight_decay": 0.0}).fit(0)
    after = load_file(do(none, tmp_path / "same", start=main).path("weights.safetensors"))
    for name, value in before.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(after[name], value, rtol=1e-6, atol=1e-6)
    assert {name for name in after.keys() - before.keys() if "spatial" in name}
    log = (tmp_path / "same" / "log.jsonl").read_text().splitlines()
    assert [line.split(",")[0] for line in log] == ['{"iteration": 3', '{"iteration": 4']


def test_every_attention_weight_moves_after_it_is_attached(tmp_path: Path) -> None:
    whole = pipeline().fit(0)
    assert whole.start is not None
    main = do(whole.start, tmp_path / "main")
    after = load_file(do(whole, tmp_path / "whole", start=main).path("weights.safetensors"))
    torch.manual_seed(0)
    start = whole.model.build(24).state_dict()
    still = [n for n in after if ("spatial" in n or "attention" in n) and torch.equal(after[n], start[n])]
    assert not still


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"attach_at": 4}, "attach_at 4 is not before the end of 4 iterations"),
        ({"attach_at": 0}, "greater than 0"),
        ({"model": SMALL["model"] | {"head": {"kind": "harnet.Head"}}}, "has no attention to attach"),
        ({"model": SMALL["model"] | {"head": {"kind": "retinanet.Head"}}}, "has no attention to attach"),
    ],
)
def test_refuses(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Incremental.model_validate(SMALL | changes)


def test_it_is_a_setting_of_any_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = select(["har-table4"])[0]
    plan = make_plan([recipe], "paper", rows=["resnet-50-ha"], overrides=["kind=harnet_training.Incremental"])
    (pipeline,) = (planned.pipeline for planned in plan.rows)
    assert isinstance(pipeline, Incremental) and pipeline.attach_at == 24_000
    assert [job.kind() for job in plan.jobs.values()] == [
        "detection.Train",
        "detection.Train",
        "detection.Predict",
        "detection.Score",
    ]


# --- slower parameters


def test_factors_reach_the_optimizer(tmp_path: Path) -> None:
    model = pipeline().fit(0).model.build(3)
    rates = factors(model, "lr_factor")
    assert rates.keys() == dict(model.named_parameters()).keys()
    solver = Solver(lr=0.5, iterations=2, batch=1, warmup_iterations=0)
    run = Run(model, solver, Context(tmp_path, tmp_path / "partial", tmp_path), 0)
    groups = {group["factor"]: len(group["params"]) for group in run.optimizer.param_groups}
    assert groups == {1.0: len(rates) - 2, 0.1: 2}


def test_a_factor_scales_the_step(tmp_path: Path) -> None:
    """The same gradient moves the offsets a tenth as far as it would at factor 1."""
    moved = {}
    for factor in (1.0, 0.1):
        neck = SMALL["model"]["neck"] | {"offset_lr": factor}
        job = pipeline(model=SMALL["model"] | {"neck": neck}, solver=SMALL["solver"] | {"iterations": 3}).fit(0)
        assert job.start is not None
        one = job.start.model_copy(update={"solver": Solver(lr=0.01, iterations=1, batch=2, warmup_iterations=0)})
        weights = load_file(do(one, tmp_path / str(factor)).path("weights.safetensors"))
        moved[factor] = weights["neck.units.C5.offsets.weight"]
    assert moved[1.0].any()
    torch.testing.assert_close(moved[0.1], 0.1 * moved[1.0], rtol=1e-4, atol=1e-9)
