"""Figures: that every cell is drawn as what it is, and that files come out in every format."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.patches import Rectangle

from benchsuite.errors import InputError
from benchsuite.recipe.recipe import Column
from benchsuite.report import figures, gathered, probed
from benchsuite.report.pictures import Boxes, Picture, detections
from benchsuite.report.results import Measured, Results, RowRecord, load


@pytest.fixture
def stored() -> Results:
    return load(Path(__file__).parent / "fixtures" / "results" / "har-table1.mini.schema1.json")


def texts(figure: object) -> str:
    import matplotlib.text

    found = figure.findobj(matplotlib.text.Text)  # type: ignore[attr-defined]
    return "\n".join(text.get_text() for text in found)


def test_available_lists_modules() -> None:
    assert {"ablation", "bars", "differences", "har-table4", "ladder", "sizes"} <= figures.available().keys()


def test_an_unknown_figure_offers_the_nearest(stored: Results) -> None:
    with pytest.raises(InputError, match="did you mean 'ablation'"):
        figures.draw("ablations", stored)


@pytest.mark.parametrize("name", figures.available())
def test_every_figure_says_tier_and_data(stored: Results, name: str) -> None:
    text = texts(figures.draw(name, stored))
    assert "tier mini" in text
    assert "generated val (1000 images)" in text
    assert "not run" in text


@pytest.mark.parametrize("name", figures.available())
def test_smoke_says_so(stored: Results, name: str) -> None:
    assert "numbers mean nothing" in texts(figures.draw(name, stored.model_copy(update={"tier": "smoke"})))


def test_bars_have_the_values(stored: Results) -> None:
    axes = figures.draw("bars", stored).axes[0]
    filled = [p.get_height() for p in axes.patches if isinstance(p, Rectangle) and p.get_fill()]
    means = [row.measured["AP"].mean for row in stored.rows if row.measured]
    assert filled == pytest.approx([*means, *(row.published["AP"] for row in stored.rows)])
    hatched = [p for p in axes.patches if not p.get_fill()]
    assert len(hatched) == 1
    assert hatched[0].get_x() + hatched[0].get_width() / 2 == pytest.approx(2 - 0.2)


def test_one_seed_has_no_spread(stored: Results) -> None:
    """A bar that says ± 0 would say too much."""
    cells = [row.measured["AP"] for row in stored.rows if row.measured]
    several = [cell for cell in cells if len([value for value in cell.values if value is not None]) > 1]
    assert len(several) == len(cells) - 1
    axes = figures.draw("bars", stored).axes[0]
    (spreads,) = next(each for each in axes.containers if isinstance(each, ErrorbarContainer))[2]
    assert len([segment for segment in spreads.get_segments() if len(segment)]) == len(several)


@pytest.mark.parametrize("change", [
    {"rows": "nothing measured"}, {"rows": "one row"}, {"columns": "one column"}, {"rows": "forty rows"},
])  # fmt: skip
@pytest.mark.parametrize("name", figures.available())
def test_odd_tables_can_be_drawn(stored: Results, name: str, change: dict[str, str], tmp_path: Path) -> None:
    run = [row for row in stored.rows if row.role == "run"]
    made = {
        "nothing measured": {"rows": tuple(row.model_copy(update={"measured": {}}) for row in run)},
        "one row": {"rows": tuple(run[:1])},
        "one column": {"columns": stored.columns[:1]},
        "forty rows": {"rows": tuple(run[:1] + [run[1].model_copy(update={"id": f"r{i}"}) for i in range(39)])},
    }[next(iter(change.values()))]
    figure = figures.draw(name, stored.model_copy(update={**made, "claims": ()}))
    figure.savefig(tmp_path / "figure.png", dpi=50)


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_formats(stored: Results, tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"figure.{ending}"
    figures.default(stored).savefig(file)
    assert file.stat().st_size > 5000


def boxes(*found: tuple[float, float, float, float, int, float]) -> Boxes:
    array = np.array(found, dtype=float).reshape(-1, 6)
    return Boxes(array[:, :4], array[:, 4].astype(int), np.ones(len(array), bool), array[:, 5])


def test_pictures_show_truth_beside_predictions_and_dash_what_went_wrong(tmp_path: Path) -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    truth = Boxes(np.array([[5.0, 5, 20, 20]]), np.array([1]), np.array([False]))
    picture = Picture(image, truth, boxes((5, 5, 20, 20, 1, 0.87)), "a.jpg")
    empty = Picture(np.zeros((60, 40, 3), np.uint8), boxes(), boxes())
    figure = detections([picture, empty, picture], ("cat", "dog"), "har-table1/baseline", threshold=0.3)
    left, right = figure.axes[:2]
    assert [len(axes.patches) for axes in (left, right)] == [1, 1]
    assert [axes.patches[0].get_linestyle() for axes in (left, right)] == [(0, (2, 1.5)), "-"]
    text = texts(figure)
    assert "dog 87" in text and "cat" not in text and "score ≥ 0.3" in text
    figure.savefig(tmp_path / "pictures.png", dpi=50)


def test_everything_that_can_be_drawn_says_what_it_shows() -> None:
    for folder in (figures, gathered, probed):
        assert all(shows.endswith(".") for shows in folder.available().values()), folder.__name__
    assert {"masks", "weights", "offsets"} <= probed.available().keys()


def of_testdev(stored: Results) -> Results:
    """A table of a quoted test-dev number, and two rows of ours, the second not run, with minival columns."""
    quoted = RowRecord(id="quoted", status="quoted", role="quoted", published={"AP": 36.7})
    measured = {"minival_AP": Measured.of([30.0, 32.0])}
    ours = RowRecord(id="ours", status="done", published={"AP": 41.1, "minival_AP": 40.6}, measured=measured)
    absent = RowRecord(id="absent", status="not_run", published={"AP": 43.2})
    columns = (Column(id="AP", label="AP test-dev"), Column(id="minival_AP", label="AP minival"))
    changes = {"rows": (quoted, ours, absent), "columns": columns, "claims": (), "seeds": (0, 1)}
    return stored.model_copy(update=changes)


def test_testdev_sets_our_minival_beside_the_papers_and_apart_from_test_dev(stored: Results) -> None:
    figure = figures.draw("testdev", of_testdev(stored))
    (axes,) = figure.axes
    points = [(line.get_label(), list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert ("paper, test-dev", [36.7, 41.1, 43.2], [0, 1, 2]) in points
    assert ("paper, minival", [40.6], [1]) in points
    assert ([31.0], [1]) in [(xs, ys) for _, xs, ys in points]
    (hatched,) = [patch for patch in axes.patches if not patch.get_fill()]
    assert hatched.get_y() + hatched.get_height() / 2 == pytest.approx(2)
    assert axes.get_title(loc="left") == "AP"


@pytest.mark.parametrize("recipe", ["har-table5", "pod-table1"])
def test_tables_of_test_dev_are_drawn_so(stored: Results, recipe: str) -> None:
    table = of_testdev(stored).model_copy(update={"recipe": recipe})
    assert "ours, minival" in texts(figures.default(table))


@pytest.mark.parametrize("name", ["ablation", "bars", "differences"])
def test_long_titles_of_panels_do_not_meet(stored: Results, name: str) -> None:
    long = tuple(c.model_copy(update={"label": f"Time of the forward pass, {c.id} (s)"}) for c in stored.columns)
    figure = figures.draw(name, stored.model_copy(update={"columns": long}))
    figure.draw_without_rendering()
    titles = [axes.title.get_window_extent() for axes in figure.axes if axes.get_visible()]
    assert len(titles) > 3
    assert not any(a.overlaps(b) for place, a in enumerate(titles) for b in titles[:place])
    assert all(title.x1 <= figure.bbox.x1 for title in titles)
