"""Damage: to files, to texts, and what may stand in a file's place."""

import os
import random
import resource
import signal
from collections.abc import Callable
from pathlib import Path


def limited(size: int) -> Callable[[], None]:
    """No file may grow beyond `size` bytes."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def struck(file: Path, draw: random.Random, elsewhere: Path) -> str:
    """Damage a file, or put something else in its place; what was done. Links lead to `elsewhere`."""
    ways = (
        "cut",
        "emptied",
        "a bit",
        "zeroed",
        "a stretch zeroed",
        "garbage",
        "longer",
        "gone",
        "folder",
        "pipe",
        "link",
        "loose link",
    )
    way = draw.choice(ways)
    about, text = file.stat(), bytearray(file.read_bytes())
    at = draw.randrange(max(1, len(text)))
    if way in ("gone", "folder", "pipe", "link", "loose link"):
        file.unlink()
        put(file, way, elsewhere)
        return way
    if way == "cut":
        del text[at:]
    elif way == "emptied":
        text.clear()
    elif way == "a bit" and text:
        text[at] ^= 1 << draw.randrange(8)
    elif way == "zeroed":
        text[:] = bytes(len(text))
    elif way == "a stretch zeroed":
        text[at : at + 512] = bytes(len(text[at : at + 512]))
    elif way == "garbage":
        text[:] = draw.randbytes(draw.randrange(2000))
    elif way == "longer":
        text += draw.randbytes(draw.randrange(1, 600))
    file.write_bytes(text)
    if draw.random() < 0.5 and way != "a bit":  # a program that damages need not set back the time, some do
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    return way


def put(file: Path, what: str, elsewhere: Path) -> None:
    """Put something where nothing is."""
    if what == "folder":
        file.mkdir()
        (file / "mine").write_text("mine")
    elif what == "pipe":
        os.mkfifo(file)
    elif what == "link":
        elsewhere.write_text("mine")
        file.symlink_to(elsewhere)
    elif what == "loose link":
        file.symlink_to(elsewhere.with_name("nowhere"))
    elif what == "file":
        file.write_text("mine")


def damaged(text: bytes, draw: random.Random) -> bytes:
    """A text with a few bytes removed, changed, moved or put in."""
    held = bytearray(text)
    odd = [
        b"\xff",
        b"\0",
        b"<",
        b'"',
        b"1e999",
        b"9" * 5000,
        b"[" * 2000,
        b"\x1b[2J",
        b"\xc2\x9b",
        b"null",
        b"-1",
        b"{",
        b"\n",
    ]
    for _ in range(draw.randint(1, 4)):
        at, many = draw.randrange(len(held) + 1), draw.randint(1, 12)
        deed = draw.randrange(5)
        if deed == 0:
            held[at : at + many] = draw.randbytes(many)
        elif deed == 1:
            del held[at : at + many]
        elif deed == 2:
            held[at:at] = draw.choice(odd)
        elif deed == 3:
            del held[at:]
        else:
            held[at:at] = held[max(0, at - many) : at]
    return bytes(held)
