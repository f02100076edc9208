"""POD's gathered figures: from results files and the store's artifacts."""

import json
from pathlib import Path

import pytest

from benchsuite.engine.store import Store
from benchsuite.errors import InputError
from benchsuite.recipe.loading import load_recipe
from benchsuite.report import gathered
from benchsuite.report.gathered import pod_scales, pod_speed_accuracy, pod_transfer
from benchsuite.report.results import DataRecord, Measured, Results, RowRecord
from benchsuite.report.saving import save

LAYERS = ("R31", "R32", "R46")


def results_file(folder: Path, recipe_id: str, measured: dict[str, dict[str, float]], keys: dict[str, str],
                 name: str | None = None) -> None:  # fmt: skip
    recipe = load_recipe(recipe_id)
    rows = tuple(
        RowRecord(
            id=row.id, label=row.label, status="done" if row.id in measured else "not_run", published=row.published,
            measured={column: Measured.of([value]) for column, value in measured.get(row.id, {}).items()},
            keys=(keys[row.id],) if row.id in keys else ())
        for row in recipe.rows
    )  # fmt: skip
    found = Results(
        recipe=recipe.id, paper=recipe.paper, table=recipe.table, title=recipe.title, tier="mini",
        data=DataRecord(name=name or "generated", fingerprint=name or "0"), protocol="coco", seeds=(0,),
        columns=recipe.columns, rows=rows,
    )  # fmt: skip
    save(found, folder, name)


def artifact(store: Store, key: str, inputs: dict[str, str], metrics: dict[str, float], seed: int = 3,
             log: tuple[dict[str, float], ...] = ()) -> str:  # fmt: skip
    with store.lock(key), store.scratch(key) as folder:
        if log:
            (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
        (folder / "metrics.json").write_text(json.dumps(metrics))
        store.publish(key, folder, {"inputs": inputs, "job": {"seed": seed}})
    return key


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "runs")
    store.prepare()
    return store


def scales(store: Store, detector: str) -> dict[str, str]:
    """The artifacts of a detector's rows; the key of each row's job."""
    metrics = {"images": 4.0}
    for number, layer in enumerate(LAYERS):
        metrics |= {
            f"{layer}_h": 1.0 + number,
            f"{layer}_h_std": 0.1,
            f"{layer}_w": 2.0 + number,
            f"{layer}_w_std": 0.2,
        }
    first = {f"net.{layer}.{what}_{d}": value for layer in LAYERS for what, value in (("scale", 1.02), ("spread", 0.01))
             for d in "hw"}  # fmt: skip
    train = artifact(store, f"train-{detector}", {}, {}, log=(first, {}))
    measured = artifact(store, f"scales-{detector}", {"train": train}, metrics)
    return {f"{detector}-{d}": artifact(store, f"layers-{detector}-{d}", {"scales": measured}, {}) for d in "hw"}


def test_scales_of_all_layers(tmp_path: Path, store: Store) -> None:
    keys = scales(store, "c4") | scales(store, "retina")
    results_file(tmp_path, "pod-table3", {row: {"R31": 1.0} for row in keys}, keys)
    found = pod_scales.gather(tmp_path, store, "mini")
    assert len(found.numbers) == 4 * len(LAYERS)
    assert {"tier": "mini", "data": "generated", "set": "", "row": "c4-w", "seed": 3, "layer": "R46", "scale": 4.0,
            "deviation": 0.2, "start": 1.02, "start_deviation": 0.01} in found.numbers  # fmt: skip
    assert [text.split(": ", 1)[1] for text in found.missing] == [
        f"no scales of fpn-{d}; bench run pod-table3 --rows fpn-{d} --tier mini" for d in "hw"
    ]
    panels = found.figure.subfigs[0].axes
    assert [axes.get_title(loc="left") for axes in panels] == list(pod_scales.DETECTORS.values())
    drawn = {line.get_label(): list(line.get_ydata()) for line in panels[0].get_lines()}
    assert drawn["paper, h (Table 3)"] == [0.88, 8.49], "of the layers that are drawn"
    assert [text.get_text() for text in panels[1].texts] == ["not run"]


def test_a_picture_and_its_numbers(tmp_path: Path, store: Store) -> None:
    keys = scales(store, "fpn")
    for name in (None, "other"):
        results_file(tmp_path, "pod-table3", {row: {"R31": 1.0} for row in keys}, keys, name)
    files, missing = gathered.plot("pod-scales", tmp_path, store, "", "svg")
    assert [file.name for file in files] == ["pod-scales.svg", "pod-scales.csv"] and len(missing) == 8
    assert files[1].read_text().splitlines()[0] == "tier,data,set,row,seed,layer,scale,deviation,start,start_deviation"


def test_scales_that_are_not_there(tmp_path: Path, store: Store) -> None:
    with pytest.raises(InputError, match="first: bench run pod-table3 --tier mini"):
        pod_scales.gather(tmp_path, store, "mini")
    results_file(tmp_path, "pod-table3", {"c4-h": {"R31": 1.0}}, {"c4-h": "elsewhere"})
    with pytest.raises(InputError, match="holds no learnt scales that the store knows; first: bench run pod-table3"):
        pod_scales.gather(tmp_path, store, "mini")


def test_speed_against_accuracy(tmp_path: Path, store: Store) -> None:
    timed = {"c4-50": {"latency_ms": 200.0}, "c4-50-fd": {"latency_ms": 202.0}, "retina-50": {"latency_ms": 90.0}}
    scored = {"c4-50-2x": {"AP": 20.0}, "c4-50-fd-wt": {"AP": 21.5}, "retina-50-2x": {"AP": 19.0}}
    results_file(tmp_path, "pod-table4", timed, {})
    results_file(tmp_path, "pod-table5", scored, {})
    results_file(tmp_path, "pod-table5", scored, {}, "unlike")
    found = pod_speed_accuracy.gather(tmp_path, store, "mini")
    ours = [
        (line["detector"], line["network"], line["ms"], line["AP"]) for line in found.numbers if line["tier"] == "mini"
    ]
    assert ours == [
        ("c4-50", "baseline", 200.0, 20.0), ("c4-50", "FD-WT", 202.0, 21.5), ("retina-50", "baseline", 90.0, 19.0),
    ]  # fmt: skip
    paper = [(line["ms"], line["AP"]) for line in found.numbers if line["tier"] == "paper"]
    assert paper == [(158, 37.0), (159, 40.0), (100, 36.7), (101, 38.3)]
    assert [text.split(": ", 1)[1] for text in found.missing] == [
        "no latency_ms of retina-50-fd; bench run pod-table4 --rows retina-50-fd --tier mini",
        "no AP of retina-50-fd-wt; bench run pod-table5 --rows retina-50-fd-wt --tier mini",
    ]
    assert len(found.figure.axes) == 2, "the paper's and ours"
    assert [text.get_text() for text in found.figure.axes[1].texts] == ["1 not run"]


def test_nothing_to_draw_says_what_to_run(tmp_path: Path, store: Store) -> None:
    results_file(tmp_path, "pod-table4", {"c4-50": {"latency_ms": 1.0}}, {})
    with pytest.raises(InputError) as raised:
        pod_speed_accuracy.gather(tmp_path, store, "")
    assert "first: bench run pod-table4 pod-table5 --tier smoke" in str(raised.value)
    assert "\n" not in str(raised.value)


def curve(*losses: float) -> tuple[dict[str, float], ...]:
    return tuple({"iteration": step, "loss": loss} for step, loss in enumerate(losses, 1))


def test_losses_of_transfer(tmp_path: Path, store: Store) -> None:
    gsl = artifact(store, "gsl", {}, {}, log=curve(4.0, 3.0, 2.0))
    plan = artifact(store, "plan", {"train": gsl}, {})
    transferred = artifact(store, "wt", {"dilations": plan, "gsl": gsl}, {}, log=curve(2.1, 1.5))
    start = artifact(store, "fd", {"dilations": plan}, {}, log=curve(4.2, 3.5, 2.5))
    keys = {"retina-50-fd-wt": artifact(store, "a", {"train": transferred}, {}),
            "retina-50-fd-2x": artifact(store, "b", {"train": start}, {})}  # fmt: skip
    results_file(tmp_path, "pod-table5", {row: {"AP": 1.0} for row in keys}, keys)
    found = pod_transfer.gather(tmp_path, store, "mini")
    assert found.numbers == [
        {"tier": "mini", "data": "generated", "set": "", "detector": "retina-50", "seed": 3,
         "gsl_last": 2.0, "gsl_last_ten": 3.0, "fd_wt_first": 2.1, "fd_wt_first_ten": pytest.approx(1.8),
         "fd_first": 4.2, "fd_first_ten": pytest.approx(3.4)}
    ]  # fmt: skip
    axes = found.figure.subfigs[0].axes[2]
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines() if len(line.get_xdata())]
    assert drawn == [([1, 2, 3], [4.2, 3.5, 2.5]), ([1, 2, 3], [4.0, 3.0, 2.0]), ([4, 5], [2.1, 1.5])]
    assert "no losses of c4-50-fd-wt; bench run pod-table5 --rows c4-50-fd-wt --tier mini" in found.missing[0]
    assert len(found.missing) == 4, "both rows of the other detectors"


def test_losses_that_are_not_there(tmp_path: Path, store: Store) -> None:
    with pytest.raises(InputError, match="first: bench run pod-table5 --rows retina-50-fd-2x,retina-50-fd-wt"):
        pod_transfer.gather(tmp_path, store, "")


def test_all_are_listed() -> None:
    found = gathered.available()
    assert found["pod-transfer"].startswith("POD, table 5")
    assert found["pod-scales"].startswith("POD, figure 6") and found["pod-speed-accuracy"].startswith("POD, figure 1")
