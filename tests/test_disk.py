import json
import os
import subprocess
import time
from pathlib import Path

import msgspec
import pytest
from data_cases import one_line
from hypothesis import example, given
from hypothesis import strategies as st

from benchsuite.disk import DEPTH, STALE, outgoing, parse_json, read_json, read_typed
from benchsuite.errors import InputError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


class Entry(msgspec.Struct):
    id: int
    box: tuple[float, float]


@given(VALUES)
def test_what_python_writes_is_read_back(value: object) -> None:
    assert parse_json(json.dumps(value).encode(), "f", "cure") == value


@given(st.binary())
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1))
@example(b"1" * 5000)
@example(b"1" * 21)
@example(b"[1e400]")
@example(b"\xff\xfe\x00")
@example('"\ud800"'.encode("utf-8", "surrogatepass"))
def test_any_bytes_are_a_value_or_one_line(text: bytes) -> None:
    try:
        json.dumps(parse_json(text, "file.json", "restore it"))
    except InputError as error:
        assert str(error).startswith("file.json: ") and str(error).endswith("; restore it")
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b'[{"id": 1, "box": [1, 2]}, {"id": "2", "box": [1, 2]}]', ["[1].id", "expected `int`, got `str`"]),
        (b'[{"id": 1, "box": [1, 2, 3]}]', ["[0].box", "length 2"]),
        (b'[{"box": [1, 2]}]', ["[0]", "missing required field `id`"]),
        (b'[{"id": 1, "box": [1, 1e400]}]', ["[0].box[1]", "out of range"]),
        (b'[{"id": 1, "box": [1, NaN]}, {"id": null, "box": [1, 2]}]', ["[1].id"]),
        (b'[{"id": 1, "box": [1, 2],}]', ["line 1 column"]),
        (b'[{"x": ' + b"[" * 100_000, ["nested too deep"]),
        (b'[{"id": ' + b"1" * 5000 + b', "box": [1, 2]}]', ["[0].id", "out of range"]),
        (b'[{"id": 1,\n\xff"box": 1}]', ["is not utf-8 text (line 2, byte 12)"]),
        (b"", ["Expecting value"]),
    ],
)
def test_a_typed_file_tells_the_place(tmp_path: Path, text: bytes, parts: list[str]) -> None:
    (tmp_path / "f.json").write_bytes(text)
    with pytest.raises(InputError) as error:
        read_typed(tmp_path / "f.json", list[Entry], "correct it")
    one_line(error, "f.json: ", *parts)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_what_is_not_json_to_the_letter_is_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "f.json").write_bytes('[{"id": 3, "box": [NaN, Infinity], "name": "é"}]'.encode(encoding))
    (entry,) = read_typed(tmp_path / "f.json", list[Entry], "correct it")
    assert (entry.id, str(entry.box)) == (3, "(nan, inf)")


def test_only_regular_files_within_the_limit(tmp_path: Path) -> None:
    (tmp_path / "long.json").write_bytes(b" " * 101)
    os.mkfifo(tmp_path / "pipe.json")
    names = ["long.json", "pipe.json", "none.json", ".", "nul\0.json", "/dev/zero"]
    for name, told in zip(names, ["101 bytes", "regular", "No such file", "regular", "null", "regular"], strict=True):
        with pytest.raises(InputError) as error:
            read_json(tmp_path / name, limit=100)
        one_line(error, told)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "below" / "figure.png"
    with outgoing(file) as scratch:
        scratch.write_text("new")
        assert scratch.suffix == ".png" and not file.exists()
    with pytest.raises(ZeroDivisionError), outgoing(file) as scratch:
        scratch.write_text("half")
        raise ZeroDivisionError
    assert [(path, path.read_text()) for path in file.parent.iterdir()] == [(file, "new")]


@pytest.mark.parametrize("where", ["file/figure.png", "/proc/figure.png"])
def test_what_cannot_be_written_is_told_in_one_line(where: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"figure.png: cannot be written \(.+\); .* --out$"),
        outgoing(tmp_path / where),
    ):
        pass


def test_what_killed_writers_left_is_swept(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    old = time.time() - 2 * STALE
    for name, when in (
        (f".x.{dead.pid}.json", old),
        (f".x.{os.getppid()}.json", old),  # its writer lives
        (f".x.{dead.pid}.txt", old),  # of another file
        (".x.y.json", old),
        ("mine", old),
    ):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (when, when))
    (tmp_path / f".x.{dead.pid}1.json").write_text("of this moment")
    with outgoing(tmp_path / "x.json") as scratch:
        scratch.write_text("{}")
    assert {path.name for path in tmp_path.iterdir()} == {
        "x.json", f".x.{os.getppid()}.json", f".x.{dead.pid}.txt", ".x.y.json", "mine", f".x.{dead.pid}1.json",
    }  # fmt: skip
