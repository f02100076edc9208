"""What every test gets: no datasets, weights or store of the machine it happens to run on."""

import pytest


@pytest.fixture(autouse=True)
def _clean_machine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in ("BENCH_DATA", "BENCH_STORE", "BENCH_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.getbasetemp() / "torch-home"))
    monkeypatch.setenv("NO_COLOR", "1")
