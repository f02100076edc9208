"""What runs work on right now, seen from any terminal that sees their store; and a job's log."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchsuite.disk import open_regular, read_json
from benchsuite.engine.store import LOG, PROGRESS, Store
from benchsuite.errors import InputError, nearest
from benchsuite.settings import Strict

FOLLOW_SECONDS = 0.5
TRAINING_LOG = "log.jsonl"


@dataclass(frozen=True)
class Unfinished:
    """A job that is not finished: how far it is, whether some process works on it now, and what it failed of when it
    was last tried."""

    key: str
    name: str
    working: bool
    done: int
    total: int
    unit: str
    loss: float | None
    seconds: float
    """Since its last report."""
    failed: str = ""

    def form(self) -> dict[str, Any]:
        """JSON of `bench status`."""
        return asdict(self)


def unfinished(store: Store) -> list[Unfinished]:
    """All of a store, those that are worked on first."""
    folder = store.root / "partial"
    found = [_state(store, path) for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
    return sorted(found, key=lambda each: (not each.working, each.name))


def _state(store: Store, folder: Path) -> Unfinished:
    said = _Said()
    age = time.time() - folder.stat().st_mtime
    with suppress(InputError, OSError, ValidationError):  # it begins, or ends at this moment
        said = _Said.model_validate(read_json(folder / PROGRESS))
        age = time.time() - (folder / PROGRESS).stat().st_mtime
    with store.lock(folder.name) as free:
        working = not free
    failed, _ = (not working and store.failure(folder.name)) or ("", 0)
    name = said.name or failed.partition(": ")[0] or folder.name
    return Unfinished(folder.name, name, working, said.done, said.total, said.unit, said.loss, max(0.0, age), failed)


class _Said(Strict):
    """What a job told of itself last."""

    name: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    loss: float | None = None
    note: str = ""


def find(store: Store, start: str) -> str:
    """The key that begins with `start`; InputError where there is none, or several."""
    folders = [path for name in ("artifacts", "partial") for path in (store.root / name).glob("*") if path.is_dir()]
    known = sorted({path.name for path in folders})
    found = [key for key in known if key.startswith(start)]
    if len(found) != 1 or not start:
        what = f"{len(found)} jobs begin with '{start}'" if found else f"no job begins with '{start}'"
        raise InputError(f"logs: {what} in {store.root}; {nearest(start, known)}")
    return found[0]


def lines(store: Store, key: str, follow: bool, wait: Callable[[float], None] = time.sleep) -> Iterator[str]:
    """The lines of a job's logs, what it printed first and then its training log; with `follow` also those to come,
    until the job is finished or nobody works on it any more."""
    read = {LOG: 0, TRAINING_LOG: 0}
    while True:
        ended = store.artifact(key) is not None or _idle(store, key)  # asked first: last lines are still read
        folder = store.folder(key) if store.artifact(key) else store.partial(key)
        for name in read:
            with suppress(OSError), open_regular(folder / name) as file:
                text = file.read()
                whole = text.rfind(b"\n") + 1
                new = text[read[name] : whole].decode(errors="replace").splitlines()
                read[name] = max(read[name], whole)
                yield from (_readable(name, line) for line in new)
        if not follow or ended:
            return
        wait(FOLLOW_SECONDS)


def _idle(store: Store, key: str) -> bool:
    with store.lock(key) as free:
        return free


def _readable(name: str, line: str) -> str:
    """A line of the training log as text; other lines as they are."""
    if name == TRAINING_LOG:
        with suppress(ValueError, AttributeError, RecursionError):
            values = json.loads(line)
            return "  ".join(f"{word} {_number(value)}" for word, value in values.items())
    return line


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
