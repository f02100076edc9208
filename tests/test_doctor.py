from pathlib import Path

import pytest

from benchsuite.verbs import doctor as checks_of
from benchsuite.verbs.doctor import doctor


def test_doctor_looks_at_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "VOCdevkit" / "VOC2007").mkdir(parents=True)
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    checks = {check.name: check for check in doctor(tmp_path / "there" / "runs")}
    assert not (tmp_path / "there").exists(), "it leaves nothing behind"
    for name in ("python", "torch", "torchvision", "torch with torchvision", "evaluators", "store", "VOC 2007"):
        assert checks[name].ok, checks[name]
    for name in ("locks", "shared memory", "decoding"):
        assert checks[name].found and not checks[name].needed
    assert not checks["COCO"].ok
    assert not checks["COCO"].needed
    assert "instances_val2017.json" in checks["COCO"].cure
    monkeypatch.delenv("BENCH_DATA")
    (tmp_path / "file").touch()
    checks = {check.name: check for check in doctor(tmp_path / "file")}
    assert not checks["store"].ok
    assert not checks["VOC 2007"].ok
    assert set(checks["store"].form()) == {"name", "ok", "found", "cure", "needed"}


def test_loaders_are_measured_by_what_the_gpus_eat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checks_of, "cores", lambda: 4)
    for gpus, rate, ok in ((0, 1.0, True), (2, 30.0, True), (8, 30.0, False)):
        monkeypatch.setattr(checks_of, "gpus", lambda gpus=gpus: ["a GPU"] * gpus)
        monkeypatch.setattr(checks_of, "_decoded", lambda rate=rate: rate)
        check = checks_of._check_decoding()
        assert check.ok == ok and f"{4 * rate:.0f} on 4" in check.found
    monkeypatch.setattr(checks_of, "SHARED_BYTES", 1 << 60)
    check = checks_of._check_shared(tmp_path)
    assert not check.ok and "--shm-size=8g" in check.cure
    assert checks_of._check_shared(tmp_path / "none").ok


def test_decoding_is_real() -> None:
    assert 1 < checks_of._decoded() < 100_000
