"""The trial of docs/adding.md: a paper in one module outside the package, and a recipe beside it, through `bench`."""

import importlib
import importlib.util
import json
import os
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from test_cli import bench, complaint
from torch import Tensor

TEXT = (Path(__file__).parents[1] / "docs" / "adding.md").read_text()
TRIAL = TEXT.split("## A trial: ", 1)[1].split("\n## ", 1)[0]
FILES: dict[str, str] = dict(re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```", TRIAL, re.DOTALL | re.MULTILINE))
(COMMANDS,) = re.findall(r"```sh\n(.*?)```", TRIAL, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With both files; the recipe makes its module known, here and to workers."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "squares", raising=False)
    return tmp_path


@pytest.fixture
def squares(folder: Path) -> ModuleType:
    sys.path.append(str(folder))
    return importlib.import_module("squares")


def test_the_whole_trial(folder: Path) -> None:
    """The run's workers find the module beside the recipe too: nothing else names its folder."""
    assert str(folder) not in [*sys.path, os.environ.get("PYTHONPATH", "")]
    lines = [shlex.split(line) for line in COMMANDS.splitlines()]
    absent = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    for program, verb, *rest in lines:
        assert program == "bench"
        assert (absent and verb == "export") or bench(verb, *rest) == 0, verb

    results = json.loads((folder / "results" / "squares-table1.smoke.json").read_text())
    assert {row["id"]: row["status"] for row in results["rows"]} == {"baseline": "done", "squares": "done"}
    assert all(set(row["measured"]) == {"AP", "AP50"} for row in results["rows"])
    logs = [file.read_text().splitlines() for file in (folder / "runs" / "artifacts").glob("*/log.jsonl")]
    assert len(logs) == 2 and all(json.loads(log[-1])["head.sure_anchors"] > 0 for log in logs)
    recorded = "".join(file.read_text() for file in (folder / "runs" / "artifacts").glob("*/artifact.json"))
    assert all(f"squares:{part}" in recorded for part in ("Squares", "Around", "Softened", "Head"))
    for picture in ("squares-table1.smoke.png", "squares-table1.smoke.squares.detections.png"):
        assert (folder / "results" / picture).stat().st_size > 1000
    if absent:
        pytest.skip(f"all but the export: {absent[0]} is not installed (benchsuite[export])")
    assert (folder / "squares.onnx").stat().st_size > 100_000


def test_a_mistake_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = folder / "squares.yaml"
    recipe.write_text(recipe.read_text().replace("times: 3", "times: -1"))
    line = 1 + next(i for i, text in enumerate(recipe.read_text().splitlines()) if "times: -1" in text)
    assert complaint(capsys, "plan", "squares.yaml", "--tier", "smoke").startswith(f"bench: squares.yaml:{line}: ")


def naive_around(anchors: Tensor, boxes: Tensor, labels: Tensor) -> list[int]:
    """One image, anchor by anchor."""
    found = []
    for left, top, right, bottom in anchors.tolist():
        x, y = (left + right) / 2, (top + bottom) / 2
        rows = [
            ((x1 - x0) * (y1 - y0), row)
            for row, (x0, y0, x1, y1) in enumerate(boxes.tolist())
            if labels[row] >= 0 and x0 < x < x1 and y0 < y < y1
        ]
        found.append(min(rows)[1] if rows else -1)
    return found


@pytest.mark.parametrize("count", [0, 1, 7])
def test_the_trials_parts_are_what_they_say(squares: ModuleType, count: int) -> None:
    anchors = squares.Squares(times=2).grid(((4, 4), (2, 2)), (8, 16), (32, 32), torch.device("cpu"))
    assert (
        anchors.shape == (20, 4)
        and anchors[0].tolist() == [-4, -4, 12, 12]
        and anchors[16].tolist() == [-8, -8, 24, 24]
    )
    torch.manual_seed(count)
    corners = torch.rand(3, count, 2) * 20
    boxes, labels = (
        torch.cat((corners, corners + 4 + torch.rand(3, count, 2) * 16), dim=2),
        torch.randint(-1, 2, (3, count)),
    )
    expected = [naive_around(anchors, *truth) for truth in zip(boxes, labels, strict=True)]
    assert squares.Around().match(anchors, boxes, labels).tolist() == expected
    own = anchors.expand(3, -1, -1) + torch.arange(3).view(-1, 1, 1)
    expected = [naive_around(*image) for image in zip(own, boxes, labels, strict=True)]
    assert squares.Around().match(own, boxes, labels).tolist() == expected
    p, targets = torch.tensor([[0.2, 0.7], [0.4, 0.5], [0.9, 0.9]]), torch.tensor([1, -1, -2])
    wanted = torch.tensor([[0, 0.9], [0, 0]])
    loss = -(wanted * p[:2].log() + (1 - wanted) * (1 - p[:2]).log()).sum()
    torch.testing.assert_close(squares.Softened().sum(p.logit()[None], targets[None]), loss)
