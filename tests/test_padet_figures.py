"""PADet's anchors counted over a training, figures 1 and 2 from these counts, figure 4 from a probe."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from padet_cases import ROWS, SIDE, TINY, batch, detector
from probe_cases import arrays_of
from safetensors.torch import load_file
from test_pod_figures import artifact, results_file
from torch import Tensor

from benchsuite.data.batch import Batch
from benchsuite.engine.job import Context
from benchsuite.engine.store import Store
from benchsuite.errors import InputError
from benchsuite.loops.log import means
from benchsuite.papers.padet_balance import Balance
from benchsuite.papers.padet_maps import PromotedAnchors, promoted_anchors
from benchsuite.papers.padet_matching import match
from benchsuite.pipelines.detection import Detection, Train
from benchsuite.report import gathered, probed
from benchsuite.report.gathered import padet_balance, padet_promotion
from benchsuite.report.probed import padet_anchors


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "runs")
    store.prepare()
    return store


def line(iteration: int, **counts: float) -> dict[str, float]:
    empty = {f"{side}_iou_{lower}": 0.0 for side in ("before", "after") for lower in range(50, 100, 5)}
    named = empty | {"before_positives": 4.0, "after_ignored": 0.0, "after_dropped": 0.0} | counts
    return {"iteration": iteration, "loss": 1.0} | {f"counts.{name}": value for name, value in named.items()}


def counted(store: Store, row: str, *lines: dict[str, float]) -> str:
    """What the job that counts made of a training with this log, which then goes: a capsule brings no trainings."""
    train = artifact(store, f"train-{row}", {}, {}, log=lines)
    kept = artifact(store, f"balance-{row}", {"train": train}, balance(store, train))
    shutil.rmtree(store.folder(train))
    return kept


def balance(store: Store, train: str) -> dict[str, float]:
    """The numbers that the job leaves."""
    folder = store.root / "alone"
    folder.mkdir(exist_ok=True)
    Balance(train=pipeline(TINY).fit(0)).do(Context(folder, folder, folder, {"train": store.verified(train)}))
    found: dict[str, float] = json.loads((folder / "metrics.json").read_text())
    return found


def keys(store: Store) -> dict[str, str]:
    """Positives and negatives of base and cr; the second line stands for three steps."""
    base = line(1, after_positives=4.0, after_negatives=100.0), line(4, after_positives=4.0, after_negatives=100.0)
    cr = (
        line(1, after_positives=4.0, after_negatives=96.0, after_dropped=4.0, before_iou_50=3.0, after_iou_55=2.0),
        line(4, after_positives=8.0, after_negatives=16.0, before_iou_50=3.0, after_iou_55=1.0, after_iou_90=5.0),
    )
    return {"base": counted(store, "base", *base), "cr": counted(store, "cr", *cr)}


def test_the_columns_are_means_over_all_steps(store: Store) -> None:
    numbers = store.verified(keys(store)["cr"]).metrics
    assert (numbers["positives"], numbers["negatives"]) == (7.0, 36.0), "(4 + 3 · 8) / 4, (96 + 3 · 16) / 4"
    assert numbers["negatives_per_positive"] == 36 / 7
    assert numbers["after_dropped"] == 1.0 and numbers["after_iou_90"] == 3.75


def test_a_training_without_counts_or_without_positives(store: Store) -> None:
    train = artifact(store, "other", {}, {}, log=({"iteration": 1, "loss": 1.0},))
    with pytest.raises(InputError, match="train seed 0: counted no anchors"):
        balance(store, train)
    train = artifact(store, "nothing", {}, {}, log=(line(1, after_positives=0.0, after_negatives=9.0),))
    assert "negatives_per_positive" not in balance(store, train)


def test_a_training_that_goes_on_is_counted_from_where_it_began(tmp_path: Path) -> None:
    job: Train = pipeline(TINY).fit(0)
    later = job.changed(start=job)
    first = later.done_before
    assert first == job.solver.iterations
    lines = [line(first + 1, after_positives=1.0), line(first + 4, after_positives=5.0)]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    assert means(path, first)["counts.after_positives"] == 4.0, "(1 + 3 · 5) / 4"


def test_balance_is_a_mean_over_all_steps(tmp_path: Path, store: Store) -> None:
    found_keys = keys(store)
    results_file(tmp_path, "padet-table2", {row: {"AP": 1.0} for row in found_keys}, found_keys)
    found = padet_balance.gather(tmp_path, store, "mini")
    assert [(each["row"], each["after_positives"], each["after_negatives"]) for each in found.numbers] == [
        ("base", 4.0, 100.0), ("cr", 7.0, 36.0)
    ]  # fmt: skip
    assert found.numbers[1]["after_dropped"] == 1.0 and [each["seed"] for each in found.numbers] == [0, 0]
    assert [text.split(": ", 1)[1] for text in found.missing] == [
        f"no counts of {row}; bench run padet-table2 --rows {row} --tier mini" for row in ("c", "r")
    ]
    (axes,) = found.figure.subfigs[0].axes
    texts = [tick.get_text() for tick in axes.get_xticklabels()]
    assert texts[0] == "initial\nours 1 : 25\npaper 1 : 625" and texts[1] == "APM_C\nours not run\npaper 1 : 65.8"
    assert texts[3] == "APM_CR\nours 1 : 5.14\npaper 1 : 9.7"
    assert sorted(bar.get_height() for bar in axes.patches) == [4.0, 7.0, 36.0, 100.0]


def test_a_table_from_before_the_ratios_is_drawn_too(tmp_path: Path, store: Store) -> None:
    found_keys = keys(store)
    results_file(tmp_path, "padet-table2", {row: {"AP": 1.0} for row in found_keys}, found_keys)
    (file,) = tmp_path.glob("*.json")
    content = json.loads(file.read_text())
    for row in content["rows"]:
        row["published"].pop("negatives_per_positive", None)
    file.write_text(json.dumps(content))
    (axes,) = padet_balance.gather(tmp_path, store, "mini").figure.subfigs[0].axes
    assert axes.get_xticklabels()[0].get_text() == "initial\nours 1 : 25\npaper –"


def test_promotion_by_bins_of_a_tenth(tmp_path: Path, store: Store) -> None:
    found_keys = keys(store)
    results_file(tmp_path, "padet-table2", {row: {"AP": 1.0} for row in found_keys}, found_keys)
    files, missing = gathered.plot("padet-promotion", tmp_path, store, "mini", "png")
    assert [file.name for file in files] == ["padet-promotion.mini.png", "padet-promotion.mini.csv"]
    assert len(missing) == 2
    found = padet_promotion.gather(tmp_path, store, "mini")
    panels = found.figure.subfigs[0].axes
    assert panels[1].get_title(loc="left") == "APM_CR: 4 → 7 in all"
    heights = [bar.get_height() for bar in panels[1].patches]
    assert heights == pytest.approx([3, 0, 0, 0, 0, 1.25, 0, 0, 0, 3.75]), "before, then after"
    assert not any(bar.get_height() for panel in (panels[0], panels[2]) for bar in panel.patches)


def test_nothing_counted_says_what_to_run(tmp_path: Path, store: Store) -> None:
    for figure in (padet_balance, padet_promotion):
        with pytest.raises(InputError, match="first: bench run padet-table2 --tier mini"):
            figure.gather(tmp_path, store, "mini")


# Figure 4


def alone(one: Batch) -> Batch:
    held = {name: value[:1] for name, value in vars(one).items() if value is not None}
    return Batch(**held)


def arrays(row: str = "full") -> dict[str, Tensor]:
    with torch.inference_mode():
        return promoted_anchors(detector(row).eval(), alone(batch()))


def test_arrays_are_what_training_would_match() -> None:
    model, one = detector("full").eval(), alone(batch())
    with torch.inference_mode():
        found, anchors = model.predict(one)
        promoted = model.settings.coder.decode(found.x, anchors)
    seen = arrays()
    before = match(model.settings.assignment, anchors, one.boxes, one.labels)
    after = match(model.settings.assignment, promoted, one.boxes, one.labels)
    assert torch.equal(seen["before"], anchors[before.places]) and torch.equal(seen["after"], promoted[0, after.places])
    assert torch.equal(seen["after_iou"], after.overlaps) and torch.equal(seen["truth"], one.boxes[0])
    assert [tuple(seen[f"score_{level}"].shape) for level in (1, 2, 3, 4)] == [(8, 8), (4, 4), (2, 2), (1, 1)]
    highest = found.p.sigmoid()[0, : 8 * 8 * 6].view(8, 8, 6).amax(-1)
    assert torch.equal(seen["score_1"], highest)


def test_scores_need_an_apm_c_and_promotion_an_apm_r() -> None:
    assert not [name for name in arrays("r") if name.startswith("score")]
    for row in ("base", "c"):
        with pytest.raises(InputError, match=r"promotes no anchors \(it has no APM_R\); choose a row that does"):
            arrays(row)


def pipeline(model: dict[str, Any]) -> Detection:
    data = {"kind": "generated.Generated", "images": 2}
    return Detection.model_validate({
        "kind": "detection.Detection",
        "data": {"train": {**data, "split": "train"}, "val": {**data, "split": "val"}},
        "input": {"kind": "transforms.Fixed", "height": SIDE, "width": SIDE},
        "model": model,
        "solver": {"lr": 0.01, "batch": 2, "iterations": 2},
        "metric": {"kind": "coco.Coco"},
    })  # fmt: skip


def test_picture(tmp_path: Path) -> None:
    file = arrays_of(PromotedAnchors, pipeline(TINY | ROWS["full"]), tmp_path, 1)
    found = load_file(file)
    assert found["image"].shape == (SIDE, SIDE, 3) and len(found["truth"]) >= 1
    figure = probed.draw("padet-anchors", file, "padet-table2/full, smoke")
    figure.savefig(tmp_path / "picture.png", dpi=50)
    assert figure.get_suptitle().startswith("padet-table2/full, smoke: ")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [*(f"(a) level {level}" for level in range(1, 5)), f"(b) before: {len(found['before'])} positives",
                      f"(c) after: {len(found['after'])} positives", "(d) positives by IoU"]  # fmt: skip
    drawn = [patch for patch in figure.axes[4].patches if isinstance(patch, Rectangle)]
    assert len(drawn) == len(found["before"]) + len(found["truth"])


def test_picture_without_scores_or_promotion(tmp_path: Path) -> None:
    some = {name: value.numpy() for name, value in arrays("r").items()} | {"image": np.zeros((64, 64, 3), np.uint8)}
    assert len(padet_anchors.draw(some, "t").axes) == 3
    with pytest.raises(InputError, match="no promoted anchors to draw; choose a row that has"):
        padet_anchors.draw({"image": some["image"]}, "t")


def test_a_picture_of_another_detector(tmp_path: Path) -> None:
    other = {"kind": "retinanet.RetinaNet", "backbone": {"kind": "resnet.ResNet", "depth": 18}}
    with pytest.raises(InputError, match="has no anchors to promote; choose a row of PADet's"):
        arrays_of(PromotedAnchors, pipeline(other), tmp_path, 0)
