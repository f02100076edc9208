"""PADet's six tables as plans, and every published cell as the paper prints it; padet.spec 4, 5, 6, 7."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchsuite.errors import InputError
from benchsuite.models.postprocess import Soft
from benchsuite.models.resnet import ResNet
from benchsuite.papers.padet import Disentangled, Explicit, Implicit, PADet
from benchsuite.pipelines.detection import Detection
from benchsuite.recipe.loading import select
from benchsuite.recipe.recipe import Recipe
from benchsuite.verbs.plan import Plan, make_plan

ABLATIONS = [f"padet-table{number}" for number in (1, 2, 3, 4)]
TABLES = [*ABLATIONS, "padet-table5", "padet-table6"]
TEXT = Path(__file__).parents[2] / "shared" / "papers" / "padet.txt"
in_print = pytest.mark.skipif(not TEXT.is_file(), reason="the paper's text (../shared/papers) is not on this machine")


@pytest.fixture(autouse=True)
def _no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recipe(name: str) -> Recipe:
    return select([name])[0]


def kinds(plan: Plan) -> Counter[str]:
    return Counter(job.kind() for job in plan.jobs.values())


def pipelines(name: str, tier: str = "paper", *overrides: str) -> dict[str, Any]:
    return {each.row.id: each.pipeline for each in make_plan(select([name]), tier, overrides=overrides).rows}


@pytest.mark.parametrize("tier", ["smoke", "mini", "paper"])
def test_10_trainings_make_four_tables(tier: str) -> None:
    plan = make_plan(select(ABLATIONS), tier)
    assert kinds(plan)["detection.Train"] == 10
    names = {user.partition("/")[2] for key, job in plan.jobs.items() if job.kind() == "detection.Train"
             for user in plan.users[key]}  # fmt: skip
    assert names == {"base", "c", "r", "cr", "implicit", "xl", "xs", "xlxs", "full", "r-fa"}
    assert kinds(plan)["detection.Score"] == 10, "every table reads the numbers that it wants"


def test_15_trainings_make_all_tables() -> None:
    assert kinds(make_plan(select(["padet-*"]), "paper"))["detection.Train"] == 15
    shared = make_plan(select(["padet-table1", "padet-table6"]), "paper")
    assert ["padet-table1/full", "padet-table6/full"] in [sorted(users) for users in shared.users.values()]


def test_what_rows_are() -> None:
    found = {name: {row: pipeline.model for row, pipeline in pipelines(name).items()} for name in TABLES}
    for models in found.values():
        for row, model in models.items():
            assert isinstance(model, PADet)
            assert (model.scoring is not None) == (row not in ("base", "r", "r-fa")), row
            assert (model.adjustment is not None) == (row not in ("base", "c")), row
    sources = {row: model.alignment for row, model in found["padet-table1"].items()}
    assert sources == {
        "cr": None, "implicit": Implicit(), "xl": Explicit(of="location"), "xs": Explicit(of="shape"),
        "xlxs": Explicit(of="both"), "full": Disentangled(),
    }  # fmt: skip
    assert [row for row, model in found["padet-table2"].items() if model.alignment] == ["full"]
    assert [row for row, model in found["padet-table3"].items() if model.alignment] == ["r-fa", "full"]
    backbones = [type(model.backbone) is ResNet for model in found["padet-table6"].values()]
    assert backbones == [False, False, True, True]


@pytest.mark.parametrize(("row", "scales", "levels"), [
    ("padet-table1/full", (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05), 5),
    ("padet-table5/voc-384", (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05), 5),
    ("padet-table5/voc-512", (0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05), 6),
    ("padet-table6/v512", (0.04, 0.1, 0.26, 0.42, 0.58, 0.74, 0.9, 1.06), 6),
    ("padet-table6/r512", (0.04, 0.1, 0.26, 0.42, 0.58, 0.74, 0.9, 1.06), 6),
])  # fmt: skip
def test_scales(row: str, scales: tuple[float, ...], levels: int) -> None:
    name, _, row_id = row.partition("/")
    pipeline = pipelines(name)[row_id]
    assert pipeline.model.anchors.scales == scales
    assert pipeline.model.anchors.ratios == ((2.0, 3.0),) * (levels - 1) + ((2.0,),) * 2
    assert pipeline.model.neck.levels == levels
    assert pipeline.input.frame == ((512, 512) if levels == 6 else (384, 384))


@pytest.mark.parametrize("name", TABLES)
def test_schedule_and_inference(name: str) -> None:
    """Section 3.3: 160 epochs of whole batches, warm-up over 5, drops at 100 and 140; linear Soft-NMS."""
    per_epoch = 16_551 // 32 if name == "padet-table5" else 118_287 // 32
    for pipeline in pipelines(name).values():
        assert isinstance(pipeline, Detection)
        solver, post = pipeline.solver, pipeline.post
        assert (solver.batch, solver.momentum, solver.weight_decay, solver.clip_norm) == (32, 0.9, 5e-4, None)
        assert solver.iterations == 160 * per_epoch
        assert (solver.warmup_iterations, solver.drops) == (5 * per_epoch, (100 * per_epoch, 140 * per_epoch))
        assert (post.score_threshold, post.per_level, post.per_class, post.per_image) == (0.01, None, 1000, 300)
        assert post.nms == Soft(method="linear", iou=0.3, floor=0.001)
        assert pipeline.model.backbone.model_dump()["weights"] == "IMAGENET1K_V1"
        assert [each.kind() for each in pipeline.augment] == [
            "transforms.PhotometricDistort", "transforms.ZoomOut", "transforms.IoUCrop", "transforms.Flip"
        ]  # fmt: skip


def test_learning_rate_at_the_named_steps() -> None:
    solver = pipelines("padet-table2")["base"].solver
    assert solver.iterations == 591_360
    wanted = {0: 1e-6, 9_240: 1.0005e-3, 18_480: 2e-3, 369_599: 2e-3, 369_600: 2e-4, 517_440: 2e-5, 591_359: 2e-5}
    assert {step: solver.lr_at(step) for step in wanted} == pytest.approx(wanted)


@pytest.mark.parametrize("tier", ["smoke", "mini", "paper"])
@pytest.mark.parametrize("name", TABLES)
def test_rows_and_claims_are_planned(name: str, tier: str) -> None:
    chosen = recipe(name)
    plan = make_plan([chosen], tier)
    run = [row.id for row in chosen.rows if row.role == "run"]
    assert [each.row.id for each in plan.rows if each.pipeline is not None] == run
    assert {claim for _, claim, _ in plan.differences} <= set(chosen.claims)


@in_print
def test_ratios_are_the_texts() -> None:
    """Section 3.1, which the columns of figure 1 are held against."""
    text = " ".join(TEXT.read_text("utf-8").split())
    for said in ("increased by 9.5 times", "from 1:625 to 1:105", "increased by 64.7 times to nearly 1:10"):
        assert said in text
    told = {row.id: row.published.get("negatives_per_positive") for row in recipe("padet-table2").rows}
    assert told == {"base": 625, "c": round(625 / 9.5, 1), "r": 105, "cr": round(625 / 64.7, 1), "full": None}


def test_inspect() -> None:
    """The brief's numbers, from the recipes as they are."""
    totals = {
        "base": 36_469_216, "c": 36_542_976, "r": 36_764_256, "cr": 36_838_016, "full": 36_839_056,
        "implicit": 37_003_976, "xl": 36_838_952, "xs": 36_838_952, "xlxs": 36_839_816, "r-fa": 36_765_296,
        "v512": 41_364_912, "r384": 64_229_776, "r512": 68_755_632, "voc-384": 32_413_456, "voc-512": 36_109_512,
    }  # fmt: skip
    for name in ("padet-table1", "padet-table2", "padet-table3", "padet-table5", "padet-table6"):
        for row, pipeline in pipelines(name).items():
            found = pipeline.inspect()
            assert found["parameters"] == totals[row], row
            assert found["anchors"] == (32_756 if row.endswith("512") else 18_400), row


# What the paper prints


def printed(number: int) -> list[list[float | None]]:
    """The numbers of each line of a table in the paper's text."""
    text = TEXT.read_text("utf-8")
    heads = {1: "Option\tVariants", 2: "APM_C\tAPM_R\tFA", 3: "APM_R\tFA\tAP ₅₀", 4: "Method\tArea",
             5: "Method\tBackbone", 6: "\tBackbone\tInput size\tFPS"}  # fmt: skip
    start = text.index(heads[number])
    lines = text[start : text.index(f"Table {number}:", start)].splitlines()[1:]
    cells = [[cell.strip() for cell in line.split("\t")] for line in lines]
    numbers = [[cell for cell in line if re.fullmatch(r"\d+\.\d+|-", cell)] for line in cells]
    return [[None if cell == "-" else float(cell) for cell in line] for line in numbers if line]


@in_print
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
def test_every_published_cell(number: int) -> None:
    chosen = recipe(f"padet-table{number}")
    elsewhere = ("minival", "forward", "latency", "fps", "positives", "negatives")
    columns = [column for column in chosen.column_ids if not column.startswith(elsewhere)]
    lines = printed(number)
    if number == 4:  # three lines a method
        lines = [[*lines[place], *lines[place + 1], *lines[place + 2]] for place in (0, 3)]
    published = [[row.published[column] for column in columns] for row in chosen.rows if row.published]
    assert published == lines
    assert len(lines) == {1: 6, 2: 5, 3: 3, 4: 2, 5: 9, 6: 20}[number]


def test_rows_that_the_paper_has_not_are_called_extra() -> None:
    for name in TABLES:
        extra = [row for row in recipe(name).rows if not row.published]
        assert [row.id for row in extra] == (["r", "full"] if name == "padet-table3" else [])
        assert all("extra, not in the table" in row.label for row in extra)


@in_print
@pytest.mark.parametrize("name", TABLES)
def test_claims_quote_the_paper(name: str) -> None:
    text = " ".join(re.sub(r"[*$]", "", TEXT.read_text("utf-8")).split())
    for claim in recipe(name).claims:
        assert claim.quote and all(part.strip() in text for part in claim.quote.split("…")), claim


def test_every_claim_holds_in_the_paper() -> None:
    for name in TABLES:
        rows = {row.id: row.published for row in recipe(name).rows}
        lower = {column.id for column in recipe(name).columns if column.better == "lower"}
        for claim in recipe(name).claims:
            first, second = (rows[row].get(claim.on) for row in claim.rows)
            if first is not None and second is not None:
                less, more = (first, second) if claim.on in lower else (second, first)
                assert float(str(less)) < float(str(more)), claim


def test_sizes_of_table_4_are_table_2s() -> None:
    """Small, medium and large of its two rows stand in Table 2 as well."""
    two, four = ({row.id: row.published for row in recipe(f"padet-table{n}").rows} for n in (2, 4))
    for row in ("base", "full"):
        assert all(two[row][column] == four[row][column] for column in ("APs", "APm", "APl"))


@pytest.mark.parametrize(
    ("row", "override", "told"),
    [
        ("base", "model.alignment={kind: padet.Disentangled}", "reads what APM_R predicts, and there is none"),
        ("c", "model.scoring.threshold=1", "`model.scoring.threshold` is 1"),
        ("c", "model.scoring.threshold=-0.01", "`model.scoring.threshold` is -0.01"),
        ("full", "model.alignment.kind=padet.Disentagled", "did you mean 'padet.Disentangled'?"),
        ("full", "model.alignment={kind: padet.Explicit, of: size}", "`model.alignment.of` is 'size'"),
    ],
)
def test_mistakes_are_one_line(row: str, override: str, told: str) -> None:
    with pytest.raises(InputError) as raised:
        make_plan(select(["padet-table2"]), "paper", rows=[row], overrides=[override])
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
