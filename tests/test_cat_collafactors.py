"""Figure 5 from runs: what is found, in which order, what is said of the rest."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchsuite.engine.store import Store
from benchsuite.errors import InputError
from benchsuite.recipe.loading import load_recipe
from benchsuite.report import gathered
from benchsuite.report.gathered.cat_collafactors import SOURCES, gather
from benchsuite.report.results import DataRecord, Results, RowRecord
from benchsuite.report.saving import save


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "runs")
    store.prepare()
    return store


def artifact(store: Store, key: str, inputs: dict[str, str], files: dict[str, str], **job: object) -> str:
    with store.lock(key), store.scratch(key) as folder:
        for name, text in files.items():
            (folder / name).write_text(text)
        store.publish(key, folder, {"job": dict(job), "inputs": inputs})
    return key


def trained(
    store: Store, name: str, seed: int, layers: int = 16, factors: bool = True, more: tuple[int, ...] = ()
) -> str:
    """A training, a prediction and a score; C_w of layer i is (i + seed) / 100 at step 40, ½ at others."""
    lines = []
    for step in (20, 40, *more):
        line: dict[str, float] = {"iteration": step, "loss": 1.0}
        for layer in range(1, 1 + layers if factors else 1):
            c_w = (layer + seed) / 100 if step == 40 else 0.5
            line |= {f"b.{layer}.exterior.C_w": c_w, f"b.{layer}.exterior.S_w": 1 - c_w, f"b.{layer}.c.C_alpha": 9.0}
        lines.append(json.dumps(line) + "\n")
    train = artifact(store, f"{name}-train-{seed}", {}, {"log.jsonl": "".join(lines)}, seed=seed)
    found = artifact(store, f"{name}-predict-{seed}", {"train": train}, {})
    return artifact(store, f"{name}-score-{seed}", {"predict": found}, {"metrics.json": "{}"})


def results(folder: Path, recipe_id: str, row_id: str, keys: list[str], tier: str = "mini", name: str = "") -> None:
    recipe = load_recipe(recipe_id)
    rows = tuple(
        RowRecord(id=row.id, status="done", keys=tuple(keys) if row.id == row_id else ()) for row in recipe.rows
    )
    found = Results.model_validate(
        {"recipe": recipe.id, "paper": recipe.paper, "table": recipe.table, "title": recipe.title, "tier": tier,
         "data": DataRecord(name=name or "generated", fingerprint="f"), "protocol": "p", "seeds": (0,),
         "columns": recipe.columns, "rows": rows}
    )  # fmt: skip
    save(found, folder, name or None)


def test_every_source_is_a_row_with_cat() -> None:
    for recipe_id, row_id in (source for sources in SOURCES.values() for source in sources):
        row = load_recipe(recipe_id).row(row_id)
        edits = row.change.value["model"]["backbone"]["edits"]
        assert edits == [{"kind": "cat.Cat"}]


def test_all_three_tasks(tmp_path: Path, store: Store) -> None:
    results(tmp_path, "cat-table6", "cat", [trained(store, "six", seed) for seed in (1, 0)])
    results(tmp_path, "cat-table5", "r50-cat", [trained(store, "five", 0)])
    cost = artifact(store, "cost", {}, {"metrics.json": "{}"})
    results(tmp_path, "cat-table3", "shufflenetv2-cat", [trained(store, "three", 0, layers=17), cost], name="grocery32")
    found = gather(tmp_path, store, "")
    assert not found.missing
    assert [axes.get_title(loc="left") for axes in found.figure.axes] == ["detection", "segmentation", "classification"]
    told = " ".join(found.figure.texts[-1].get_text().split())
    for run in (
        "detection: cat-table6/cat, mini tier on generated, step 40.",
        "segmentation: cat-table5/r50-cat, mini tier on generated, step 40.",
        "classification: cat-table3/shufflenetv2-cat, mini tier on grocery32, step 40.",
    ):
        assert run in told
    lines = found.figure.axes[0].get_lines()
    assert len(lines) == 4, "C_w and S_w of two seeds"
    assert np.allclose(np.asarray(lines[0].get_ydata()), np.arange(1, 17) / 100)
    assert np.allclose(np.asarray(lines[3].get_ydata()), 1 - np.arange(2, 18) / 100)
    assert len(found.numbers) == 2 * 16 + 16 + 17
    assert found.numbers[0] == {
        "task": "detection", "recipe": "cat-table6", "row": "cat", "tier": "mini", "data": "generated", "seed": 0,
        "step": 40, "layer": 1, "C_w": 0.01, "S_w": 0.99,
    }  # fmt: skip


def test_the_best_tier_then_the_papers_own_run(tmp_path: Path, store: Store) -> None:
    results(tmp_path, "cat-table6", "cat", [trained(store, "paper", 0)], "paper")
    results(tmp_path, "cat-table2", "faster-r50-cat", [trained(store, "mini", 0)], "mini")
    results(tmp_path, "cat-table6", "cat", [trained(store, "mini6", 0)], "mini")
    for tier, recipe in (("", "cat-table6"), ("paper", "cat-table6"), ("mini", "cat-table2")):
        found = gather(tmp_path, store, tier)
        assert {line["recipe"] for line in found.numbers} == {recipe}


def test_of_a_row_the_longest_run(tmp_path: Path, store: Store) -> None:
    results(tmp_path, "cat-table6", "cat", [trained(store, "short", 0)], name="a")
    results(tmp_path, "cat-table6", "cat", [trained(store, "long", 0, more=(90,))], name="b")
    results(tmp_path, "cat-table6", "cat", [trained(store, "between", 0, more=(80,))], name="c")
    assert {(line["data"], line["step"]) for line in gather(tmp_path, store, "").numbers} == {("b", 90)}


def test_what_is_missing_is_said_in_its_panel(tmp_path: Path, store: Store) -> None:
    results(tmp_path, "cat-table6", "cat", [trained(store, "six", 0)], "smoke")
    results(tmp_path, "cat-table5", "r50-cat", ["elsewhere"], "smoke")
    found = gather(tmp_path, store, "smoke")
    assert found.missing == (
        "segmentation: no training of its results in the store; "
        "first: bench run cat-table5 --rows r50-cat --tier smoke",
        "classification: nothing was run; first: bench run cat-table3 --rows shufflenetv2-cat --tier smoke",
    )
    assert [" ".join(text.get_text().split()) for axes in found.figure.axes for text in axes.texts] == list(
        found.missing
    )
    assert any("numbers mean nothing" in text.get_text() for text in found.figure.texts)


def test_nothing_at_all_is_one_line(tmp_path: Path, store: Store) -> None:
    with pytest.raises(InputError) as raised:
        gather(tmp_path, store, "")
    assert "no run with colla-factors; detection: nothing was run; first: bench run cat-table6 --rows cat" in str(
        raised.value
    )
    assert "\n" not in str(raised.value)


def test_a_run_without_cat_is_one_line(tmp_path: Path, store: Store) -> None:
    results(tmp_path, "cat-table6", "cat", [trained(store, "six", 0, factors=False)])
    with pytest.raises(InputError) as raised:
        gather(tmp_path, store, "mini")
    assert str(raised.value) == (
        "cat-table6/cat, mini tier on generated: its log has no colla-factors; it was trained without CAT's exterior "
        "ones, run the row as its recipe has it"
    )


def test_picture_and_numbers_are_written(tmp_path: Path, store: Store) -> None:
    results(tmp_path, "cat-table6", "cat", [trained(store, "six", 0)])
    files, missing = gathered.plot("cat-collafactors", tmp_path, store, "mini", "png")
    assert [file.name for file in files] == ["cat-collafactors.mini.png", "cat-collafactors.mini.csv"]
    assert len(files[1].read_text().splitlines()) == 17 and len(missing) == 2
