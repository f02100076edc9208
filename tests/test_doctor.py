from pathlib import Path

import pytest

from benchsuite.verbs.doctor import doctor


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
