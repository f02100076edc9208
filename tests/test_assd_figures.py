"""ASSD's speed against accuracy, from results as they are saved."""

from pathlib import Path

import pytest

from benchsuite.engine.store import Store
from benchsuite.errors import InputError
from benchsuite.recipe.loading import load_recipe
from benchsuite.report.gathered import assd_speed_accuracy
from benchsuite.report.results import DataRecord, Measured, Results, RowRecord
from benchsuite.report.saving import save


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def results_file(folder: Path, measured: dict[str, dict[str, tuple[float, ...]]]) -> None:
    recipe = load_recipe("assd-table2")
    rows = tuple(
        RowRecord(
            id=row.id, label=row.label, role=row.role, published=row.published, device="cpu",
            status="quoted" if row.role == "quoted" else "done" if row.id in measured else "not_run",
            measured={name: Measured.of(values) for name, values in measured.get(row.id, {}).items()},
        )
        for row in recipe.rows
    )  # fmt: skip
    data = DataRecord(name="generated", fingerprint="0")
    save(
        Results(
            recipe=recipe.id, paper=recipe.paper, table=recipe.table, title=recipe.title, tier="mini", data=data,
            protocol="voc07", seeds=(0, 1), columns=recipe.columns, rows=rows,
        ),
        folder,
        None,
    )  # fmt: skip


def test_speed_against_accuracy(tmp_path: Path, store: Store) -> None:
    results_file(
        tmp_path,
        {
            "ssd321": {"fps": (9.0, 11.0), "AP50": (30.0, 32.0)},
            "assd321": {"fps": (8.0, 8.0), "AP50": (33.0, 35.0)},
            "ssd513": {"fps": (4.0, 4.0)},
        },
    )
    found = assd_speed_accuracy.gather(tmp_path, store, "mini")
    ours = [(line["row"], line["fps"], line["AP50"]) for line in found.numbers if line["tier"] == "mini"]
    assert ours == [("ssd321", 10.0, 31.0), ("assd321", 8.0, 34.0)]
    paper = {(line["device"], line["row"]): (line["fps"], line["AP50"]) for line in found.numbers if not line["data"]}
    assert len(paper) == 24 + 2, "two rows were timed on two GPUs"
    assert paper["Titan X", "assd513"] == (16.0, 83.0) and paper["K40", "assd513"] == (6.1, 83.0)
    assert [text.partition("; ")[2] for text in found.missing] == [
        f"bench run assd-table2 --rows {row} --tier mini" for row in ("assd300", "ssd513", "assd512", "assd513")
    ]
    titles = [axes.get_title(loc="left") or axes.get_title() for axes in found.figure.axes]
    assert titles[:4] == ["paper, Titan X", "paper, 1080Ti", "paper, K40", "paper, K80"]
    assert len(titles) == 5 and "generated" in titles[4]
    found.figure.savefig(tmp_path / "figure.png", dpi=50)


def test_nothing_to_draw_says_what_to_run(tmp_path: Path, store: Store) -> None:
    with pytest.raises(InputError, match="first: bench run assd-table2 --tier mini") as raised:
        assd_speed_accuracy.gather(tmp_path, store, "mini")
    assert "\n" not in str(raised.value)
