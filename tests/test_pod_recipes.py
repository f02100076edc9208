"""POD's five tables as plans, and their published numbers; pod.spec 6, 7, 9."""

import contextlib
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pod_cases import channels, scales

from benchsuite.cli import app as cli
from benchsuite.engine.store import Store
from benchsuite.errors import InputError
from benchsuite.papers.pod_decompose import decompose_all
from benchsuite.papers.pod_jobs import Decompose, Fd, Plain, Transfer
from benchsuite.pipelines.detection import Detection, Train
from benchsuite.recipe.loading import load_recipe, select
from benchsuite.recipe.recipe import Spread
from benchsuite.recipe.shelf import folder
from benchsuite.report.results import published_value
from benchsuite.settings import canonical, content_key
from benchsuite.verbs.plan import Plan, make_plan

TABLES = [f"pod-table{number}" for number in range(1, 6)]


@pytest.fixture(autouse=True)
def _no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])


def counts(plan: Plan) -> Counter[str]:
    return Counter(job.kind() for job in plan.jobs.values())


def trains(plan: Plan) -> dict[str, Train]:
    return {key: job for key, job in plan.jobs.items() if isinstance(job, Train)}


@pytest.mark.parametrize("tier", ["smoke", "mini", "paper"])
def test_29_trainings_and_none_twice(tier: str) -> None:
    plan = make_plan(select(TABLES), tier)
    assert Counter(job.work for job in plan.jobs.values())["Train"] == 29
    assert counts(plan)["detection.Train"] == 6 + 3 + 6 + 6 + 3, "base 1×, base 2×, GSL, FD 1×, FD 2×"
    assert counts(plan)["pod_jobs.Transfer"] == 4 + 1, "FD-WT 1×, FD-WT 1.5× jittered"
    assert counts(plan)["pod_jobs.Scales"] == 7 and counts(plan)["pod_jobs.Decompose"] == 6
    assert counts(plan)["detection.Time"] == 9
    assert counts(plan)["pod_jobs.LayerScales"] == 8 and counts(plan)["detection.Submit"] == 2
    forms = [content_key(job.form) for job in trains(plan).values()]
    assert len(set(forms)) == len(forms) == 29
    assert len(trains(make_plan(select(TABLES[1:]), tier))) == 27


def test_units_of_1x() -> None:
    plan = make_plan(select(TABLES), "paper")
    units = [job.solver.iterations / 95_277 for job in trains(plan).values()]
    assert sum(units) == pytest.approx(35.5, abs=1e-4)
    assert Counter(round(unit, 3) for unit in units) == {1: 22, 2: 6, 1.5: 1}


def test_tables_share_their_trainings() -> None:
    plan = make_plan(select(TABLES), "paper")
    users = [set(plan.users[key]) for key in trains(plan)]
    assert {"pod-table2/c4-50", "pod-table4/c4-50"} in users
    assert {"pod-table2/c4-50-fd", "pod-table4/c4-50-fd"} in users
    gsl = next(each for each in users if "pod-table4/c4-50-gsl" in each)
    assert {row.partition("/")[0] for row in gsl} == set(TABLES) - {"pod-table1"}
    first = next(each for each in users if "pod-table4/c4-101-gsl" in each)
    assert first == {"pod-table1/c4-101-fd-wt", "pod-table2/c4-101-fd", "pod-table4/c4-101-gsl", "pod-table4/c4-101-fd"}


@pytest.mark.parametrize("tier", ["smoke", "mini", "paper"])
@pytest.mark.parametrize("recipe", TABLES)
def test_rows_and_claims_are_planned(recipe: str, tier: str) -> None:
    chosen = load_recipe(recipe)
    plan = make_plan([chosen], tier)
    assert [each.row.id for each in plan.rows] == [row.id for row in chosen.rows if row.role == "run"]
    assert all(claim.quote for claim in chosen.claims)
    scored = {claim for claim in chosen.claims if claim.on == "AP"}
    assert {claim for _, claim, _ in plan.differences} == scored
    assert len(chosen.rows) == dict(zip(TABLES, (15, 12, 8, 9, 9), strict=True))[recipe]


def test_the_papers_settings() -> None:
    for planned in make_plan(select(TABLES), "paper").rows:
        pipeline = planned.pipeline
        assert isinstance(pipeline, Plain)
        solver = pipeline.solver
        assert solver.lr / solver.batch == 0.00125 and (solver.momentum, solver.weight_decay) == (0.9, 1e-4)
        assert (solver.norm_decay, solver.bias_decay, solver.bias_lr_factor) == (None, None, None)
        epoch = 117_266 // solver.batch
        assert (solver.iterations, *solver.drops) == (13 * epoch, 8 * epoch, 11 * epoch)
        assert pipeline.input.frame == (800, 1344) and pipeline.measure.images == 512
        assert [part.kind() for part in pipeline.augment] == ["transforms.Flip"]
        model = canonical(pipeline.model)
        assert isinstance(model, dict)
        backbone = model["backbone"]
        assert (backbone["weights"], backbone["frozen_stages"], backbone["frozen_norms"]) == ("IMAGENET1K_V1", 2, False)


def test_the_jittered_row_reuses_the_unjittered_scales() -> None:
    (planned,) = make_plan(select(["pod-table1"]), "paper", rows=["retina-101-fd-wt"]).rows
    assert isinstance(planned.pipeline, Fd)
    fit = planned.pipeline.fit(0)
    assert isinstance(fit, Transfer) and isinstance(fit.model, Decompose)
    assert fit.model.scales.train.key == fit.gsl.key
    assert [part.kind() for part in fit.augment] == ["transforms.Flip", "transforms.Jitter"]
    assert [part.kind() for part in fit.gsl.augment] == ["transforms.Flip"]
    table2 = make_plan(select(["pod-table2"]), "paper", rows=["retina-101-fd"]).rows[0].pipeline
    assert isinstance(table2, Fd) and table2.network(0).key == fit.model.key


def test_parameters_with_their_norms() -> None:
    plan = make_plan(select(["pod-table2"]), "paper")
    found = {each.row.id: each.pipeline.inspect() for each in plan.rows if each.row.baseline is None}
    assert {row: costs["parameters"] for row, costs in found.items()} == {
        "c4-50": 33_852_960, "c4-101": 52_845_088, "fpn-50": 41_757_156, "fpn-101": 60_749_284,
        "retina-50": 37_968_692, "retina-101": 56_960_820,
    }  # fmt: skip
    unknown = {each.row.id: each.pipeline.inspect() for each in plan.rows if each.row.baseline is not None}
    assert all(costs["parameters"] is None and "--artifact" in str(costs["reason"]) for costs in unknown.values())


def published(recipe: str) -> dict[str, dict[str, float]]:
    rows = load_recipe(recipe).rows
    return {row.id: {name: value for name, cell in row.published.items()
                     if (value := published_value(cell)) is not None} for row in rows}  # fmt: skip


def test_gains_that_the_paper_prints() -> None:
    table2, table5 = published("pod-table2"), published("pod-table5")
    gains = [
        round(cells["AP"] - table2[row.removesuffix("-fd")]["AP"], 1) for row, cells in table2.items() if "fd" in row
    ]
    assert gains == [3.0, 2.2, 1.7, 1.5, 1.5, 1.3]
    names = ("c4-50", "fpn-50", "retina-50")
    assert [round(table5[f"{name}-fd-wt"]["AP"] - table5[f"{name}-2x"]["AP"], 1) for name in names] == [3.0, 1.6, 1.6]


def test_times_that_the_paper_prints() -> None:
    table4 = published("pod-table4")
    time = {row: cells["latency_ms"] for row, cells in table4.items()}
    for name, fd, gsl in (("c4-50", 1.006, 1.703), ("c4-101", 1.006, 1.643), ("retina-50", 1.010, 1.500)):
        assert time[f"{name}-fd"] / time[name] == pytest.approx(fd, abs=5e-4)
        assert time[f"{name}-gsl"] / time[name] == pytest.approx(gsl, abs=5e-4)


def test_published_scales_spread_less_than_5_percent() -> None:
    """The paper's "less than 3%" is not so for R46."""
    cells = [
        cell for row in load_recipe("pod-table3").rows for cell in row.published.values() if isinstance(cell, Spread)
    ]
    shares = sorted(cell.std / cell.mean for cell in cells)
    assert len(shares) == 48 and 0.03 < shares[-1] < 0.05
    for row in load_recipe("pod-table3").rows:
        for name, cell in row.published.items():
            if isinstance(cell, Spread):
                assert row.published[f"{name}_std"] == cell.std


def test_a_threshold_trains_nothing_anew() -> None:
    before, after = (make_plan(select(TABLES), "paper", overrides=each) for each in ([], ["post.score_threshold=0.1"]))
    assert trains(before).keys() == trains(after).keys()


@pytest.mark.parametrize(
    ("recipe", "override", "told"),
    [
        ("pod-table2", "schedule=0", "`schedule` is 0: input should be greater than 0"),
        ("pod-table2", "gsl.init=one", "`gsl.init` is 'one'"),
        ("pod-table2", "measure.images=0", "`measure.images` is 0"),
        ("pod-table2", "measure.image=4", "unknown key `measure.image`; did you mean 'images'?"),
        ("pod-table3", "direction=x", "`direction` is 'x'"),
        ("pod-table5", "model.backbone.edits=[{kind: pod.Gls}]", "unknown kind 'pod.Gls'; did you mean 'pod.Gsl'?"),
        ("pod-table5", "model.backbone.edits=[{kind: pod.Fd, dilations: {layers: {R31: []}}}]", "at least 1 item"),
    ],
)
def test_mistakes_are_one_line(recipe: str, override: str, told: str) -> None:
    with pytest.raises(InputError) as raised:
        make_plan(select([recipe]), "paper", overrides=[override])
    assert told in str(raised.value) and "\n" not in str(raised.value)


def test_rows_are_detections() -> None:
    assert all(isinstance(each.pipeline, Detection) for each in make_plan(select(TABLES), "smoke").rows)


def test_inspect_reads_the_plan_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder(), tmp_path / "recipes")
    file = tmp_path / "recipes" / "mine.yaml"
    row = "{id: fd, kind: pod_jobs.Fd, model: {kind: retinanet.RetinaNet, backbone: {depth: 50}}}"
    file.write_text(f'id: mine\nextends: _pod.yaml\ntable: "0"\ntitle: one row\nrows:\n  - {row}\n')
    found = inspected(capsys, file)
    assert found["parameters"] is None
    key = str(found["reason"]).rpartition(" ")[2]
    store = Store(tmp_path / "runs")
    store.prepare()
    with store.lock(key), store.scratch(key) as scratch:
        decompose_all(scales("N50"), channels()).save(scratch / "dilations.json")
        store.publish(key, scratch, {})
    plain = 37_387_832  # of HAR-Net's baseline, which has the same six anchors a cell
    assert inspected(capsys, file, "--artifact", key, "--store", store.root)["parameters"] == plain - 561_152
    other = inspected(capsys, file, "--artifact", key, "--store", store.root, "--set", "gsl.init=he")
    assert other["parameters"] is None and key not in str(other["reason"]), "another network's plan"
    sys.argv = ["bench", "inspect", str(file), "--artifact", "none"]
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2 and "no such artifact in the store" in capsys.readouterr().err


def inspected(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    sys.argv = ["bench", "inspect", *map(str, arguments), "--json"]
    with contextlib.suppress(SystemExit):
        cli.main()
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert isinstance(row, dict)
    return row
