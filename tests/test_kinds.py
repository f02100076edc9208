"""What a `kind` may name and import, and what it may not."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import bench, complaint

from benchsuite.models.detector import Backbone
from benchsuite.models.fpn import Neck
from benchsuite.settings import find

MINE = """
id: mine
extends: _har-ablation.yaml
table: A
title: Mine
rows: [{id: baseline, model: {backbone: {kind: "PLUGIN:Net", depth: 18}}}]
"""
PART = """
import os
print("printed while imported")
os.write(1, b"written past Python")
from benchsuite.models.resnet import ResNet
class Net(ResNet):
    "A network of one's own."
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """A recipe and the module beside it, of a name that no other test has imported."""
    name = f"plugin_{abs(hash(request.node.name))}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("benchsuite.settings._beside", [])
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "mine.yaml").write_text(MINE.replace("PLUGIN", name))
    return folder / "mine.yaml", folder / f"{name}.py"


@pytest.mark.parametrize(
    "kind",
    ["this:s", "antigravity:x", "unittest.__main__:X", "pip.__main__:X", "__main__:X", "idlelib.idle:x", "os:system",
     "builtins:eval", "test.regrtest:x", "subprocess:Popen", "sys:exit"],
)  # fmt: skip
def test_modules_of_pythons_own_are_refused_by_name(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    before = set(sys.modules)
    with pytest.raises(ValueError, match=f"unknown kind '{kind}': .* is Python's own and not imported"):
        find(Backbone, kind)
    assert set(sys.modules) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "kind",
    [
        "",
        ":",
        ".",
        "x:",
        ":x",
        "a b:C",
        "../x:Y",
        "x\x00:Y",
        "x.:Y",
        ".x:Y",
        "x" * 5000 + ":Y",
        "no_such:X",
        "猫:X",
        "a..b:X",
    ],
)
def test_names_of_nothing(kind: str) -> None:
    with pytest.raises(ValueError, match="unknown kind"):
        find(Backbone, kind)


def test_a_module_beside_the_recipe(recipe: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    file, module = recipe
    module.write_text(PART)
    assert bench("plan", file, "--json") == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["totals"] == {"Train": 1, "Predict": 1, "Score": 1}
    assert "printed while imported" in captured.err and "written past Python" in captured.err


def test_installed_modules_go_before_those_beside(recipe: tuple[Path, Path]) -> None:
    file, module = recipe
    (module.parent / "json.py").write_text("raise SystemExit('shadowed')")
    (module.parent / "numpy.py").write_text("raise SystemExit('shadowed')")
    module.write_text(PART)
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    code = "from benchsuite.cli.entry import main; main()"
    found = subprocess.run([sys.executable, "-c", code, "plan", str(file), "--json"], env=environ, capture_output=True)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1 / 0", r"failed with ZeroDivisionError: division by zero \(NAME.py:1\); mend it"),
        ("\n\ndef f(:", r"failed with SyntaxError: .* \(NAME.py:3\); mend it"),
        ("exit(3)", r"failed with SystemExit: 3 \(NAME.py:1\)"),
        ("import sys\nsys.exit()", r"failed with SystemExit \(NAME.py:2\)"),
        ("raise Exception('two\\nlines \\x1b[2J')", r"failed with Exception: two\\nlines \\x1b\[2J \(NAME.py:1\)"),
        ("import no_such_module", r"failed with ModuleNotFoundError: No module named 'no_such_module' \(NAME.py:1\)"),
        ("def f():\n  raise RecursionError\nf()", r"failed with RecursionError \(NAME.py:2\)"),
        ("raise KeyError", r"failed with KeyError \(NAME.py:1\)"),
        ("class E(BaseException): pass\nraise E('odd')", r"failed with E: odd \(NAME.py:2\)"),
        ("x = '\\0", "failed with SyntaxError"),
        ("Net = 3", "unknown kind 'NAME:Net'; "),
        ("class Net: pass", "unknown kind 'NAME:Net'; "),
        ("def __getattr__(name): raise ValueError", "unknown kind 'NAME:Net'; "),
    ],
)
def test_a_module_that_fails_is_one_line(
    recipe: tuple[Path, Path], text: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, module = recipe
    module.write_text(text)
    line = complaint(capsys, "plan", file)
    assert line.startswith(f"bench: mine.yaml:6: `model.backbone.kind` is '{module.stem}:Net': unknown kind")
    assert re.search(told.replace("NAME", module.stem), line), line


def test_bytes_that_are_no_module(recipe: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    file, module = recipe
    module.write_bytes(b"\xff\xfe\x00")
    assert "failed with SyntaxError" in complaint(capsys, "plan", file)


@pytest.mark.parametrize(("kind", "told"), [
    ("resnet.ResNet", "is for Backbone, and here goes Neck: "),
    ("circles_that_are_not:Around", "there is no module circles_that_are_not, neither installed nor beside the recipe"),
    ("benchsuite.models.fpn:Fpm", "did you mean 'benchsuite.models.fpn:Fpn'"),
    ("fpn.Fpm", "did you mean 'fpn.Fpn'"),
])  # fmt: skip
def test_why_a_kind_is_unknown(kind: str, told: str) -> None:
    with pytest.raises(ValueError, match=f"unknown kind '{kind}'") as raised:
        find(Neck, kind)
    assert told in str(raised.value)
