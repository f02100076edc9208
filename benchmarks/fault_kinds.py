"""Faults of processes and of the store, each a function of a desk and of random draws. One that returns was right."""

import ctypes
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fault_damage import limited, put, struck
from fault_desk import Desk, Right
from fault_start import Ended, Start, Wrong, children, end, loaders, workers

CAPABILITIES, CAP_DAC_OVERRIDE = 0x20080522, 1
MS_REMOUNT, MNT_DETACH = 32, 2
IN_A_PLACE = ("folder", "pipe", "link", "loose link", "file")


@dataclass(frozen=True)
class Prepared:
    """What faults start from: a folder with the store and results of an undisturbed run (`done`), one whose store holds
    a training's checkpoint (`halfway`), what is right, and the seconds of a run."""

    folder: Path
    right: Right
    seconds: float

    done = property(lambda self: self.folder / "done")
    halfway = property(lambda self: self.folder / "halfway")


Fault = Callable[[Desk, random.Random, Prepared], None]
KINDS: dict[str, tuple[int, str, Fault]] = {}
"""By name: how many of each are tried, what they start from ("", done or halfway), and the fault."""


def kind(count: int, start: str = "") -> Callable[[Fault], Fault]:
    """Register a fault under its function's name."""

    def register(fault: Fault) -> Fault:
        KINDS[fault.__name__.replace("_", "-")] = count, start, fault
        return fault

    return register


def wait_for(start: Start, draw: random.Random, seconds: float) -> None:
    """Let a start run for a random while, up to a whole run's."""
    until = time.monotonic() + draw.uniform(0, seconds)
    while start.running() and time.monotonic() < until:
        time.sleep(0.002)


def prepare(folder: Path) -> Prepared:
    """Run the table undisturbed, twice; the second run gives the seconds, and must have the first one's bits."""
    rights, seconds = [], 0.0
    for number in range(2):
        desk, began = Desk.at(folder / f"right{number}"), time.monotonic()
        desk.run()
        seconds = time.monotonic() - began
        rights.append(Right.of(desk))
    if rights[0] != rights[1]:
        raise Wrong("two undisturbed runs differ")
    for name in ("store", "out"):
        shutil.move(desk.root / name, folder / "done" / name)
    desk = Desk.at(folder / "begun")
    start = desk.running()
    while not list(desk.store.glob("partial/*/checkpoint.safetensors")) and start.running():
        time.sleep(0.002)
    start.send(signal.SIGKILL)
    start.wait()
    desk.left_nothing(killed=True)
    if not list(desk.store.glob("partial/*/checkpoint.safetensors")):
        raise Wrong("no checkpoint was left")
    shutil.move(desk.store, folder / "halfway" / "store")
    return Prepared(folder, rights[0], seconds)


# --- processes


@kind(30)
def kill_run(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """SIGKILL of the scheduler, up to three times."""
    for _ in range(draw.randint(1, 3)):
        start = desk.running(*(("--slots", "2") if draw.random() < 0.3 else ()))
        wait_for(start, draw, known.seconds)
        start.send(signal.SIGKILL)
        desk.sound(start.wait(), {-signal.SIGKILL, 0})
    desk.finish()


def strike(
    desk: Desk, draw: random.Random, known: Prepared, find: Callable[[Start], list[int]], more: str = ""
) -> None:
    """Send SIGKILL to one of a run's processes at a random moment; the run must end, and the next one be right."""
    start = desk.running(*more.split())
    until = time.monotonic() + draw.uniform(0, known.seconds)
    while start.running() and (time.monotonic() < until or not find(start)):
        time.sleep(0.005)
    if start.running() and (found := find(start)):
        end([draw.choice(found)])
    ended = start.wait()
    desk.sound(ended, {0, 1})
    if ended.code == 0:
        desk.compare()
    desk.finish()


@kind(24)
def kill_worker(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """SIGKILL of a worker: it is replaced."""
    strike(desk, draw, known, workers)


@kind(8)
def kill_server(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """SIGKILL of the server that workers are forked from."""
    strike(desk, draw, known, lambda start: children(start.pid, "bench-server"))


@kind(14)
def kill_loader(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """SIGKILL of a process that makes batches."""
    strike(desk, draw, known, loaders, "--loaders 2")


@kind(24)
def signal_run(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """SIGINT, SIGTERM or SIGHUP of the scheduler, or of its process group as from a terminal; some twice."""
    start, number = desk.running(), draw.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    wait_for(start, draw, known.seconds)
    start.send(number, group=draw.random() < 0.5)
    if draw.random() < 0.25:
        wait_for(start, draw, 0.3)
        start.send(number)
    # before the run begins, SIGTERM and SIGHUP end it as they end any program
    desk.sound(start.wait(), {0, 130} if number == signal.SIGINT else {0, 130, -number})
    desk.finish()


@kind(8)
def end_worker(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """SIGTERM of a worker alone: it leaves a checkpoint and is replaced."""
    start = desk.running()
    wait_for(start, draw, known.seconds)
    for pid in workers(start)[:1]:
        os.kill(pid, signal.SIGTERM)
    desk.sound(start.wait(), {0})
    desk.compare()


@kind(12)
def stop_and_wake(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """SIGSTOP of any of the run's processes, and SIGCONT after a while: as if nothing had been."""
    start = desk.running(*(("--loaders", "1") if draw.random() < 0.3 else ()))
    wait_for(start, draw, known.seconds)
    found = [start.pid, *children(start.pid), *workers(start), *loaders(start)] if start.running() else []
    chosen = draw.sample(found, min(len(found), draw.randint(1, 2)))
    pause = draw.uniform(0.05, 1.5)
    stopped = [pid for pid in chosen if start.running() and _sent(pid, signal.SIGSTOP)]
    time.sleep(pause)
    for pid in stopped:  # the run may have ended meanwhile, and what it started can only end when it is awake
        _sent(pid, signal.SIGCONT)
    desk.sound(start.wait(), {0})
    desk.compare()


def _sent(pid: int, number: int) -> bool:
    """Send a signal; whether somebody was there to get it."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


@kind(8)
def stop_and_interrupt(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """SIGSTOP of a worker, and then Ctrl-C: the worker is woken, leaves a checkpoint and ends."""
    start = desk.running()
    wait_for(start, draw, known.seconds)
    stopped = workers(start)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(draw.uniform(0, 0.3))
    start.send(draw.choice([signal.SIGINT, signal.SIGTERM]) if stopped else signal.SIGINT)
    desk.sound(start.wait(), {0, 130})
    desk.finish()


@kind(10)
def two_runs(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """Two runs on one store, half of the time one of them killed: each job is done once, and both are right."""
    first, second = desk.running(), desk.running()
    killed = draw.random() < 0.5
    if killed:
        wait_for(first, draw, 2 * known.seconds)
        first.send(signal.SIGKILL)
    ended = [first.wait(), second.wait()]
    desk.sound(ended[0], {0, -signal.SIGKILL} if killed else {0})
    desk.sound(ended[1], {0})
    lines = [line for each in ended for line in each.err.splitlines() if re.match(r"\[\d+/\d+\] done ", line)]
    names = [re.sub(r"^\[\d+/\d+\] done | \([^(]*\).*$", "", line) for line in lines]
    if len(names) != len(set(names)):
        raise Wrong(f"jobs were done twice: {sorted(names)}")
    desk.compare()


# --- the disk


def mounted(size: int, folder: Path, flags: int = 0) -> bool:
    """Put a disk of that size in a folder's place; False where this process may not."""
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.mount(b"faults", bytes(folder), b"tmpfs", flags, f"size={size}".encode()) == 0


def unmount(folder: Path) -> None:
    """Take it away."""
    ctypes.CDLL(None).umount2(bytes(folder), MNT_DETACH)


@kind(16)
def full_disk(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """The store's disk is full at some point (a small one is mounted; without the right to, files may not grow): one
    line; with room again, all is right and nothing was lost."""
    used = sum(file.stat().st_size for file in known.done.rglob("*") if file.is_file())
    desk.store.mkdir()
    if not mounted(int(used * draw.uniform(0.02, 1.2)) + 4096, desk.store):
        desk.store.rmdir()
        limit_of_a_file(desk, draw, known)
        return
    try:
        desk.note()
        desk.run(codes={0, 1, 2})
        mounted(1 << 30, desk.store, MS_REMOUNT)
        desk.finish()
    finally:
        unmount(desk.store)


@kind(10)
def limit_of_a_file(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """No file may grow beyond some size (`ulimit -f`), results and pictures too; what is printed may."""
    sizes = [file.stat().st_size for file in known.done.rglob("*") if file.is_file()]
    desk.run(codes={0, 1, 2}, before=limited(max(4096, int(draw.choice(sizes) * draw.uniform(0.1, 1)))))
    desk.finish()


@kind(10, "halfway")
def read_only_store(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """One of the store's folders cannot be written, or none: one line, or nothing had to be written there."""
    folders = [path for path in (desk.store, *desk.store.rglob("*")) if path.is_dir()]
    denied = folders if draw.random() < 0.3 else [draw.choice(folders)]
    for path in denied:
        path.chmod(0o555)
    desk.note()
    try:
        desk.run(codes={0, 2}, before=_as_any_user)
    finally:
        for path in denied:
            if path.exists():  # scratch folders come and go
                path.chmod(0o755)
    desk.finish()


def _as_any_user() -> None:
    """Root gives up its right to write where nobody may."""
    libc, header = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(CAPABILITIES, 0)
    held = (ctypes.c_uint32 * 6)()
    if os.getuid() == 0 and libc.capget(header, held) == 0:
        for word in range(3):  # effective, permitted, inheritable
            held[word] &= ~(1 << CAP_DAC_OVERRIDE)
        libc.capset(header, held)


# --- damage


@kind(40, "done")
def damaged_artifact(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """A file of a finished job is cut, changed, gone or something else: it is noticed, by the run or by `store verify`,
    and the cure that is told works."""
    file = draw.choice(sorted(path for path in desk.store.glob("artifacts/*/*") if path.is_file()))
    struck(file, draw, desk.root / "home" / "elsewhere")
    desk.note()
    ended = desk.run(codes={0, 2})
    for _ in range(8):
        cured = cure(desk, ended)
        ended = desk.run(codes={0, 2}) if cured else ended
        if ended.code == 0 and not cured:
            break
        if not cured:
            raise Wrong(f"tells of no cure: {ended.told()}")
    told = desk.bench("store", "verify", "--store", "store", codes={0, 1})
    if told.code:
        cure(desk, told)
    desk.finish()


def cure(desk: Desk, ended: Ended) -> bool:
    """Do as the lines say; whether they say anything."""
    named = set(re.findall(r"delete the folder (\S+) and run again", ended.out + ended.err))
    for name in named:
        if not (desk.root / name).is_dir():
            raise Wrong(f"tells to delete what is not there: {ended.told()}")
        shutil.rmtree(desk.root / name)
    return bool(named)


def partial(desk: Desk, name: str) -> Path:
    """A file of the training that is not finished."""
    (found,) = desk.store.glob(f"partial/*/{name}")
    return found


@kind(24, "halfway")
def damaged_checkpoint(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """Whatever a checkpoint holds, the training ends with the right bits."""
    struck(partial(desk, "checkpoint.safetensors"), draw, desk.root / "home" / "elsewhere")
    desk.note()
    desk.finish()


@kind(14, "halfway")
def damaged_log(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """Whatever a log holds, the training ends with the right bits and the right log."""
    struck(partial(desk, "log.jsonl"), draw, desk.root / "home" / "elsewhere")
    desk.note()
    desk.finish()


@kind(14, "done")
def damaged_cache(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """Whatever the cache of decoded images holds, a training sees the images."""
    shutil.rmtree(desk.store / "artifacts")
    files = sorted(desk.store.glob("cache/*"))
    struck(draw.choice(files), draw, desk.root / "home" / "elsewhere")
    desk.note()
    ended = desk.run(codes={0, 1, 2})
    if ended.code:
        shutil.rmtree(desk.store / "cache")
    desk.finish()


@kind(20, "halfway")
def in_a_files_place(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """A folder, pipe, link or file where the store has something else: one line that names it, or it is put right; and
    nothing is written where a link leads."""
    (key,) = [path.name for path in desk.store.glob("partial/*")]
    other = draw.choice(sorted(path.name for path in (known.done / "store" / "artifacts").iterdir()))
    names = [
        f"locks/{key}", f"locks/{other}", f"scratch/{key}", f"scratch/{other}", f"partial/{key}", f"partial/{other}",
        f"partial/{key}/job.log", f"partial/{key}/progress.json", f"partial/{key}/progress.new",
        f"partial/{key}/failed.json", f"artifacts/{key}", f"artifacts/{other}",
        "cache", "artifacts", "locks", "scratch",
    ]  # fmt: skip
    place, elsewhere = desk.store / draw.choice(names), desk.root / "home" / "elsewhere"
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    put(place, draw.choice(IN_A_PLACE), elsewhere)
    desk.note()
    ended = desk.run(codes={0, 2})
    if ended.code:
        if str(place.relative_to(desk.root)) not in ended.out + ended.err:
            raise Wrong(f"does not name {place.relative_to(desk.root)}: {ended.told()}")
        shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
    desk.finish()


@kind(10)
def deleted_meanwhile(desk: Desk, draw: random.Random, known: Prepared) -> None:
    """Somebody deletes a part of the store while it is used: the run ends, and the next one is right."""
    start = desk.running()
    wait_for(start, draw, known.seconds)
    for path in draw.sample(sorted(desk.store.glob("*/*")), 1) if list(desk.store.glob("*/*")) else []:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    desk.sound(start.wait(), {0, 1, 2})
    desk.finish()
