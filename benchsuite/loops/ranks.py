"""One training in several processes (`bench run --per-job N`), each with a device of its own: the numbers of one
process, in less time.

    the job's worker    starts the ranks, listens to them, and ends all when one is lost
    rank 0 … N - 1      each makes its share of every batch's images, on the frame of the whole batch, and goes through
                        the training in step with the others; rank 0 alone writes

Gradients are added up by torch's DistributedDataParallel; what a network computes of a whole batch (normalisers, norms,
draws) is told in models/together.py. Rendezvous is fresh for each training, on a port that is free. A rank that is lost
takes its worker with it: the scheduler starts the job again, and it goes on from its checkpoint.
"""

import faulthandler
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any, TypeAlias, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchsuite.data.batch import ImageBatch, Share
from benchsuite.engine.environment import determinism
from benchsuite.engine.forks import forked, halted
from benchsuite.engine.job import Context, Progress
from benchsuite.engine.store import LOG
from benchsuite.engine.worker import captured
from benchsuite.errors import BenchError
from benchsuite.models.detector import Trainable
from benchsuite.models.together import of_all, synchronise
from benchsuite.settings import Json

HERE = "127.0.0.1"
TICK_SECONDS = 0.2  # between looks at who has stopped
LAST_WORDS_SECONDS = 2.0  # for the others to say why, when one has failed
HALTED_SECONDS = 30.0  # for which a rank may lie stopped (SIGSTOP)
PATIENCE = timedelta(days=1)  # of a rank for the others; the worker sees sooner when one is lost

Values: TypeAlias = Mapping[str, "Tensor | float"]
B = TypeVar("B", bound=ImageBatch)


class Alone:
    """A training in one process."""

    first = True
    ranks = 1

    def share(self, block: int | None = None) -> Share:
        """Of each batch, or of every `block` images of it."""
        return Share(block=block)

    def taken(self, batches: Any, block: int | None) -> Any:
        """The batches of this process."""
        return batches

    def in_step(self, batches: Iterator[B]) -> Iterator[B]:
        """The batches, as they come."""
        return batches

    def images(self, batch: ImageBatch) -> int:
        """How many the whole batch has."""
        return len(batch.images)

    def losses(self, network: Trainable[B]) -> Callable[[B], Mapping[str, Tensor]]:
        """What gives the losses of a batch. Of all processes together they are the network's."""
        return network.losses

    def first_says(self, thing: bool) -> bool:
        """What the first process has in the place of `thing`."""
        return thing

    def sum(self, values: Values) -> Values:
        """Over the processes, by name."""
        return values

    def mean(self, values: Values, batch: ImageBatch) -> Values:
        """Means over this process' images of a batch as means over all of it."""
        return values


class Rank(Alone):
    """One process of several, in which torch.distributed is initialised. `context.stop` becomes what all agreed on when
    they fetched the last batch, for all to stop after the same one."""

    def __init__(self, rank: int, ranks: int, asked: Callable[[], bool]) -> None:
        self.rank, self.ranks, self.first = rank, ranks, rank == 0
        self.asked, self.stopping, self.total = asked, False, 0

    def share(self, block: int | None = None) -> Share:
        """A part as large as the others', but for one image."""
        return Share(self.rank, self.ranks, block)

    def taken(self, batches: Any, block: int | None) -> Any:
        """Its share of each."""
        return batches.shared(self.share(block))

    def in_step(self, batches: Iterator[B]) -> Iterator[B]:
        """Its shares, padded to the frame of the whole batch."""
        for batch in batches:
            mine = torch.tensor([*batch.images.shape[-2:], len(batch.images), self.asked()])
            told = mine.new_empty(self.ranks * len(mine))
            dist.all_gather_into_tensor(told, mine)
            height, width, images, stops = told.view(self.ranks, -1).unbind(1)
            self.total, self.stopping = int(images.sum()), bool(stops.any())
            yield batch.padded(int(height.max()), int(width.max()))

    def images(self, batch: ImageBatch) -> int:
        """As told with the batch."""
        return self.total or self.ranks * len(batch.images)

    def losses(self, network: Trainable[B]) -> Callable[[B], Mapping[str, Tensor]]:
        """Through DistributedDataParallel, which averages the gradients that this process should add to the others'."""
        synchronise(network)
        # Which parameters a batch leaves without gradient may hang on the batch.
        together: Callable[[B], Mapping[str, Tensor]] = nn.parallel.DistributedDataParallel(
            _Losses(network), find_unused_parameters=True, gradient_as_bucket_view=True
        )
        return together

    def first_says(self, thing: bool) -> bool:
        """Told to all."""
        told: bool = of_all(thing)[0]
        return told

    def sum(self, values: Values) -> Values:
        """One exchange for all of them, for which the host does not wait."""
        device = next((each.device for each in values.values() if isinstance(each, Tensor)), None)
        numbers = [torch.as_tensor(each, dtype=torch.double, device=device) for each in values.values()]
        if not numbers:
            return values
        added = torch.stack(numbers)
        dist.all_reduce(added)
        return dict(zip(values, added.unbind(), strict=True))

    def mean(self, values: Values, batch: ImageBatch) -> Values:
        """Each process' by its images."""
        share = len(batch.images) / self.images(batch)
        return self.sum({name: share * each for name, each in values.items()})


class _Losses(nn.Module):
    def __init__(self, network: Trainable[Any]) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: ImageBatch) -> dict[str, Tensor]:
        return self.network.losses(batch)


Work: TypeAlias = Callable[[Context, Alone], None]
"""A training, of which this process does its part. It goes to other processes, so it can be pickled."""


def spread(work: Work, context: Context) -> None:
    """Do `work` here, or in as many processes as `context.execution.per_job` says.

    Raises what the work raises. SystemExit, which ends the worker, where a process was lost or lies stopped.
    """
    ranks = context.execution.per_job
    if ranks == 1:
        work(context, Alone())
        return
    server = dist.TCPStore(HERE, 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    calm = replace(context, report=_silent, note=_silent, stop=_never)
    context.partial.mkdir(parents=True, exist_ok=True)
    crew = [_Crew(rank, (ranks, server.port, work, calm)) for rank in range(ranks)]
    try:
        _listen(crew, context)
    finally:
        for each in crew:
            each.end()
    context.ran_under.update(crew[0].ended().ran_under, processes=ranks)


@dataclass(frozen=True)
class Ended:
    """The last word of a rank: what ended it, if not the end of its work, and what it ran under."""

    error: BaseException | None
    ran_under: dict[str, Json]


class _Crew:
    """The worker's end of a rank."""

    def __init__(self, rank: int, arguments: tuple[object, ...]) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self.word: Ended | None = None
        self.process = forked(_serve, (theirs, dict(os.environ), rank, *arguments), f"bench-rank-{rank}")
        theirs.close()
        self.halted_since: float | None = None
        self.lost = ""

    def hear(self, context: Context) -> None:
        """Take what it said; note where it is gone without a last word."""
        alive = self.process.is_alive()  # asked before reading, so that last words are not lost
        with suppress(EOFError, OSError):
            while self.pipe.poll():
                said = self.pipe.recv()
                if isinstance(said, Ended):
                    self.word = said
                elif isinstance(said, str):
                    context.note(said)
                else:
                    context.report(said)
        if self.word is None and not alive:
            code = self.process.exitcode or 0
            self.lost = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        elif self.word is None and halted(self.process):
            self.halted_since = self.halted_since or time.monotonic()
            self.lost = "SIGSTOP" if time.monotonic() - self.halted_since > HALTED_SECONDS else ""
        else:
            self.halted_since = None

    def ended(self) -> Ended:
        """Its last word, known to be there."""
        assert self.word is not None
        return self.word

    def end(self) -> None:
        """Kill it, unless it is about to end."""
        self.process.join(LAST_WORDS_SECONDS if self.word and not self.word.error else 0)
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _listen(crew: Sequence[_Crew], context: Context) -> None:
    """Until all have done their work; then, or where one fails, say what came of it."""
    asked, until = False, None
    while not all(each.word or each.lost for each in crew) and (until is None or time.monotonic() < until):
        silent = [each for each in crew if not each.word and not each.lost]
        wait([thing for each in silent for thing in (each.pipe, each.process.sentinel)], TICK_SECONDS)
        if context.stop() and not asked:
            asked = True
            with suppress(OSError):  # it is gone, which `hear` tells
                crew[0].pipe.send("stop")
        for each in silent:
            each.hear(context)
        if until is None and any(each.lost or (each.word and each.word.error) for each in crew):
            until = time.monotonic() + LAST_WORDS_SECONDS
    errors = [each.word.error for each in crew if each.word and each.word.error]
    for error in errors:
        if isinstance(error, BenchError):
            raise error
    for rank, each in enumerate(crew):
        if each.lost:
            print(f"process {rank} of {len(crew)} of this training was lost ({each.lost})", flush=True)
            raise SystemExit(1)
    for error in errors:
        raise error


def _silent(said: Progress | str) -> None:
    pass


def _never() -> bool:
    return False


def _serve(
    pipe: Connection, environ: Mapping[str, str], rank: int, ranks: int, port: int, work: Work, context: Context
) -> None:
    """The process of a rank."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the worker says when to stop
        signal.signal(number, signal.SIG_IGN)
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    threading.Thread(target=_end_with_worker, daemon=True).start()
    os.environ.clear()
    os.environ.update(environ)
    with captured(context.partial / LOG):
        faulthandler.enable()
        error: BaseException | None = None
        try:
            _take_part(pipe, rank, ranks, port, work, context)
        except BenchError as known:
            error = known
        except Exception as unknown:
            traceback.print_exc()
            error = RuntimeError(f"{type(unknown).__name__}: {unknown}")
        pipe.send(Ended(error, context.ran_under))


def _take_part(pipe: Connection, rank: int, ranks: int, port: int, work: Work, context: Context) -> None:
    gpu = context.device != "cpu"
    device = f"cuda:{rank}" if gpu else "cpu"
    threads = max(1, context.threads // ranks)
    torch.set_num_threads(threads)
    if gpu:
        torch.cuda.set_device(rank)
    determinism(device, context.execution.deterministic)
    server = dist.TCPStore(HERE, port, is_master=False)  # type: ignore[attr-defined]
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpu else "gloo", store=server, rank=rank, world_size=ranks, timeout=PATIENCE
    )
    team = Rank(rank, ranks, pipe.poll if rank == 0 else _never)
    folder = context.folder
    if rank:  # what it leaves is for nobody
        folder = context.partial / f"rank{rank}"
        folder.mkdir(exist_ok=True)
    tell = pipe.send if rank == 0 else _silent
    mine = replace(context, folder=folder, device=device, threads=threads, report=tell, note=tell)
    mine = replace(mine, stop=lambda: team.stopping)
    work(mine, team)
    dist.destroy_process_group()


def _end_with_worker() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
