"""How many processes make batches."""

from pathlib import Path

import pytest

from benchsuite.engine.job import Context, Execution
from benchsuite.pipelines.steps import loaders


@pytest.mark.parametrize(
    ("device", "threads", "asked", "expected"),
    [
        ("cpu", 16, None, 0),
        ("cuda:0", 1, None, 0),
        ("cuda:0", 4, None, 3),
        ("cuda:0", 64, None, 8),
        ("cpu", 2, 3, 3),
        ("cuda:0", 64, 0, 0),
        ("cuda:0", 4, 12, 12),
    ],
)
def test_loaders(tmp_path: Path, device: str, threads: int, asked: int | None, expected: int) -> None:
    execution = Execution(loaders=asked)
    assert (
        loaders(Context(tmp_path, tmp_path, tmp_path, device=device, threads=threads, execution=execution)) == expected
    )
