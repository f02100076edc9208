"""ASSD's four tables: every printed cell, plans, costs, schedules; assd.spec 2, 3, 6 and 7."""

import hashlib
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchsuite.data.voc import CLASSES
from benchsuite.errors import InputError
from benchsuite.papers import assd
from benchsuite.pipelines.detection import Detection
from benchsuite.pipelines.submit import CocoResults, Comp4
from benchsuite.recipe.loading import select
from benchsuite.recipe.recipe import Recipe
from benchsuite.recipe.yamlfile import read
from benchsuite.verbs.plan import Plan, make_plan

TABLES = [f"assd-table{number}" for number in (2, 3, 4, 5)]
TEXT = Path(__file__).parents[2] / "shared" / "papers" / "assd.txt"
CLASS_COLUMNS = (
    *("aero", "bike", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "table", "dog", "horse"),
    *("mbike", "person", "plant", "sheep", "sofa", "train", "tv"),
)
COCO_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@pytest.fixture(autouse=True)
def _no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@cache
def recipe(name: str) -> Recipe:
    return select([name])[0]


def planned(*recipes: str, tier: str = "paper", **options: Any) -> Plan:
    return make_plan([recipe(name) for name in recipes], tier, **options)


def pipelines(name: str, tier: str = "paper") -> dict[str, Any]:
    found = {each.row.id: each.pipeline for each in planned(name, tier=tier).rows}
    assert all(isinstance(pipeline, Detection) for pipeline in found.values())
    return found


def cells(name: str) -> list[tuple[str, dict[str, str]]]:
    """Label and published numbers of every row, as they are written in the file."""
    document = read(Path(__file__).parents[1] / "recipes" / f"{name}.yaml")
    return [
        (
            row.label,
            {column: document.origins["rows", place, "published", column].text for column in row.published},
        )
        for place, row in enumerate(recipe(name).rows)
    ]


def printed(start: str, count: int) -> list[list[str]]:
    """Rows of the paper's table whose head begins with `start`: the lines of as many cells."""
    lines = TEXT.read_text("utf-8").split("\n")
    first = next(number for number, line in enumerate(lines) if line.startswith(start))
    rows = ([cell.strip() for cell in line.split("\t")][:count] for line in lines[first + 1 :])
    return [row for row in rows if len(row) == count and any(re.fullmatch(r"\d+\.\d+", cell) for cell in row)]


PRINTED = {
    "assd-table2": ("Method\tBackbone\tTraining Data\tmAP", 9, 24),
    "assd-table3": ("Method\tBackbone\tTime (s)", 4, 4),
    "assd-table4": ("Method\tBackbone\tmAP\taero", 23, 18),
    "assd-table5": ("Wicthod\t", 15, 16),
}


def numbers(name: str, row: list[str]) -> tuple[str, dict[str, str]]:
    """A printed row as the recipe has it: its label, and its numbers by column."""
    if name == "assd-table2":
        method, backbone, _, ap, size, speeds, devices, anchors, parameters = row
        width, height = size.removeprefix("~").split("×")
        found = {"AP50": ap, "width": width, "height": height}
        for speed, device in zip(speeds.split("/"), devices.split("/"), strict=True):
            found["fps_" + device.lower().replace(" ", "_")] = speed
        found |= {"anchors": anchors, "parameters_M": parameters.removesuffix("M")}
        label = f"{method}, {backbone}"
    elif name == "assd-table3":
        label, found = row[0], {"latency_s": row[2], "AP50": row[3]}
    elif name == "assd-table4":
        label, found = f"{row[0]}, {row[1]}", dict(zip(("AP50", *CLASS_COLUMNS), row[2:], strict=True))
    else:
        label, found = f"{row[0]}, {row[2]}, {row[1]}", dict(zip(COCO_COLUMNS, row[3:], strict=True))
    return label, {column: cell for column, cell in found.items() if cell != "-"}


@pytest.mark.skipif(not TEXT.exists(), reason="the paper's text is not here")
@pytest.mark.parametrize("name", TABLES)
def test_every_printed_cell(name: str) -> None:
    start, count, many = PRINTED[name]
    rows = printed(start, count)[:many]
    assert len(rows) == len(recipe(name).rows) == many
    assert cells(name) == [numbers(name, row) for row in rows]


@pytest.mark.parametrize(
    ("name", "count", "digest"),
    [
        ("assd-table2", 137, "a1bd7c7af39f55a8"),
        ("assd-table3", 8, "4a3c46ab9be9eb16"),
        ("assd-table4", 378, "c1c1d0213b4ceb6c"),
        ("assd-table5", 157, "5f1177e1530e2b06"),
    ],
)
def test_published_cells_are_those_once_compared_with_the_paper(name: str, count: int, digest: str) -> None:
    found = cells(name)
    assert sum(len(row) for _, row in found) == count
    assert hashlib.sha256(repr(found).encode()).hexdigest()[:16] == digest


def test_14_trainings() -> None:
    plan = planned(*TABLES)
    counts = Counter(job.kind() for job in plan.jobs.values())
    assert counts["detection.Train"] == 14
    assert counts["detection.Submit"] == 6
    users = [users for key, users in plan.users.items() if plan.jobs[key].kind() == "detection.Train"]
    assert sorted(sorted(rows) for rows in users if len(rows) > 1) == [
        ["assd-table2/assd513", "assd-table3/assd513"],
        ["assd-table2/ssd513", "assd-table3/ssd513"],
    ]


def test_table_3_times_each_row_and_table_2_too() -> None:
    assert Counter(job.kind() for job in planned("assd-table3").jobs.values())["detection.Time"] == 4
    assert Counter(job.kind() for job in planned("assd-table2").jobs.values())["detection.Time"] == 6


COSTS = {
    "assd-table2": {
        "ssd321": (56_759_982, 10_352, 321), "assd300": (29_417_646, 8_732, 300), "assd321": (66_675_118, 10_352, 321),
        "ssd513": (57_549_764, 25_844, 513), "assd512": (30_173_380, 24_564, 512), "assd513": (67_546_820, 25_844, 513),
    },
    "assd-table3": {
        "ssd513": (57_549_764, 25_844, 513), "ssd513-fusion": (58_863_300, 25_844, 513),
        "ssd513-att": (66_233_284, 25_844, 513), "assd513": (67_546_820, 25_844, 513),
    },
    "assd-table4": {
        "assd300": (29_417_646, 8_732, 300), "assd321": (66_675_118, 10_352, 321),
        "assd512": (30_173_380, 24_564, 512), "assd513": (67_546_820, 25_844, 513),
    },
    "assd-table5": {"assd321": (82_712_758, 10_352, 321), "assd513": (84_690_740, 25_844, 513)},
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_inspect(name: str) -> None:
    found: dict[str, Any] = {row: pipeline.inspect() for row, pipeline in pipelines(name).items()}
    assert {row: (cost["parameters"], cost["anchors"], cost["input"][1]) for row, cost in found.items()} == COSTS[name]
    if name == "assd-table3":
        macs = [cost["macs"] for cost in found.values()]
        assert [round(each / 1e9, 2) for each in macs] == [48.30, 50.95, 64.59, 67.24]
        assert [round(each / macs[0], 3) for each in macs] == [1, 1.055, 1.337, 1.392]
    if name == "assd-table2":
        assert [round(found[row]["macs"] / 1e9, 2) for row in ("ssd321", "assd321")] == [19.54, 24.30]


def test_the_papers_parameters_are_ours() -> None:
    rows: dict[str, Any] = {
        row.id: row.published["parameters_M"] for row in recipe("assd-table2").rows if row.role == "run"
    }
    assert rows == {row: round(COSTS["assd-table2"][row][0] / 1e6, 1) for row in rows}


def test_the_papers_times() -> None:
    """Ratios 1, 1.035, 1.124, 1.163; fusion and attention add up within 1 ms; 1 / 0.1648 s are Table 2's 6.1 FPS."""
    times: list[Any] = [row.published["latency_s"] for row in recipe("assd-table3").rows]
    base, fusion, attention, both = times
    assert [round(each / base, 3) for each in times] == [1, 1.035, 1.124, 1.163]
    assert abs(fusion + attention - base - both) < 0.001
    assert round(1 / both, 1) == recipe("assd-table2").row("assd513").published["fps_k40"]


def test_fusion_and_attention_at_321() -> None:
    base = pipelines("assd-table2")["ssd321"]
    for part, parameters, gmac in (("fusion", 58_073_518, 20.60), ("attention", 65_361_582, 23.24)):
        neck = base.model.neck.model_copy(update={part: getattr(assd, part.capitalize())()})
        cost = base.model_copy(update={"model": base.model.model_copy(update={"neck": neck})}).inspect()
        assert cost["parameters"] == parameters and round(cost["macs"] / 1e9, 2) == gmac


@pytest.mark.parametrize(
    ("name", "images", "wanted"),
    [
        ("assd-table2", 16_551, {"300": (80, 280, 200, 250), "513": (64, 180, 120, 170)}),
        ("assd-table3", 16_551, {"513": (64, 180, 120, 170)}),
        ("assd-table4", 21_503, {"300": (80, 280, 200, 250), "513": (64, 180, 120, 170)}),
        ("assd-table5", 118_287, {"300": (80, 160, 100, 150), "513": (64, 140, 80, 130)}),
    ],
)
def test_schedules(name: str, images: int, wanted: dict[str, tuple[int, ...]]) -> None:
    """spec 3: epochs and drops, 8 or 10 images to a BatchNorm; VGG-16's as the ResNet's of about its size."""
    for pipeline in pipelines(name).values():
        solver, side = pipeline.solver, pipeline.input.height
        batch, *epochs = wanted["300" if side < 400 else "513"]
        assert (solver.batch, solver.micro_batch) == (batch, batch // 8)
        steps = [solver.iterations, *solver.drops]
        assert all(abs(step - epoch * images / batch) <= 0.5 for step, epoch in zip(steps, epochs, strict=True))
        assert (solver.lr, solver.gamma, solver.momentum, solver.weight_decay) == (0.001, 0.1, 0.9, 0.0005)
        assert solver.warmup_iterations == 0 and solver.clip_norm is None
        assert [part.kind().partition(".")[2] for part in pipeline.augment] == [
            "PhotometricDistort", "ZoomOut", "IoUCrop", "Flip",
        ]  # fmt: skip


def test_inference_is_ssds() -> None:
    post = pipelines("assd-table3")["assd513"].post
    assert (post.score_threshold, post.per_level, post.per_class, post.per_image) == (0.01, None, 400, 200)
    assert post.nms.kind() == "postprocess.Hard" and post.nms.iou == 0.45


def test_protocols_and_submissions() -> None:
    protocols = {name: {pipeline.protocol for pipeline in pipelines(name).values()} for name in TABLES}
    assert protocols == {
        "assd-table2": {"voc07"}, "assd-table3": {"voc07"}, "assd-table4": {"voc12"}, "assd-table5": {"coco"},
    }  # fmt: skip
    assert all(isinstance(each.submit, Comp4) for each in pipelines("assd-table4").values())
    assert all(isinstance(each.submit, CocoResults) for each in pipelines("assd-table5").values())
    plan = planned("assd-table4")
    assert not [job for job in plan.jobs.values() if job.kind() == "detection.Score"], "only the server has the truth"


def test_a_column_for_each_class() -> None:
    columns = {column.id: column.number for column in recipe("assd-table4").columns}
    assert columns == {
        "AP50": "AP50",
        **{short: f"AP50/{name}" for short, name in zip(CLASS_COLUMNS, CLASSES, strict=True)},
    }


@pytest.mark.parametrize("tier", ["smoke", "mini", "paper"])
@pytest.mark.parametrize("name", TABLES)
def test_rows_are_trained_apart_and_claims_planned(name: str, tier: str) -> None:
    chosen, plan = recipe(name), planned(name, tier=tier)
    ran = [row for row in chosen.rows if row.role == "run"]
    assert Counter(job.kind() for job in plan.jobs.values())["detection.Train"] == len(ran)
    assert all(row.cite for row in chosen.rows if row.role == "quoted")
    assert all(claim.quote for claim in chosen.claims)


@pytest.mark.parametrize("tier", ["smoke", "mini"])
@pytest.mark.parametrize("name", TABLES)
def test_small_tiers_fit_their_anchors(name: str, tier: str) -> None:
    """Every level of every row has its anchors: the model passes an image of its tier's size."""
    for pipeline in pipelines(name, tier).values():
        assert pipeline.inspect()["anchors"] > 0


@pytest.mark.parametrize(
    "backbone",
    [
        "{kind: resnet.ResNet, depth: 50}",
        "{kind: timm_backbone.Timm, name: seresnet50}",
        "{kind: lite0.Lite0, weights: null}",
        "{kind: vgg.Vgg, depth: 11, levels: [conv4, conv5, fc7]}",
    ],
)
def test_any_backbone_of_three_maps(backbone: str) -> None:
    overrides = [f"model.backbone={backbone}", "model.anchors.steps=null"]
    row = planned("assd-table3", rows=["assd513"], overrides=overrides).rows[0]
    anchors: Any = row.pipeline.inspect()["anchors"]
    assert anchors == 25_844 if "vgg" not in backbone else anchors > 25_844, "fc7 is as fine as conv5"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("input.height=321", "no cell is left for level 7, after a level of 2×3"),
        ("input={height: 321, width: 321}", "no cell is left for level 7, after a level of 2×2"),
        ("model.neck.attention={levels: [8]}", "there are levels 1 to 7 and no 8"),
        ("model.neck.of.blocks=[{squeeze: 8, channels: 8}]", "default boxes for 7 levels, and the model has 4"),
        ("model.neck.fusion.width=0", "`model.neck.fusion.width` is 0"),
    ],
)
def test_mistakes_are_one_line(override: str, told: str) -> None:
    with pytest.raises(InputError) as raised:
        for row in planned("assd-table3", rows=["assd513"], overrides=[override]).rows:
            assert row.pipeline is not None
            row.pipeline.inspect()
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
