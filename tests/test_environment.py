import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from benchsuite import environment as module
from benchsuite.environment import PACKAGES, cores, determinism, doctor, environment


def test_versions_and_machine_without_names_or_paths() -> None:
    found = environment()
    assert set(found["packages"]) == set(PACKAGES)
    assert found["python"] == platform.python_version()
    text = json.dumps(found)
    assert platform.node() not in text or len(platform.node()) < 4
    assert str(Path(__file__).parents[1]) not in text


def test_torch_is_loaded_only_for_gpus() -> None:
    code = "import sys; from benchsuite.environment import environment; environment(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_commit_says_whether_files_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "environment.py").write_text("1")
    monkeypatch.setattr(module, "__file__", str(package / "environment.py"))
    assert module._commit.__wrapped__() is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    commit = module._commit.__wrapped__()
    assert len(commit) == 12
    (package / "environment.py").write_text("2")
    assert module._commit.__wrapped__() == f"{commit}+changes"


def test_cores_obey_openmp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert cores() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert cores() >= 1


def test_determinism_needs_no_switch_on_a_cpu() -> None:
    import torch

    determinism("cpu")
    assert not torch.are_deterministic_algorithms_enabled()


def test_doctor_looks_at_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "VOCdevkit" / "VOC2007").mkdir(parents=True)
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    checks = {check.name: check for check in doctor(tmp_path / "runs")}
    for name in ("python", "torch", "torchvision", "torch with torchvision", "evaluators", "store", "VOC 2007"):
        assert checks[name].ok, checks[name]
    assert not checks["COCO"].ok
    assert not checks["COCO"].needed
    assert "instances_val2017.json" in checks["COCO"].cure
    monkeypatch.delenv("BENCH_DATA")
    (tmp_path / "file").touch()
    checks = {check.name: check for check in doctor(tmp_path / "file")}
    assert not checks["store"].ok
    assert not checks["VOC 2007"].ok
    assert set(checks["store"].form()) == {"name", "ok", "found", "cure", "needed"}
