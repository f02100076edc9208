"""A training whose checkpoint or log is damaged, or another's: set aside with one line, and it starts again to the same
bits; never another result, never another log."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from train_cases import Fakes, Killed, Tiny, again, context, die_at, run, same, solver

from benchsuite.engine.job import Context
from benchsuite.errors import harmless
from benchsuite.loops import checkpoint, log
from benchsuite.loops.train import train

CHECKPOINT, LOG = "checkpoint.safetensors", "log.jsonl"


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Context:
    undisturbed = context(tmp_path_factory.mktemp("straight"))
    run(undisturbed, solver())
    return undisturbed


@pytest.fixture
def killed(tmp_path: Path) -> Context:
    """Killed after iteration 8 of 12; the checkpoint is of iteration 6."""
    return left(tmp_path / "killed")


def left(folder: Path, seed: int = 1, at: int = 8) -> Context:
    where = context(folder, report=die_at(at))
    with pytest.raises(Killed):
        run(where, solver(), seed)
    return where


def resumed(killed: Context) -> tuple[list[str], list[int]]:
    """What the user is told while the training goes on, and the iterations that it does."""
    notes, done = list[str](), list[int]()
    run(replace(again(killed), note=notes.append, report=lambda progress: done.append(progress.done)), solver())
    return notes, done


def starts_again(killed: Context, straight: Context) -> str:
    notes, done = resumed(killed)
    assert done == list(range(1, 13))
    assert same(straight, killed)
    (note,) = notes
    assert note.endswith("; set aside as checkpoint.safetensors.aside, the training starts again")
    assert all(map(harmless, note)) and str(killed.partial) in note
    return note


def restated(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Write the checkpoint anew with another state, in all else a sound one."""
    tensors, state = checkpoint.load(file, "")
    checkpoint.save(file, tensors, change(dict(state)))


STATES: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{f"iteration {value}": lambda state, value=value: state | {"iteration": value}  # type: ignore[misc]
       for value in (10**9, 12, -1, 10**25, 6.5, True, "6", None, float("nan"))},
    **{f"seconds {value}": lambda state, value=value: state | {"seconds": value}  # type: ignore[misc]
       for value in (float("nan"), float("inf"), -1.0, "1", True, None)},
    **{f"sums {value}": lambda state, value=value: state | {"sums": value}  # type: ignore[misc]
       for value in (None, [], {"loss": 1.0}, {"loss": [1.0, 0]}, {"loss": [1.0, 0.5]}, {"loss": ["1", 1]})},
    **{f"without {name}": lambda state, name=name: {each: state[each] for each in state if each != name}  # type: ignore[misc]
       for name in ("iteration", "seconds", "sums")},
    "a key too many": lambda state: state | {"pickle": "x"},
    "of another training": lambda state: state | {"key": "0123"},
    "of a log too long": lambda state: state | {"log": [10**9, ""]},
    "empty": lambda state: {},
    "a list": lambda state: [1, 2],
}  # fmt: skip


@pytest.mark.parametrize("change", STATES.values(), ids=STATES.keys())
def test_a_state_that_does_not_fit(killed: Context, straight: Context, change: Callable[[Any], Any]) -> None:
    restated(killed.partial / CHECKPOINT, change)
    starts_again(killed, straight)
    assert (killed.partial / f"{CHECKPOINT}.aside").is_file()


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "{", "", "1e999"])
def test_a_state_that_is_no_json(killed: Context, straight: Context, text: str) -> None:
    save_file(load_file(killed.partial / CHECKPOINT), killed.partial / CHECKPOINT, metadata={"state": text})
    starts_again(killed, straight)


def flipped(text: bytes) -> bytes:
    """The text with one bit of its middle changed: of a tensor, as they take all but the beginning."""
    middle = len(text) // 2
    return text[:middle] + bytes([text[middle] ^ 1]) + text[middle + 1 :]


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda text: b"",
    "cut after 5": lambda text: text[:5],
    "cut in its header": lambda text: text[:200],
    "cut by one": lambda text: text[:-1],
    "zeroed": lambda text: bytes(len(text)),
    "one bit": flipped,
    "zeroed at its end": lambda text: text[:-40] + bytes(40),
    "garbage": lambda text: bytes(range(256)) * 40,
    "longer": lambda text: text + b"\0",
}


@pytest.mark.parametrize("change", BYTES.values(), ids=BYTES.keys())
def test_a_damaged_checkpoint(killed: Context, straight: Context, change: Callable[[bytes], bytes]) -> None:
    file = killed.partial / CHECKPOINT
    file.write_bytes(change(file.read_bytes()))
    before = file.read_bytes()
    assert CHECKPOINT in starts_again(killed, straight)
    assert file.with_name(f"{CHECKPOINT}.aside").read_bytes() == before


@pytest.mark.parametrize("change", [*BYTES.values()][:-1], ids=[*BYTES.keys()][:-1])
def test_a_damaged_log(killed: Context, straight: Context, change: Callable[[bytes], bytes]) -> None:
    file = killed.partial / LOG
    until = len(b"".join(file.read_bytes().splitlines(keepends=True)[:6]))  # what the checkpoint counts on
    file.write_bytes(change(file.read_bytes()[:until]))
    assert LOG in starts_again(killed, straight)
    assert file.with_name(f"{LOG}.aside").is_file()


@pytest.mark.parametrize("tail", [b'{"iteration": 9, "lo', b"\0" * 4096, b"\xff\xfe\n", b"[]\n", b"[" * 100_000])
def test_what_a_log_has_beyond_the_checkpoint_is_cut_off(killed: Context, straight: Context, tail: bytes) -> None:
    with (killed.partial / LOG).open("ab") as file:
        file.write(tail)
    assert resumed(killed) == ([], list(range(7, 13)))
    assert same(straight, killed)


def test_a_log_of_another_training(killed: Context, straight: Context, tmp_path: Path) -> None:
    other = left(tmp_path / "other", seed=2)
    (killed.partial / LOG).write_bytes((other.partial / LOG).read_bytes())
    starts_again(killed, straight)


def in_its_place(file: Path, what: str, elsewhere: Path) -> None:
    """Put something in the file's place: a folder with something in it, a pipe, a link."""
    file.unlink(missing_ok=True)
    if what == "folder":
        file.mkdir()
        (file / "mine.txt").write_text("mine")
    elif what == "pipe":
        os.mkfifo(file)
    elif what == "link":
        elsewhere.write_text("mine")
        file.symlink_to(elsewhere)
    elif what == "link to nowhere":
        file.symlink_to(elsewhere)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", ["folder", "pipe", "link", "link to nowhere"])
@pytest.mark.parametrize("name", [CHECKPOINT, LOG])
def test_something_else_in_a_files_place(
    killed: Context, straight: Context, tmp_path: Path, name: str, what: str
) -> None:
    in_its_place(killed.partial / name, what, tmp_path / "elsewhere")
    starts_again(killed, straight)
    assert what != "link" or (tmp_path / "elsewhere").read_text() == "mine"
    assert what != "link to nowhere" or not (tmp_path / "elsewhere").exists()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", ["folder", "pipe", "link", "link to nowhere", "gone"])
def test_a_log_without_a_checkpoint_is_none(straight: Context, tmp_path: Path, what: str) -> None:
    killed = left(tmp_path / "killed", at=2)
    in_its_place(killed.partial / LOG, what, tmp_path / "elsewhere")
    assert resumed(killed) == ([], list(range(1, 13)))
    assert same(straight, killed)
    assert what != "link" or (tmp_path / "elsewhere").read_text() == "mine"


def test_a_log_that_is_gone(killed: Context, straight: Context) -> None:
    (killed.partial / LOG).unlink()
    starts_again(killed, straight)


def test_a_checkpoint_of_another_model(killed: Context, straight: Context) -> None:
    other = Tiny(norm=False)
    _, state = checkpoint.load(killed.partial / CHECKPOINT, "")
    named = {f"model.{name}": value for name, value in other.state_dict().items()}
    checkpoint.save(killed.partial / CHECKPOINT, named, state)
    assert "lacks the tensor" in starts_again(killed, straight)


def test_momentum_of_another_shape(killed: Context, straight: Context) -> None:
    tensors, state = checkpoint.load(killed.partial / CHECKPOINT, "")
    checkpoint.save(killed.partial / CHECKPOINT, tensors | {"momentum.head.bias": torch.zeros(3)}, state)
    assert "the momentum of 'head.bias' has shape [3]" in starts_again(killed, straight)


@pytest.mark.parametrize("sound", [True, False])
def test_checkpoints_that_do_not_say_what_their_log_held(killed: Context, straight: Context, sound: bool) -> None:
    """As they were written until 0.1: their log's lines are looked at instead."""
    restated(
        killed.partial / CHECKPOINT, lambda state: {each: state[each] for each in ("iteration", "seconds", "sums")}
    )
    if sound:
        assert resumed(killed) == ([], list(range(7, 13)))
        assert same(straight, killed)
    else:
        lines = (killed.partial / LOG).read_bytes().splitlines(keepends=True)
        (killed.partial / LOG).write_bytes(b"".join(lines[:3] + lines[4:]))
        starts_again(killed, straight)


def test_what_is_observed_may_be_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean over no anchors is NaN; the checkpoint that holds its sum is one to go on from."""
    monkeypatch.setattr(log, "LOG_LINES", 3)  # lines after 1, 4, 8 and 12: at 6 a sum is held

    def begun() -> Tiny:
        torch.manual_seed(0)
        model = Tiny()
        model.head.observe = lambda: {"positives": float("nan")}  # type: ignore[assignment]
        return model

    killed, notes = context(tmp_path, report=die_at(8)), list[str]()
    with pytest.raises(Killed):
        train(begun(), Fakes(), solver(), killed, 1)
    train(begun(), Fakes(), solver(), again(killed, note=notes.append), 1)
    assert notes == []
    lines = [json.loads(line) for line in (killed.folder / LOG).read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 4, 8, 12]


def test_equal_tensors_are_equal_bytes(tmp_path: Path) -> None:
    tensors = {f"t{number}": torch.full((3,), float(number)) for number in range(5)}
    for number in range(8):
        checkpoint.save(tmp_path / str(number), tensors, {"iteration": 3})
    assert len({(tmp_path / str(number)).read_bytes() for number in range(8)}) == 1
    assert checkpoint.load(tmp_path / "0", "")[1] == {"iteration": 3}
