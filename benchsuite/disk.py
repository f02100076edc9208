"""Files: what anybody may have written is read within bounds, or refused by one line that names the file and the cure;
what we write is there whole or not at all.

JSON comes in two ways. `read_json` gives Python's own values, for files of modest size whose form is checked later.
`read_typed` decodes straight into `msgspec` structures, for annotations and detections: what a structure does not name
is passed over without being built (a fifth of the time for a results file of COCO), and a value of another type is told
with its place in the file.
"""

import fcntl
import hashlib
import json
import math
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from benchsuite.errors import InputError

LIMIT = 64 * 2**20  # bytes of results, records and states, of which the largest known has a hundredth
LARGE = 4 * 2**30  # bytes of annotations and detections: eight times COCO's train2017 with its masks
DEPTH = 100  # levels of a value; what is written here has less than ten
LONGEST_NAME = 200  # bytes of a file's name before its suffix; file systems take 255 in all
DIGITS = 20  # of a whole number: all that 64 bits can hold

ARCHIVES = {"gzip": b"\x1f\x8b", "zip": b"PK\x03\x04", "xz": b"\xfd7zXZ", "bzip2": b"BZh", "zstd": b"\x28\xb5\x2f\xfd"}
"""How packed files begin."""
STALE = 60.0  # seconds after which half a file is nobody's

T = TypeVar("T")


def open_regular(path: Path) -> BinaryIO:
    """The file, open for reading. OSError where it cannot be read or is none: opening a pipe would wait for a writer,
    and a device may have no end."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(None, "is not a regular file", str(path))
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def is_file(path: Path) -> bool:
    """Whether a regular file is there; False, too, for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_within(path: Path, cure: str, limit: int = LIMIT) -> bytes:
    """All of a regular file; InputError, ending in `cure`, where it cannot be read or has more than `limit` bytes."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise InputError(f"{path}: has {size:,} bytes, more than the {limit:,} that are read of it; {cure}")
            return file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{path!s}: cannot be read ({told(error)}); {cure}") from None


def read_json(path: Path, cure: str = "restore or remove it", limit: int = LIMIT) -> Any:
    """The file's value; InputError, ending in `cure`, where it is absent, too large or not JSON.

    Refused as well: a number that neither float64 nor 64 bits hold (Python would make it infinite, or spend hours on
    its digits), and values nested more than DEPTH deep.
    """
    return parse_json(read_within(path, cure, limit), str(path), cure)


def parse_json(text: bytes, where: str, cure: str) -> Any:
    """The value of a JSON text; InputError, beginning with `where` and ending in `cure`, as `read_json`."""
    try:
        value = json.loads(text.decode(json.detect_encoding(text)), parse_int=_integer, parse_float=_number)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: {_no_text(text, error)}; {cure}") from None
    except RecursionError:
        raise InputError(f"{where}: is nested too deep to be read; {cure}") from None
    except (ValueError, MemoryError) as error:
        raise InputError(f"{where}: is not JSON that can be read ({told(error)}); {cure}") from None
    if _deeper_than(value, DEPTH):
        raise InputError(f"{where}: is nested more than {DEPTH} deep; {cure}")
    return value


def read_typed(path: Path, form: type[T], cure: str, limit: int = LARGE) -> T:
    """The file decoded as `form`, a `msgspec.Struct` or a type made of them; InputError, ending in `cure`, with the
    place of a value of another type. NaN and the infinities, which JSON has not and Python writes, are let through."""
    import msgspec

    text = read_within(path, cure, limit)
    try:
        try:
            return msgspec.json.decode(text, type=form)
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError):  # what is it to a reader less strict, or where is it none?
            return msgspec.convert(parse_json(text, str(path), cure), form)
    except UnicodeEncodeError:
        raise InputError(f"{path}: has half of a surrogate pair, which is no text; {cure}") from None
    except RecursionError:
        raise InputError(f"{path}: is nested too deep to be read; {cure}") from None
    except (msgspec.MsgspecError, MemoryError) as error:
        raise InputError(f"{path}: {told(error)}; {cure}") from None


def told(error: BaseException) -> str:
    """What an error of a library says, in one line, the place within a file first."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    text, _, place = " ".join(str(error).split()).partition(" - at `$")
    place = place.rstrip("`").lstrip(".")
    return f"{place}: {text[:1].lower()}{text[1:]}" if place else text or type(error).__name__


def _no_text(text: bytes, error: UnicodeDecodeError) -> str:
    for name, magic in ARCHIVES.items():
        if text.startswith(magic):
            return f"is packed by {name}: unpack it first"
    line = text.count(b"\n", 0, error.start) + 1
    return f"is not {error.encoding} text (line {line}, byte {error.start + 1})"


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:20]} is beyond float64")
    return number


def _deeper_than(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [child for each in level if isinstance(each, list | dict) for child in _children(each)]
        if not level:
            return False
    return True


def _children(value: "list[Any] | dict[str, Any]") -> Any:
    return value.values() if isinstance(value, dict) else value


# --- writing


def placed(folder: Path, *words: str, suffix: str) -> Path:
    """A file in `folder`, named by the words with dots between them and never elsewhere, whatever the words are.

    >>> placed(Path("out"), "../x", "mini", suffix=".json").as_posix()
    'out/x.mini.json'
    """
    name = ".".join(filter(None, (re.sub(r"[^\w.+-]+", "-", word).strip("-.") for word in words)))
    if len(name.encode()) > LONGEST_NAME:  # two long names stay two
        name = f"{name[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return folder / f"{name or 'unnamed'}{suffix}"


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A path beside `file` to write to; what was written takes the place of `file` when the block ends well, so that
    a kill or a full disk leaves the old file or the new one."""
    scratch = file.with_name(f".{file.stem}.{os.getpid()}{file.suffix}")
    _sweep(file)
    try:
        yield scratch
        sync(scratch)
        scratch.replace(file)
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)


def _sweep(file: Path) -> None:
    """Remove what killed processes of this machine left beside `file` more than a minute ago."""
    begin, end = f".{file.stem}.", file.suffix
    with suppress(OSError):
        for other in list(file.parent.iterdir()):
            number = other.name.removeprefix(begin).removesuffix(end)
            ours = other.name == f"{begin}{number}{end}" and number.isdecimal()
            if ours and time.time() - other.lstat().st_mtime > STALE and not Path(f"/proc/{number}").exists():
                other.unlink()


@contextmanager
def outgoing(file: Path) -> Iterator[Path]:
    """`whole` for a file that the user asked for: makes its folder; InputError where it cannot be written."""
    with folder_of(file), whole(file) as scratch:
        yield scratch


@contextmanager
def folder_of(file: Path) -> Iterator[None]:
    """Make the folder of a file that the user asked for; InputError where the block cannot write there."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise InputError(
            f"{file}: cannot be written ({error.strerror or error}); make room or make the folder writable, or choose "
            "another with --out"
        ) from None


@contextmanager
def locked(file: Path, *, shared: bool = False, wait: bool = False, mode: int = 0o666) -> Iterator[bool]:
    """Hold the lock of `file`, which is made where it is not there, alone or `shared` with others: True, or False while
    another process has it and this one is not to `wait`. The kernel frees it on any death. OSError where it cannot be.
    """
    # No link is followed: it would make a file elsewhere. Read and write: NFS wants the one to share, the other to own.
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            mine = True
        except BlockingIOError:
            mine = False
        try:
            yield mine
        finally:
            if mine:  # unlocked by name: a forked loader process may still hold a copy of the handle
                fcntl.flock(handle, fcntl.LOCK_UN)
    finally:
        os.close(handle)


def sync(path: Path) -> None:
    """Wait until a file, or what a folder lists, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
