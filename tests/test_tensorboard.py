"""Training logs in TensorBoard's event files, read back (extra `tensorboard`)."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchsuite.cli.app import app
from benchsuite.engine.store import Store
from benchsuite.errors import InputError

FIXTURE = Path(__file__).parent / "fixtures" / "results" / "har-table1.mini.schema1.json"
LINES = [{"iteration": 1, "loss": 2.5, "head.cls.sure": 3, "lr": 0.01, "note": "text"},
         {"iteration": 20, "loss": 0.5, "head.cls.sure": 9, "lr": 0.01}]  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A training, the score made of it, and a results file that hangs on that; a training under way, its line torn."""
    store = Store(tmp_path / "store")
    store.prepare()
    for key, inputs in (("fit0", {}), ("score0", {"predict": "fit0"})):
        with store.lock(key), store.scratch(key) as folder:
            if key == "fit0":
                (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
            store.publish(key, folder, {"label": key, "inputs": inputs, "job": {"seed": 4}})
    store.partial("running").mkdir()
    (store.partial("running") / "log.jsonl").write_text(json.dumps(LINES[0]) + '\n{"iteration": 2, "lo')
    content = json.loads(FIXTURE.read_text())
    content["rows"][0]["keys"] = ["score0"]
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "har-table1.mini.json").write_text(json.dumps(content))
    return store


def bench(store: Store, *words: str) -> Any:
    out = store.root.parent
    return CliRunner().invoke(app, ["logs", *words, "--store", str(store.root), "--out", str(out / "results")])


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_every_number_is_read_back(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed (benchsuite[tensorboard])")
    for _ in range(2):  # a second time writes anew
        result = bench(store, "--tensorboard", str(tmp_path / "tb"))
        assert result.exit_code == 0, result.exception
        folder = tmp_path / "tb" / "har-table1.mini" / "baseline.seed4"
        assert result.output.strip() == str(folder)
        found = read(folder)
        assert found.pop("lr") == [(1, pytest.approx(0.01)), (20, pytest.approx(0.01))]
        assert found == {"loss": [(1, 2.5), (20, 0.5)], "head.cls/sure": [(1, 3.0), (20, 9.0)]}


def test_a_training_under_way(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed (benchsuite[tensorboard])")
    assert bench(store, "run", "--tensorboard", str(tmp_path / "tb")).exit_code == 0
    assert read(tmp_path / "tb" / "running")["loss"] == [(1, 2.5)]


def test_mistakes_are_one_line(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, told in (
        ((), "needs a job's key, or --tensorboard DIR"),
        (("score", "--tensorboard", str(tmp_path / "tb")), "has no training log"),
    ):
        result = bench(store, *words)
        assert isinstance(result.exception, InputError) and told in str(result.exception)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = bench(store, "run", "--tensorboard", str(tmp_path / "tb"))
    assert isinstance(result.exception, InputError) and "pip install 'benchsuite[tensorboard]'" in str(result.exception)
