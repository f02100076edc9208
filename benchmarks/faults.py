"""Faults tried on the program, and how many got through: kills at random moments, signals, full disks, damaged files,
odd environments, bad input. Whatever happens: no lost and no wrong result (bit for bit those of an undisturbed run), no
traceback, no hang over 60 s, no file outside the folders named, no process left, nothing that a terminal would obey, no
finished job done again.

python benchmarks/faults.py [--seed N] [--count N] [--kind NAME[:NUMBER]] … [--jobs N] [--json FILE]

About 25 minutes on one core. Exit code 1 when anything got through; each line of that names the kind and its number,
and `--kind NAME:NUMBER` with the same seed tries it alone. A fault of a random moment need not come out the same again.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fault_desk import Desk
from fault_kinds import KINDS, Prepared, prepare
from fault_start import Wrong, adopt, settle

from benchsuite.engine.environment import environment
from benchsuite.engine.forks import SERVER_ENVIRONMENT

OF_THE_STORE = (
    "kill-run", "kill-worker", "kill-server", "kill-loader", "signal-run", "end-worker", "stop-and-wake",
    "stop-and-interrupt", "two-runs", "full-disk", "limit-of-a-file", "read-only-store", "damaged-artifact",
    "damaged-checkpoint", "damaged-log", "damaged-cache", "in-a-files-place", "deleted-meanwhile",
    "kill-rank", "stop-rank", "kill-run-of-ranks",
)  # fmt: skip
"""Kinds of processes and of the store; the others are of what the program is given."""


def chosen(asked: list[str], count: int | None) -> list[tuple[str, int]]:
    """Kinds and numbers of the faults to try: all, or those asked for, or `count` in like shares."""
    known = {name: many for name, (many, _, _) in KINDS.items()}
    if asked:
        named = [text.partition(":") for text in asked]
        return [(name, number) for name, _, one in named for number in ([int(one)] if one else range(known[name]))]
    share = 1.0 if count is None else count / sum(known.values())
    return [(name, number) for name, many in known.items() for number in range(max(1, round(share * many)))]


def tried(name: str, number: int, seed: int, known: Prepared, folder: Path) -> str:
    """Try one fault; what got through, or nothing."""
    _, start, fault = KINDS[name]
    desk = Desk.at(folder / f"{name}-{number}", known.right, known.folder / start if start else None)
    try:
        fault(desk, random.Random(f"{seed} {name} {number}"), known)
    except Wrong as error:
        return " ".join(str(error).replace(str(folder), "…").split())
    except Exception as error:  # of the fault itself
        return f"{type(error).__name__}: {error}"
    finally:
        desk.clear()
    return ""


def divided(faults: list[tuple[str, int]], jobs: int, seed: int, known: Prepared, folder: Path) -> Iterator[str]:
    """Try the faults in some processes at once; for each its kind, number and what got through, in one line."""
    parts = []
    for part in range(jobs):
        file = folder / f"part{part}"
        file.touch()
        pid = os.fork()
        if not pid:
            adopt()
            with file.open("w") as told:
                for name, number in faults[part::jobs]:
                    line = f"{name}:{number}: {tried(name, number, seed, known, folder)}"
                    print(line, file=told, flush=True)
                    if not line.endswith(": "):
                        print(line, file=sys.stderr, flush=True)
            os._exit(0)
        parts.append((pid, file))
    for pid, file in parts:
        os.waitpid(pid, 0)
        yield from file.read_text().splitlines()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, help="About how many; by default all.")
    parser.add_argument("--kind", action="append", default=[], help=f"Of these: {', '.join(KINDS)}.")
    parser.add_argument("--jobs", type=int, default=1, help="Processes that try faults at once.")
    parser.add_argument("--json", type=Path, help="Write the summary there.")
    asked = parser.parse_args()
    settle()
    faults, began = chosen(asked.kind, asked.count), time.monotonic()
    scratch = Path(tempfile.mkdtemp())  # which what is forked does not delete when it ends
    try:
        known = prepare(scratch)
        lines = list(divided(faults, asked.jobs, asked.seed, known, scratch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    wrong = [line for line in lines if not line.endswith(": ")]
    names = [line.partition(":")[0] for line in lines]
    summary = {
        name: {"tried": names.count(name), "wrong": sum(line.startswith(f"{name}:") for line in wrong)}
        for name in dict.fromkeys(name for name, _ in faults)
    }
    for name, counts in summary.items():
        print(f"{name:22} {counts['tried']:4} tried {counts['wrong']:4} wrong")
    of_the_store = sum(each["tried"] for name, each in summary.items() if name in OF_THE_STORE)
    seconds = round(time.monotonic() - began)
    through = f"{len(wrong)} got through ({seconds} s)"
    print(f"{len(lines)} faults, {of_the_store} of them of processes and the store, {through}")
    if len(lines) < len(faults):
        print(f"{len(faults) - len(lines)} were not tried", file=sys.stderr)
    if asked.json:
        form = {
            "seed": asked.seed, "tried": len(lines), "of_processes_and_store": of_the_store, "got_through": len(wrong),
            "seconds": seconds, "jobs": asked.jobs, "kinds": summary, "wrong": wrong, "environment": environment(),
        }  # fmt: skip
        asked.json.write_text(json.dumps(form, indent=1, ensure_ascii=False) + "\n")
    return 1 if wrong or len(lines) < len(faults) else 0


if __name__ == "__main__":
    import fault_inputs  # noqa: F401  (registers its kinds)
    import fault_ranks  # noqa: F401

    if os.environ.get("PYTHONHASHSEED") != "0":  # as the server would be started
        os.environ |= SERVER_ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
        os.execv(sys.executable, [sys.executable, *sys.argv])
    code = main()
    sys.stdout.flush()
    os._exit(code)  # libraries that were imported and not used have much to say at their end
