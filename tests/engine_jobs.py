"""Jobs without torch for tests of the engine; each writes what it did into a trace outside the store."""

import json
import os
import signal
import time
from pathlib import Path

from benchsuite.engine.job import Context, Job, Progress
from benchsuite.errors import Interrupted


class Fake(Job):
    """Base: a name and the folder for traces."""

    name: str
    trace: str = ""

    @property
    def label(self) -> str:
        return f"{type(self).__name__.lower()} {self.name}"

    def mark(self, line: str) -> None:
        """Append a line to the job's trace with one write."""
        handle = os.open(Path(self.trace) / self.name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(handle, f"{line}\n".encode())
        os.close(handle)


class Nothing(Fake):
    """Does nothing."""

    def do(self, context: Context) -> None:
        """Do nothing."""


class Pid(Fake):
    """Tells in which process it was done."""

    def do(self, context: Context) -> None:
        """Write `out.txt`."""
        (context.folder / "out.txt").write_text(str(os.getpid()))


class Weighed(Fake):
    """Says how much work it is."""

    weight: float = 1.0
    seed: int = 0
    after: Job | None = None

    @property
    def effort(self) -> float:
        """As it was made."""
        return self.weight

    def do(self, context: Context) -> None:
        """Tell when."""
        if self.trace:
            self.mark(f"start {time.monotonic()}")
        time.sleep(self.weight / 100)


class Echo(Fake):
    """Writes what it was given, and its inputs' files."""

    after: Job | None = None
    also: Job | None = None

    def do(self, context: Context) -> None:
        """Write `out.txt`."""
        if self.trace:
            self.mark("done")
        texts = [artifact.path("out.txt").read_text() for artifact in context.inputs.values()]
        (context.folder / "out.txt").write_text(self.name + "".join(f"({text})" for text in texts))
        context.write_metrics({"AP": 1.0})


class Sleeper(Fake):
    """Sleeps, marking when it starts and ends."""

    seconds: float = 0.2

    def do(self, context: Context) -> None:
        """Sleep."""
        self.mark(f"start {time.monotonic()}")
        time.sleep(self.seconds)
        self.mark(f"end {time.monotonic()}")


class Counted(Sleeper):
    """A sleeper that needs no GPU."""

    on_device = False


class Timing(Sleeper):
    """A sleeper that must be alone."""

    device_bound = True


class Counter(Fake):
    """Adds up numbers, with a checkpoint every few; the sum depends on every iteration done exactly once."""

    iterations: int = 40
    seconds: float = 0.002
    after: Job | None = None

    def do(self, context: Context) -> None:
        """Count."""
        state = {"iteration": 0, "sum": 1}
        checkpoint = context.partial / "state.json"
        if checkpoint.exists():
            state = json.loads(checkpoint.read_text())
        while state["iteration"] < self.iterations:
            if context.stop():
                self.save(checkpoint, state)
                raise Interrupted("stopped")
            state = {"iteration": state["iteration"] + 1, "sum": (state["sum"] * 31 + state["iteration"]) % 1_000_003}
            self.mark(str(state["iteration"]))
            time.sleep(self.seconds)
            if state["iteration"] % context.checkpoint_every == 0:
                self.save(checkpoint, state)
            context.report(Progress(state["iteration"], self.iterations, loss=1.0))
        (context.folder / "out.txt").write_text(str(state["sum"]))
        self.mark("finished")

    def save(self, checkpoint: Path, state: dict[str, int]) -> None:
        """Write a checkpoint in one step."""
        fresh = checkpoint.with_suffix(".new")
        fresh.write_text(json.dumps(state))
        fresh.replace(checkpoint)


class Halting(Counter):
    """A counter whose process stops itself (SIGSTOP) at iteration 11."""

    def mark(self, line: str) -> None:
        """Stop, as somebody else would stop it."""
        super().mark(line)
        if line == "11":
            os.kill(os.getpid(), signal.SIGSTOP)


class Failing(Fake):
    """Raises."""

    def do(self, context: Context) -> None:
        """Fail."""
        print("about to fail")
        raise ValueError("what a pity\nsecond line")


class Crasher(Fake):
    """Dies of a signal, the first `times` times; `further` each time than before."""

    times: int = 1
    signal: int = int(signal.SIGSEGV)
    further: bool = False

    def do(self, context: Context) -> None:
        """Crash, or finish."""
        tried = context.partial / "tried"
        count = int(tried.read_text()) if tried.exists() else 0
        if count < self.times:
            tried.write_text(str(count + 1))
            context.report(Progress(count + 1 if self.further else 1, self.times + 1))
            os.kill(os.getpid(), self.signal)
            time.sleep(10)
        (context.folder / "out.txt").write_text("survived")


class NaN(Fake):
    """Stops as a training does whose loss is not a number."""

    def do(self, context: Context) -> None:
        """Fail as trainings do."""
        from benchsuite.errors import BenchError

        raise BenchError("iteration 3: loss is nan; lower the learning rate")


class Children(Fake):
    """Starts a process of its own, as a loader does, and waits."""

    def do(self, context: Context) -> None:
        """Fork and wait."""
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        self.mark("forked")
        time.sleep(60)


class Full(Fake):
    """Writes to a disk that is full."""

    def do(self, context: Context) -> None:
        """Write where the kernel says that no space is left."""
        (context.folder / "half.txt").write_text("half")
        (context.folder / "out.bin").symlink_to("/dev/full")
        (context.folder / "out.bin").write_bytes(bytes(1 << 20))


class Random(Fake):
    """Draws from every global generator."""

    def do(self, context: Context) -> None:
        """Write the draws."""
        import random

        import numpy as np
        import torch

        draws = [random.random(), float(np.random.rand()), float(torch.rand(()))]
        seen = {"draws": draws, "threads": torch.get_num_threads(), "hash": hash("seed")}
        (context.folder / "out.txt").write_text(json.dumps(seen))


class Loader(Fake):
    """Reads through a loader process, and prints."""

    def do(self, context: Context) -> None:
        """Write what the loader process gave."""
        from torch.utils.data import DataLoader

        loader = DataLoader([1, 2, 3], num_workers=1, batch_size=None)
        (context.folder / "out.txt").write_text(str(sum(loader)))
        os.system("echo printed by a child")
        print("printed by the job")
