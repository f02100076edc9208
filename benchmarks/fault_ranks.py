"""Faults of a training in several processes: one of them is killed or stopped, or the run is."""

import os
import random
import signal
import time

from fault_desk import Desk, Right
from fault_kinds import Prepared, kind, wait_for
from fault_start import Start, Wrong, children, end, workers

TOGETHER = ("--per-job", "2")
MOST_SECONDS = 60.0  # for which a stopped process may be waited for
_right: list[Right] = []  # of trainings in two processes, as this process found it


def ranks(start: Start) -> list[int]:
    """The processes of a run's trainings, which a server of their worker forks."""
    servers = [server for worker in workers(start) for server in children(worker, "bench-server")]
    return [rank for server in servers for rank in children(server)]


def with_right(desk: Desk, known: Prepared) -> None:
    """What is right on this desk is what two processes make of the trainings: their sums are rounded otherwise."""
    if not _right:
        other = Desk.at(known.folder / f"together{os.getpid()}")
        other.run(*TOGETHER)
        _right.append(Right.of(other))
    desk.right = _right[0]


def chosen_rank(start: Start, draw: random.Random, seconds: float) -> int | None:
    """One of the processes of a training, at a random moment; None where the run ended before."""
    until = time.monotonic() + draw.uniform(0, seconds)
    while start.running():
        if time.monotonic() >= until and (found := ranks(start)):
            return draw.choice(found)
        time.sleep(0.005)
    return None


def ends_right(desk: Desk, start: Start) -> None:
    """The run replaces what it lost and ends well."""
    ended = start.wait()
    desk.sound(ended, {0, 1})
    if ended.code == 0:
        desk.compare()
    desk.run(*TOGETHER)
    desk.compare()


@kind(14)
def kill_rank(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """SIGKILL of one of two processes of a training: the job goes on from its checkpoint."""
    with_right(desk, known)
    start = desk.running(*TOGETHER)
    if (rank := chosen_rank(start, draw, 2 * known.seconds)) is not None:
        end([rank])
    ends_right(desk, start)


@kind(4)
def stop_rank(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """SIGSTOP of one, for good: within a minute it is taken for lost, and ended."""
    with_right(desk, known)
    start = desk.running(*TOGETHER)
    rank = chosen_rank(start, draw, 2 * known.seconds)
    if rank is not None:
        try:
            os.kill(rank, signal.SIGSTOP)
        except ProcessLookupError:
            rank = None
    until = time.monotonic() + MOST_SECONDS
    while rank is not None and start.running() and rank in ranks(start):
        if time.monotonic() > until:
            raise Wrong(f"a stopped process of a training is waited for more than {MOST_SECONDS:.0f} s")
        time.sleep(0.05)
    ends_right(desk, start)


@kind(6)
def kill_run_of_ranks(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """SIGKILL of the run, or Ctrl-C: no process is left, and the next run goes on."""
    with_right(desk, known)
    start, number = desk.running(*TOGETHER), draw.choice([signal.SIGKILL, signal.SIGINT])
    wait_for(start, draw, 3 * known.seconds)
    start.send(number)
    desk.sound(start.wait(), {0, 130, -signal.SIGKILL})
    desk.run(*TOGETHER)
    desk.compare()
