"""Ladders and differences by object size, on results made from the recipes."""

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from benchsuite.recipe.loading import select
from benchsuite.report import figures
from benchsuite.report.figures.ladder import ladders
from benchsuite.report.results import DataRecord, Measured, Results, RowRecord


def results(recipe_id: str, lift: float = 1.0) -> Results:
    """Every row of a recipe with numbers that rise by `lift` from row to row; the last row was not run."""
    recipe = select([recipe_id])[0]
    rows = []
    for place, row in enumerate(recipe.rows):
        ran = row.role == "run" and place < len(recipe.rows) - 1
        value = Measured.of([10 + lift * place])
        rows.append(
            RowRecord(
                id=row.id,
                label=row.label,
                role=row.role,
                cite=row.cite,
                published=row.published,
                baseline=recipe.baseline_of(row),
                measured={column: value for column in recipe.column_ids} if ran else {},
                status="done" if ran else "quoted" if row.role == "quoted" else "not_run",
            )
        )
    return Results(
        recipe=recipe.id, paper=recipe.paper, table=recipe.table, title=recipe.title, tier="mini",
        data=DataRecord(name="toy", fingerprint="f", papers_own=False), protocol="coco", seeds=(0,),
        columns=recipe.columns, rows=tuple(rows),
    )  # fmt: skip


def test_a_ladder_for_each_backbone() -> None:
    found = ladders(results("har-table4"))
    assert [len(rows) for rows in found] == [4] * 6
    assert [row.id for row in found[2]] == [f"se-resnet-50{end}" for end in ("", "-aa-ca", "-ha", "-ha-ms")]
    figure = figures.default(results("har-table4"))
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == [
        "ResNet-50", "ResNet-101", "SE-ResNet-50", "SE-ResNet-101", "SE-ResNeXt-50", "SE-ResNeXt-101",
    ]  # fmt: skip
    assert [tick.get_text() for tick in panels[0].get_xticklabels()] == ["baseline", "AA+CA", "HA", "HA w ms"]
    paper, ours = panels[1].get_lines()[:2]
    assert np.asarray(paper.get_ydata()).tolist() == [38.0, 40.1, 40.6, 43.1]
    assert np.asarray(ours.get_ydata()).tolist() == [14, 15, 16, 17]


def test_a_step_that_was_not_run_is_a_gap() -> None:
    panel = [axes for axes in figures.default(results("har-table4")).axes if axes.get_visible()][-1]
    assert np.isnan(np.asarray(panel.get_lines()[1].get_ydata())[-1])


def test_quoted_rows_stand_on_no_ladder() -> None:
    assert [[row.id for row in rows] for rows in ladders(results("har-table5"))] == [
        ["resnet-101-ha", "resnet-101-ha-ms"], ["se-resnext-101-ha", "se-resnext-101-ha-ms"],
    ]  # fmt: skip


def test_differences_by_size() -> None:
    axes = figures.draw("sizes", results("har-table3", lift=0.5)).axes[0]
    filled = [patch.get_height() for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_fill()]
    assert filled == pytest.approx([0.5, 1.0] * 3)
    marks = [np.asarray(line.get_ydata()).tolist() for line in axes.get_lines() if line.get_marker() == "D"]
    assert marks[0] == pytest.approx([2.8, 2.9, 2.4])  # APs over the baseline's 16.4
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["AA(C5)", "AA(C4, C5)", "AA(C3, C4, C5)"]
