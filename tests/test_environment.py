import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from benchsuite.engine import environment as module
from benchsuite.engine.environment import PACKAGES, cores, determinism, environment


def test_versions_and_machine_without_names_or_paths() -> None:
    found = environment()
    assert set(found["packages"]) == set(PACKAGES)
    assert found["python"] == platform.python_version()
    text = json.dumps(found)
    assert platform.node() not in text or len(platform.node()) < 4
    assert str(Path(__file__).parents[1]) not in text


def test_torch_is_loaded_only_for_gpus() -> None:
    code = "from benchsuite.engine.environment import environment; environment()"
    code += "; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_commit_says_whether_files_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package" / "engine"
    package.mkdir(parents=True)
    (package / "environment.py").write_text("1")
    monkeypatch.setattr(module, "__file__", str(package / "environment.py"))
    assert module._commit.__wrapped__() is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    commit = module._commit.__wrapped__()
    assert len(commit) == 12
    for name in ("GIT_DIR", "GIT_WORK_TREE"):  # another repository's, as in a hook
        monkeypatch.setenv(name, str(Path(__file__).parents[1]))
    assert module._commit.__wrapped__() == commit
    (package / "environment.py").write_text("2")
    assert module._commit.__wrapped__() == f"{commit}+changes"


def test_cores_obey_openmp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert cores() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert cores() >= 1


@pytest.mark.parametrize("asked", [False, True])
def test_determinism_needs_no_switch_on_a_cpu(asked: bool) -> None:
    import torch

    assert determinism("cpu", asked) is True
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("asked", [True, False])
def test_determinism_is_to_be_asked_for_on_a_gpu(asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        assert determinism("cuda:0", asked) is asked
        assert torch.are_deterministic_algorithms_enabled() is asked
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) is asked
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
