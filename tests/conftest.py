"""What every test gets: no datasets, weights or store of the machine it happens to run on."""

import os

import pytest
from hypothesis import HealthCheck, settings

# Right on a machine however busy: how long an example took says nothing.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(autouse=True)
def _clean_machine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in ("BENCH_DATA", "BENCH_STORE", "BENCH_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    # timings of one process of tests do not wait for the jobs of another, or of the machine's user
    monkeypatch.setenv("BENCH_MACHINE_LOCK", str(tmp_path_factory.getbasetemp() / f"machine-{os.getpid()}.lock"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.getbasetemp() / "torch-home"))
    monkeypatch.setenv("NO_COLOR", "1")
