"""The training's log: a line for some steps, with the means over them of what every step measured, and how fast they
were."""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

import xxhash

from benchsuite.disk import parse_json, read_within
from benchsuite.engine.store import remove
from benchsuite.errors import InputError
from benchsuite.loops.device import peak_memory

LOG_LINES = 1000  # a log of about this length draws a smooth curve and stays small
MACHINE = ("data_seconds", "step_seconds", "images_per_second", "peak_gib")
"""What in a line tells of the machine: it never repeats."""

Written: TypeAlias = tuple[int, str]
"""Bytes of a log and their checksum."""

T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """What step `iteration` (1, 2, …) measured: its losses, then the gradient's norm, then what modules observe.

    `values` gives the numbers of `names`, and waits for the device until they are there; the first `losses` of them are
    the losses.
    """

    iteration: int
    lr: float
    losses: int
    names: tuple[str, ...]
    values: Callable[[], list[float]]


class Means:
    """Means of named numbers over the steps since the last line. What they are made of is in the checkpoint, so that a
    training that goes on from it writes the lines it would have written."""

    def __init__(self, sums: Mapping[str, tuple[float, int]] | None = None) -> None:
        self.sums = dict(sums or {})

    def add(self, values: Mapping[str, float], steps: int = 1) -> None:
        """A step's numbers, or the means of several; a name may be absent from some steps and is averaged over the
        others."""
        for name, value in values.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = total + steps * value, count + steps

    def take(self) -> dict[str, float]:
        """The means by name; the next steps start afresh."""
        means = {name: total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        return means


class Pace:
    """Where the time since the last line went, a step: waiting for data, or computing; writing checkpoints is neither.
    Not in the checkpoint, as it never repeats."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.restart()

    def restart(self) -> None:
        """The next steps start afresh."""
        self.began, self.data, self.aside, self.steps, self.images = time.perf_counter(), 0.0, 0.0, 0, 0

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches; the time until each is there is data time."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(iterator, None)
            self.data += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def line(self) -> dict[str, float]:
        """`MACHINE`: seconds a step and images a second since the last line, and the most memory held so far."""
        elapsed, steps = time.perf_counter() - self.began - self.aside, max(1, self.steps)
        seconds = self.data / steps, (elapsed - self.data) / steps, self.images / elapsed
        numbers = (*(round(value, 6) for value in seconds), round(peak_memory(self.device) / 2**30, 3))
        self.restart()
        return dict(zip(MACHINE, numbers, strict=True))


class Log:
    """`log.jsonl`: about a thousand lines, one an iteration. A training that goes on from a checkpoint takes it up
    where the checkpoint was written; else it begins empty."""

    def __init__(self, path: Path, iterations: int) -> None:
        self.path, self.iterations = path, iterations
        self.every = max(1, iterations // LOG_LINES)

    def begin(self) -> None:
        """Start empty. What is no regular file goes: a link is not followed."""
        remove(self.path)
        self.path.touch()

    def resume(self, first: int, done: int, written: Written | None, cure: str) -> None:
        """Go on after iteration `done` of a training that began after `first`: what a killed process wrote after the
        checkpoint is cut off.

        InputError, ending in `cure`, where the file does not begin with what was `written` when the checkpoint was; of
        checkpoints that do not say that, where it does not begin with a line for each iteration that has one.
        """
        if self.path.is_symlink():
            raise InputError(f"{self.path}: is a link, no log of this training; {cure}")
        text = read_within(self.path, cure)
        length, checksum = written or _lines(text, [n for n in range(first + 1, done + 1) if self.due(n)])
        if (length, checksum) != _written(text[:length]):
            raise InputError(f"{self.path}: lacks lines that it had when the checkpoint was written; {cure}")
        os.truncate(self.path, length)

    def due(self, iteration: int) -> bool:
        """Whether a line is written after this step: after the first, the last, and every so many."""
        return iteration % self.every == 0 or iteration in (1, self.iterations)

    def write(self, line: Mapping[str, object]) -> None:
        """Append one line, at once visible to whoever follows the file."""
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def sync(self) -> Written:
        """Bring the lines to disk before a checkpoint counts on them, which keeps how long they are, and their
        checksum."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
            return _written(file.read())

    def tail_loss(self) -> float:
        """Mean loss over the last tenth of the lines."""
        losses = [json.loads(line)["loss"] for line in self.path.read_text().splitlines()]
        last = losses[-max(1, len(losses) // 10) :]
        return float(sum(last) / len(last))


def means(path: Path, first: int = 0) -> dict[str, float]:
    """Of every number in the log of a training that began after iteration `first`: its mean over all steps, for a line
    has the mean of those since the line before."""
    whole = Means()
    for line in path.read_text("utf-8").splitlines():
        numbers = json.loads(line)
        steps, first = numbers["iteration"] - first, numbers["iteration"]
        whole.add(numbers, steps)
    return whole.take()


def _written(text: bytes) -> Written:
    return len(text), xxhash.xxh3_128_hexdigest(text)


def _lines(text: bytes, iterations: Sequence[int]) -> Written:
    """Length and checksum of the first lines where they are of these `iterations`; of no text at all otherwise."""
    lines = text.splitlines(keepends=True)[: len(iterations)]
    try:
        found = [parse_json(line, "", "")["iteration"] for line in lines if line.endswith(b"\n")]
    except (InputError, TypeError, KeyError):
        found = []
    return _written(b"".join(lines)) if found == list(iterations) else (-1, "")
