"""Stopped or killed, a training goes on to the same bits."""

from dataclasses import replace
from pathlib import Path

import pytest
from train_cases import Killed, again, context, die_at, run, same, solver

from benchsuite.engine.job import Progress
from benchsuite.errors import Interrupted

MODES = [
    {},
    {"channels_last": False},
    {"precision": "bf16"},
    {"precision": "tf32"},
    {"precision": "bf16", "channels_last": False, "micro_batch": 3, "clip_norm": 0.3},
    {"momentum": 0.0},
]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_resumes_bit_for_bit(tmp_path: Path, mode: dict[str, object]) -> None:
    straight = context(tmp_path / "straight")
    run(straight, solver(**mode))
    killed = context(tmp_path / "killed", report=die_at(7))
    with pytest.raises(Killed):
        run(killed, solver(**mode))
    assert not list(killed.folder.iterdir())
    seen: list[Progress] = []
    run(replace(killed, report=seen.append), solver(**mode))
    assert seen[0].done == 7  # from the checkpoint at 6
    assert same(straight, killed)


def test_stops_with_a_checkpoint(tmp_path: Path) -> None:
    straight = context(tmp_path / "straight")
    run(straight, solver())
    count: list[Progress] = []
    stopped = context(tmp_path / "stopped", report=count.append, stop=lambda: len(count) == 5)
    with pytest.raises(Interrupted, match="after iteration 5 of 12"):
        run(stopped, solver())
    rest: list[Progress] = []
    run(replace(stopped, report=rest.append, stop=lambda: False), solver())
    assert rest[0].done == 6
    assert same(straight, stopped)


def test_torn_log_is_mended(tmp_path: Path) -> None:
    straight = context(tmp_path / "straight")
    run(straight, solver())
    killed = context(tmp_path / "killed", report=die_at(8))
    with pytest.raises(Killed):
        run(killed, solver())
    with (killed.partial / "log.jsonl").open("a") as file:
        file.write('{"iteration": 9, "lo')
    run(again(killed), solver())
    assert same(straight, killed)
