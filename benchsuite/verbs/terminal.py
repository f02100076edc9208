"""The program's ends: what it prints comes out whatever the terminal can show and whoever wrote it, and what goes wrong
is one line."""

import codecs
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from benchsuite.errors import harmless, visible
from benchsuite.report.columns import fitting, unbroken, width_of, widths

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

# What stands for our own signs where the terminal's encoding lacks them; any other becomes a question mark.
PLAIN = {"×": "x", "→": "->", "−": "-", "–": "-", "—": "-", "─": "-", "±": "+-", "…": "...", "·": "*", "τ": "tau",
         "≤": "<=", "≥": ">=", "Δ": "delta ", "“": '"', "”": '"', "’": "'"}  # fmt: skip


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error("benchsuite.plain", _plain)


class _Unfailing(io.FileIO):
    """A stream of notes that nobody may be reading: closed, or on a full disk, it swallows them."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


@contextmanager
def streams() -> Iterator[None]:
    """For the time of a command: stdout and stderr print any sign in some way, and a run outlives its stderr.

    File descriptors 0 to 2 that are closed are opened on nothing, so that no file of ours takes their place.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    if _is_of(sys.stdout, 1):
        sys.stdout = _text(io.FileIO(1, "w", closefd=False), sys.stdout)
    if _is_of(sys.stderr, 2):
        sys.stderr = _text(_Unfailing(2, "w", closefd=False), sys.stderr)
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _is_of(stream: Any, number: int) -> bool:
    """Whether this is the process's own stream (None where it was closed), and not one that a caller put there."""
    try:
        return stream is None or bool(stream.fileno() == number)
    except (OSError, ValueError, AttributeError):
        return False


def _text(raw: io.FileIO, old: Any) -> io.TextIOWrapper:
    encoding = "utf-8" if old is None else old.encoding
    lines = raw.isatty() or isinstance(raw, _Unfailing)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "benchsuite.plain", line_buffering=lines)


def print_json(value: object) -> None:
    """Print a value as JSON; signs that a terminal would obey, or cannot show, as JSON's own escapes."""
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(value, indent=1, ensure_ascii=ascii_only)
    if not text.replace("\n", "").isprintable():
        text = "".join(sign if sign == "\n" or harmless(sign) else json.dumps(sign)[1:-1] for sign in text)
    print(text)


@dataclass(frozen=True)
class Listing:
    """A table of plain text, its first `left` columns set to the left."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int

    def printed(self, width: int) -> "Iterator[Table]":
        """One below the other where a terminal is too narrow for all columns, each led by the first one."""
        width -= 2  # its edges
        columns = list(zip(self.columns, *self.rows, strict=True))
        needs, wants = ([max(map(count, texts)) for texts in columns] for count in (unbroken, width_of))
        if len(fitting(needs, [0], width)) > 1:
            needs[0] = min(wants[0], width // 2)  # longer names fold
        for number, group in enumerate(fitting(needs, [0], width)):
            sides = widths([needs[index] for index in group], [wants[index] for index in group], width)
            yield self._made(group, sides, "" if number else self.title)

    def _made(self, chosen: Sequence[int], sides: Sequence[int], title: str) -> "Table":
        from rich import box
        from rich.table import Table
        from rich.text import Text

        made = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
        for index, width in zip(chosen, sides, strict=True):
            side: Literal["left", "right"] = "left" if index < self.left else "right"
            made.add_column(Text(self.columns[index]), justify=side, overflow="fold", width=width)
        for row in self.rows:
            made.add_row(*(Text(row[index]) for index in chosen))
        return made


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> Listing:
    """A table of these texts, made harmless."""
    lines = tuple(tuple(map(visible, row)) for row in rows)
    return Listing(visible(title), tuple(map(visible, columns)), lines, left)


def print_things(*things: object, to_stderr: bool = False) -> None:
    """Print sentences and tables."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=to_stderr, highlight=False, soft_wrap=False, emoji=False)
    for thing in things:
        if isinstance(thing, Listing):
            for part in thing.printed(console.width):
                console.print(part, markup=False)
        else:  # in a file a sentence stays one line
            shown = thing if isinstance(thing, Text) else visible(str(thing))
            console.print(shown, soft_wrap=not console.is_terminal, markup=False)


def marked(style: str, word: str, rest: str) -> "Text":
    """A coloured word before a plain sentence."""
    from rich.text import Text

    return Text.assemble((word, style), f" {visible(rest)}")
