"""Small inputs that came out wrong once, through whole trainings, where they lie beside this checkout."""

import json
import math
from pathlib import Path

import pytest
from data_cases import SHARED, shared

from benchsuite.engine.store import Store
from benchsuite.recipe.loading import load
from benchsuite.verbs.plan import make_plan
from benchsuite.verbs.run import Ran, RunOptions, run_plan

CASES = SHARED / "cases"
pytestmark = [shared, pytest.mark.slow, pytest.mark.timeout(900)]
TINY = """
id: tiny
extends: _har.yaml
table: T
title: Tiny
columns: [AP, AP50]
rows: [{id: dense}, {id: faster, model: {kind: detectron.FasterRcnn}, tiers: {smoke: {model: {roi: {batch: 64}}}}}]
base:
  model: {backbone: {kind: resnet.ResNet, depth: 18}}
"""


def trained(data: Path, row: str, place: Path, *settings: str) -> Ran:
    (place / "tiny.yaml").write_text(TINY)
    plan = make_plan([load(place / "tiny.yaml")], "smoke", rows=[row], data=data, overrides=settings)
    ran = run_plan(plan, Store(place / "store"), RunOptions(out=place / data.name))
    assert ran.exit_code == 0, ran.outcome.failures
    return ran


def test_ids_beyond_2_53_score_as_small_ones(tmp_path: Path) -> None:
    """Case 04: the same pictures and boxes under ids 1 … 8 and above 2^53; AP 100 of both after 150 iterations."""
    learning = ("solver.iterations=150", "solver.lr=0.02", "solver.drops=[120]", "post.score_threshold=0.005")
    found = [
        trained(CASES / "04-hash-image-ids" / name, "dense", tmp_path, *learning).results["tiny"].row("dense").measured
        for name in ("easyplain", "easyhash")
    ]
    plain, hashed = ({column: cell.mean for column, cell in each.items()} for each in found)
    assert plain == hashed
    assert plain["AP50"] == pytest.approx(100) and plain["AP"] is not None and plain["AP"] > 80


@pytest.mark.parametrize("name", ["sliver_thin", "sliver_small", "sliver_border"])
@pytest.mark.parametrize("row", ["dense", "faster"])
def test_boxes_without_width_make_no_loss_nan(tmp_path: Path, name: str, row: str) -> None:
    """Case 09: what has no width in float32 is left out, and Faster R-CNN's loss stays a number."""
    trained(CASES / "09-degenerate-boxes" / name, row, tmp_path, "solver.iterations=4", "solver.drops=[3]")
    (log,) = (tmp_path / "store" / "artifacts").glob("*/log.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) == 4 and all(math.isfinite(line["loss"]) and math.isfinite(line["grad_norm"]) for line in lines)
