"""HAR-Net's five tables as plans; har-net.spec 7.2, 7.3, 8."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from benchsuite.errors import InputError
from benchsuite.models.resnet import ResNet
from benchsuite.models.retinanet import RetinaNet
from benchsuite.papers.harnet_testing import MultiScale
from benchsuite.pipelines.detection import Detection, Predict
from benchsuite.recipe.loading import load, select
from benchsuite.recipe.recipe import Recipe
from benchsuite.recipe.shelf import folder
from benchsuite.settings import canonical, content_key
from benchsuite.verbs.plan import Plan, make_plan

TRAINED = ["har-table1", "har-table2", "har-table3", "har-table4"]
BACKBONES = ("resnet-50", "resnet-101", "se-resnet-50", "se-resnet-101", "se-resnext-50", "se-resnext-101")
TOTALS = {
    "resnet-50": 37_387_832, "resnet-101": 56_379_960, "se-resnet-50": 39_918_824, "se-resnet-101": 61_157_672,
    "se-resnext-50": 39_390_696, "se-resnext-101": 60_786_216,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def counts(plan: Plan) -> Counter[str]:
    return Counter(job.kind() for job in plan.jobs.values())


def trains(plan: Plan) -> set[str]:
    return {key for key, job in plan.jobs.items() if job.kind() == "detection.Train"}


def test_29_trainings_and_39_evaluations() -> None:
    plan = make_plan(select(TRAINED), "paper")
    assert counts(plan)["detection.Train"] == 29
    shared = [users for key, users in plan.users.items() if key in trains(plan) and len(users) > 1]
    assert ["har-table1/baseline", "har-table2/baseline", "har-table3/baseline"] in [sorted(users) for users in shared]
    assert counts(make_plan(select(["har-*"]), "paper"))["detection.Predict"] == 39
    assert trains(make_plan(select(["har-*"]), "paper")) == trains(plan)
    assert counts(make_plan(select(TRAINED[:3]), "paper"))["detection.Train"] == 11


def test_biases_learn_as_in_the_release() -> None:
    """Twice the rate, no weight decay (har-net.spec 2: where the paper says nothing, the release)."""
    solvers = [planned.pipeline.solver for planned in make_plan(select(["har-*"]), "paper").rows]
    assert {(each.bias_lr_factor, each.bias_decay, each.norm_decay, each.weight_decay) for each in solvers} == {
        (2, 0, None, 1e-4)
    }


def test_a_score_threshold_adds_no_training() -> None:
    before, after = (make_plan(select(TRAINED), "paper", overrides=each) for each in ([], ["post.score_threshold=0.1"]))
    assert trains(before) == trains(after)
    assert not {key for key, job in before.jobs.items() if isinstance(job, Predict)} & set(after.jobs)


@pytest.mark.parametrize(("recipe", "label"), [("har-table2", "CLSE-CA"), ("har-table3", "AA(C5)")])
def test_a_rows_learning_rate_adds_one_training(recipe: str, label: str, tmp_path: Path) -> None:
    shutil.copytree(folder(), tmp_path / "recipes")
    file = tmp_path / "recipes" / f"{recipe}.yaml"
    before = trains(make_plan(select(TRAINED), "paper"))
    text = file.read_text()
    file.write_text(text.replace(f"label: {label}\n", f"label: {label}\n    solver: {{lr: 0.1}}\n"))
    others = [each for each in select(TRAINED) if each.id != recipe]
    assert len(trains(make_plan([*others, load(file)], "paper")) - before) == 1


def models(plan: Plan) -> dict[str, Detection]:
    return {each.row.id: each.pipeline for each in plan.rows if isinstance(each.pipeline, Detection)}


def test_table_4_has_six_backbones_by_four() -> None:
    rows = models(make_plan(select(["har-table4"]), "paper"))
    assert list(rows) == [f"{name}{end}" for name in BACKBONES for end in ("", "-aa-ca", "-ha", "-ha-ms")]
    for row_id, pipeline in rows.items():
        assert pipeline.input.frame == (896, 1280)
        assert isinstance(pipeline.testing, MultiScale) == row_id.endswith("-ms")
        assert isinstance(pipeline.model, RetinaNet)
        weights = pipeline.model.backbone.model_dump()["weights"]
        assert weights == ("IMAGENET1K_V1" if isinstance(pipeline.model.backbone, ResNet) else "in1k")


@pytest.mark.parametrize("name", BACKBONES)
def test_totals_of_table_4(name: str) -> None:
    rows = models(make_plan(select(["har-table4"]), "paper", rows=[f"{name}{end}" for end in ("", "-aa-ca", "-ha")]))
    with torch.device("meta"):
        built = [pipeline.model.build(80) for pipeline in rows.values()]
    found = [sum(value.numel() for value in model.parameters()) for model in built]
    assert [total - TOTALS[name] for total in found] == [0, 3_194_576, 4_595_685]


def test_inspect_tells_the_costs_of_multi_scale_testing() -> None:
    rows = models(make_plan(select(["har-table4"]), "paper", rows=["resnet-50-ha", "resnet-50-ha-ms"]))
    once, several = (pipeline.inspect() for pipeline in rows.values())
    assert once["parameters"] == several["parameters"] == 41_983_517
    assert once["input"] == [3, 896, 1280] and several["input"] == [3, 480, 640]
    assert several["anchors"] == 393_120 + 6 * (64 * 96 + 32 * 48 + 16 * 24 + 8 * 12 + 4 * 6)
    assert isinstance(once["macs"], int) and isinstance(several["macs"], int)
    assert several["macs"] > 3 * once["macs"]


@pytest.mark.parametrize("tier", ["smoke", "mini"])
def test_small_tiers_keep_the_backbones_apart(tier: str) -> None:
    plan = make_plan(select(["har-table4"]), tier)
    assert counts(plan)["detection.Train"] == 18
    backbones = {row: content_key(canonical(pipeline.model)) for row, pipeline in models(plan).items()}
    assert len({backbones[name] for name in BACKBONES}) == 6
    for name, pipeline in models(plan).items():
        if name.endswith("-ms"):
            fit = models(plan)[name.removesuffix("-ms")].fit(0)
            assert pipeline.fit(0).key == fit.key, "multi-scale testing trains nothing"


@pytest.mark.parametrize("tier", ["smoke", "mini", "paper"])
@pytest.mark.parametrize("recipe", TRAINED)
def test_baselines_and_claims_are_planned(recipe: str, tier: str) -> None:
    chosen: Recipe = select([recipe])[0]
    plan = make_plan([chosen], tier)
    assert len(plan.rows) == len(chosen.rows)
    assert all(claim.quote for claim in chosen.claims)
    assert {claim for _, claim, _ in plan.differences} == set(chosen.claims)


@pytest.mark.parametrize(
    ("recipe", "override", "told"),
    [
        ("har-table1", "model.neck={kind: harnet.AlignedNeck, align: [6]}", "`model.neck.align.0` is 6"),
        ("har-table1", "model.head={kind: retinanet.Head, clgn: {}}", "unknown key `model.head.clgn`"),
        (
            "har-table2",
            "model.head.spatial={dilations: [1, 0, 1], channels: 8}",
            "`model.head.spatial.dilations.1` is 0",
        ),
        (
            "har-table2",
            "model.head.channel.kind=harnet.CLES",
            "unknown kind 'harnet.CLES'; did you mean 'harnet.CLSE'?",
        ),
        ("har-table4", "testing={kind: harnet_testing.MultiScale, shorts: [500, 750]}", "need a pair of sizes"),
        ("har-table4", "testing.shorts=[500, 750]", "need a pair of sizes"),
        ("har-table4", "model.head.dual_predictors=true", "dual_predictors would see the same twice"),
        ("har-table2", "kind=harnet_training.Incremental", "has no attention to attach"),
    ],
)
def test_mistakes_are_one_line(recipe: str, override: str, told: str) -> None:
    rows = ["resnet-50-ha-ms"] if override.startswith("testing.shorts") else []
    with pytest.raises(InputError) as raised:
        make_plan(select([recipe]), "paper", rows=rows, overrides=[override])
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
