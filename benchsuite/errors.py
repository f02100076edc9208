"""What a user may be told: one line that names the thing, the value and the cure, and an exit code."""

import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 2000  # letters of a message
_JOINERS = "\u200c\u200d"  # of letters and of emoji


def harmless(sign: str) -> bool:
    """Whether a sign only shows itself: neither moves a cursor, ends a line, nor turns the direction of writing."""
    return sign.isprintable() or sign in _JOINERS or unicodedata.category(sign) == "Zs"


def visible(text: str) -> str:
    """The text with what is not harmless written as its escape: it is one line, and safe on a terminal.

    >>> visible("a" + chr(27) + "[2J")
    'a\\\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(sign if harmless(sign) else sign.encode("unicode_escape").decode() for sign in text)


def shortened(text: str, most: int) -> str:
    """The text, or its beginning and its end where it has more than `most` signs."""
    half = most // 2
    return text if len(text) <= most else f"{text[: most - half - 1]}…{text[-half:]}"


class BenchError(Exception):
    """Something failed that a user can understand; shown as one line, never as a traceback."""

    exit_code = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(visible(shortened(str(message), LONGEST)))


class InputError(BenchError):
    """Wrong usage or wrong input: a recipe, an option, a file, a dataset."""

    exit_code = 2


class MissingData(InputError):
    """A dataset, split or weights file that is not on this machine; planning goes on without it."""


class Interrupted(BenchError):
    """Stopped by the user (SIGINT, SIGTERM); everything finished is kept."""

    exit_code = 130


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's, torch's on a GPU, or that of torch's allocator on a CPU, a
    plain RuntimeError known by its text alone. Needs no torch."""
    kind = any(known.__name__ in ("MemoryError", "OutOfMemoryError") for known in type(error).__mro__)
    return kind or (isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate" in str(error))


def nearest(name: str, choices: Iterable[str]) -> str:
    """The closing part of an error about an unknown name: the nearest spelling and what there is.

    >>> nearest("har-tabel1", ["har-table1", "pod-table2"])
    "did you mean 'har-table1'? (there are: har-table1, pod-table2)"
    >>> nearest("FPS", ["AP", "fps"])
    "did you mean 'fps'? (there are: AP, fps)"
    """
    known = sorted(choices)
    folded = {each.casefold(): each for each in known}
    close = [folded[each] for each in get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)]
    shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    listed = f"there are: {shown}" if known else "there are none"
    return f"did you mean '{close[0]}'? ({listed})" if close else listed
