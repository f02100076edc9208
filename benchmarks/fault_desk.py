"""Where faults are tried: a folder with a tiny table in it, `bench` started there, and what must hold afterwards."""

import hashlib
import json
import os
import re
import shutil
import signal
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fault_start import Ended, Start, Wrong, become, below, children, end, processes, reaped

from benchsuite.loops.log import MACHINE

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"
LINGER = 5.0  # seconds within which everything that a start left must be gone
BITS = ("weights.safetensors", "detections.safetensors", "metrics.json", "log.jsonl")
TINY = """
id: tiny
extends: _har.yaml
table: T
title: Tiny
baseline: baseline
columns: [AP, AP50]
base:
  model:
    backbone: {kind: timm_backbone.Timm, name: test_resnet}
    neck: {channels: 32}
    head: {channels: 16, depth: 1}
  post: {score_threshold: 0.005, per_level: 50}
tiers:
  smoke:
    input: {short: 64, long: 96}
    solver: {iterations: 12, drops: [10]}
rows:
  - {id: baseline, published: {AP: 35.1, AP50: 52.9}}
  - {id: sa, model: {head: {spatial: {dilations: [1, 1], channels: 8}}}, published: {AP: 36.4}}
claims:
  - {better: sa, than: baseline, on: AP}
"""


@dataclass
class Desk:
    """A folder with the table, its data, a store, results, a home and a folder for temporary files; and what an
    undisturbed run leaves (`right`)."""

    root: Path
    right: "Right | None" = None
    starts: list[Start] = field(default_factory=list)
    outside: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def at(cls, root: Path, right: "Right | None" = None, store: Path | None = None) -> "Desk":
        """A new desk, with a copy of a store (and the results beside it)."""
        desk = cls(root, right)
        for name in ("home", "tmp", "printed"):
            (root / name).mkdir(parents=True)
        shutil.copytree(FIXTURES / "data" / "toy", root / "toy")
        (root / "tiny.yaml").write_text(TINY)
        for name in ("store", "out"):
            if store is not None and (store / name).is_dir():
                shutil.copytree(store / name, root / name, symlinks=True)
        desk.note()
        return desk

    store = property(lambda self: self.root / "store")
    out = property(lambda self: self.root / "out")

    def note(self) -> None:
        """What there is now outside of the store and the results stays as it is from here on."""
        self.outside = self._outside()

    def _outside(self) -> dict[str, tuple[int, ...]]:
        found = {}
        for folder, names, files in os.walk(self.root):
            at = Path(folder)
            if at == self.root:
                names[:] = [name for name in names if name not in ("store", "out", "printed")]
            for name in (*names, *files):
                about = (at / name).lstat()
                file = () if name in names else (about.st_size, about.st_mtime_ns)
                found[str((at / name).relative_to(self.root))] = (about.st_mode, about.st_ino, *file)
        return found

    def start(
        self, *words: str, cold: str = "", environ: Mapping[str, str | None] | None = None,
        before: Callable[[], object] = lambda: None,
    ) -> Start:  # fmt: skip
        """Start `bench WORDS` in this folder; in the new process `before` is called first."""
        number = len(self.starts)
        out, err = (self.root / "printed" / f"{number}.{name}" for name in ("out", "err"))
        known = {name: value for name, value in os.environ.items() if not name.startswith(("BENCH_", "PYTHON", "LC_"))}
        known |= {
            "PYTHONPATH": str(Path(__file__).parents[1]), "HOME": str(self.root / "home"), "NO_COLOR": "1",
            "TMPDIR": str(self.root / "tmp"), "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONHASHSEED": "0",
        }  # fmt: skip
        for name, value in (environ or {}).items():
            known.pop(name, None)
            known |= {} if value is None else {name: value}
        out.touch()
        err.touch()
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            become(words, out, err, self.root, known, before, cold)
        self.starts.append(Start(words, pid, out, err))
        return self.starts[-1]

    def bench(self, *words: str, codes: Iterable[int] = (0,), **how: Any) -> Ended:
        """Start, wait, and look whether all is sound."""
        ended = self.start(*words, **how).wait()
        self.sound(ended, codes)
        return ended

    def running(self, *words: str, **how: Any) -> Start:
        """Start the table's run."""
        return self.start(*self.words(*words), **how)

    def words(self, *more: str) -> tuple[str, ...]:
        """The table's run."""
        common = ("--data", "toy", "--store", "store", "--out", "out", "--checkpoint-every", "2", "--device", "cpu")
        return ("run", "tiny.yaml", *common, *more)

    def run(self, *words: str, codes: Iterable[int] = (0,), **how: Any) -> Ended:
        """Run the table to its end; what was finished before is not done again."""
        before = self.finished()
        ended = self.bench(*self.words(*words), codes=codes, **how)
        after = self.finished()
        for key, made in before.items():
            if key in after and made != after[key]:
                raise Wrong(f"{key} was finished and was done again")
        return ended

    def finished(self) -> dict[str, tuple[int, int]]:
        """Finished jobs, and which file says so."""
        found = {}
        for file in self.store.glob("artifacts/*/artifact.json"):
            if file.is_file():
                found[file.parent.name] = (file.stat().st_ino, file.stat().st_mtime_ns)
        return found

    def finish(self) -> None:
        """Run once more, undisturbed: the results must be those of an undisturbed run, bit for bit."""
        self.run()
        self.compare()

    def compare(self) -> None:
        """Wrong where results or what they were made from are not the right ones."""
        assert self.right is not None
        found = Right.of(self)
        if found.rows != self.right.rows:
            raise Wrong(f"other results: {found.rows} instead of {self.right.rows}")
        unlike = [
            name
            for name in self.right.bits.keys() | found.bits.keys()
            if self.right.bits.get(name) != found.bits.get(name)
        ]
        if unlike:
            raise Wrong(f"other bits: {sorted(unlike)[:4]}")

    def sound(self, ended: Ended, codes: Iterable[int]) -> None:
        """Wrong where the start ended as it may not, printed what nobody should see, left processes or files."""
        printed = ended.out + ended.err
        if ended.code not in set(codes):
            raise Wrong(f"exit code {ended.code} is none of {sorted(set(codes))}: {ended.told()}")
        for word in ("Traceback", "Exception ignored", "Warning:", "Fatal Python error", "leaked "):
            if word in printed:
                raise Wrong(f"{word}: {ended.told()}")
        moved = {
            sign for sign in printed if unicodedata.category(sign) in ("Cc", "Cf") and sign not in "\n\u200d\u200c"
        }
        if moved:
            raise Wrong(f"control characters {sorted(map(ascii, moved))}: {ended.told()}")
        if ended.code == 2 and not printed.strip():
            raise Wrong(f"says nothing: {ended.told()}")
        if ended.err.count("bench: ") > 1:
            raise Wrong(f"more than one line: {ended.told()}")
        if not any(start.running() for start in self.starts):
            self.left_nothing(killed=ended.code == -signal.SIGKILL)

    def left_nothing(self, killed: bool = False) -> None:
        """Wrong where a process of a start still runs, or a file was written outside of store and results."""
        gone = time.monotonic() + LINGER
        while rest := [pid for pid in children(os.getpid()) if not reaped(pid)]:
            if time.monotonic() > gone:
                told = [f"{pid} {processes().get(pid)}" for pid in rest]
                end([each for pid in rest for each in (*below(pid), pid)])
                raise Wrong(f"processes are left: {told}")
            time.sleep(0.01)
        now = self._outside()
        changed = {name for name in now.keys() | self.outside.keys() if now.get(name) != self.outside.get(name)}
        changed = {name for name in changed if not re.fullmatch(r"tmp/benchsuite-\d+\.lock", name)}  # the machine's
        if killed:  # nobody can clear up behind a kill
            changed = {name for name in changed if not name.startswith("tmp/")}
            shutil.rmtree(self.root / "tmp")
            (self.root / "tmp").mkdir()
            self.note()
        if changed:
            raise Wrong(f"written outside of store and results: {sorted(changed)[:5]}")

    def clear(self) -> None:
        """End what still runs and delete the folder."""
        for start in self.starts:
            if start.running():
                end([*below(start.pid), start.pid])
                os.waitpid(start.pid, 0)
        for pid in children(os.getpid()):
            end([*below(pid), pid])
        while any(not reaped(pid) for pid in children(os.getpid())):
            time.sleep(0.01)
        shutil.rmtree(self.root, ignore_errors=True)


@dataclass(frozen=True)
class Right:
    """What an undisturbed run leaves: the results' rows and claims, and the bits of what they were made from."""

    rows: object
    bits: Mapping[str, str]

    @classmethod
    def of(cls, desk: Desk) -> "Right":
        """What a desk has now."""
        (file,) = desk.out.glob("tiny.smoke*.json")
        results = json.loads(file.read_text())
        rows = [
            [row[name] for name in ("id", "status", "measured", "settings", "keys", "reason")]
            for row in results["rows"]
        ]
        return cls([rows, results["claims"], results["seeds"]], dict(_bits(desk.store / "artifacts")))


def _bits(folder: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(folder.glob("*/*")):
        if file.name in BITS:
            text = file.read_bytes()
            if file.name == "log.jsonl":
                lines = [json.loads(line) for line in text.splitlines()]
                text = json.dumps(
                    [{name: line[name] for name in line if name not in MACHINE} for line in lines]
                ).encode()
            yield f"{file.parent.name}/{file.name}", hashlib.sha256(text).hexdigest()
