"""Look after a store: what it holds, whether that is intact, what nobody needs any more; and carry work elsewhere."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchsuite.engine.store import RECORD, Store, remove
from benchsuite.errors import BenchError, InputError
from benchsuite.report.results import load
from benchsuite.verbs.archive import reading, write


@dataclass(frozen=True)
class Kept:
    """One finished job: what it is, its bytes and the seconds it took; `named`: a results file hangs on it."""

    key: str
    label: str
    bytes: int
    seconds: float
    named: bool

    def form(self) -> dict[str, Any]:
        """JSON of `bench store list`."""
        return asdict(self)


def keys(store: Store) -> list[str]:
    """Keys of all finished jobs."""
    folder = store.root / "artifacts"
    return sorted(path.name for path in folder.iterdir() if store.artifact(path.name)) if folder.is_dir() else []


def contents(store: Store, results: Path) -> list[Kept]:
    """Every finished job, the largest first; `results` is the folder whose files name jobs."""
    needed, found = named(store, results), []
    for key in keys(store):
        record = store.record(key)
        label, seconds = str(record.get("label", "")), record.get("seconds")
        taken = float(seconds) if isinstance(seconds, (int, float)) else 0.0
        found.append(Kept(key, label, size(store.folder(key)), taken, key in needed))
    return sorted(found, key=lambda each: -each.bytes)


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; what links lead to does not count."""
    paths = [path, *path.rglob("*")] if path.is_dir() else [path]
    return sum(each.lstat().st_size for each in paths if each.is_file() and not each.is_symlink())


def named(store: Store, results: Path) -> set[str]:
    """Keys that the results files in a folder name, and of all they were made from, as far as they are here.

    InputError where a results file cannot be read: what it names is then not known.
    """
    asked = [key for file in sorted(results.glob("*.json")) for row in load(file).rows for key in row.keys]
    found: set[str] = set()
    while asked:
        key = asked.pop()
        if key not in found and store.artifact(key):
            found.add(key)
            inputs = store.record(key).get("inputs")
            asked += [str(needed) for needed in inputs.values()] if isinstance(inputs, dict) else []
    return found


def damaged(store: Store) -> Iterator[str]:
    """Read every file of every finished job; a line for each job that is not as it was left."""
    for key in keys(store):
        try:
            store.verified(key)
        except InputError as error:
            yield str(error)


def unneeded(store: Store, results: Path, everything: bool = False) -> list[Path]:
    """What can go: finished jobs that no results file in `results` names (`everything`: also those), and checkpoints
    of jobs on which nobody works. InputError where `results` holds no results file: then this is not known."""
    if not everything and not any(results.glob("*.json")):
        raise InputError(f"{results}: holds no results file, so nothing says what is needed; name the folder that has "
                         "them with --out, or delete all with --all")  # fmt: skip
    needed = set() if everything else named(store, results)
    found = [store.folder(key) for key in keys(store) if key not in needed]
    partial = store.root / "partial"
    for folder in sorted(partial.iterdir()) if partial.is_dir() else ():
        with store.lock(folder.name) as free:
            if free:
                found.append(folder)
    return found


def delete(store: Store, paths: Sequence[Path]) -> int:
    """Delete folders of `unneeded`, each under its lock; the bytes set free. Those taken up again meanwhile stay."""
    freed = 0
    for path in paths:
        with store.lock(path.name) as mine, store.explained():
            if mine:
                freed += size(path)
                remove(path)
    return freed


def pack(store: Store, wanted: Sequence[str], file: Path) -> list[str]:
    """Write finished jobs and all they were made from into one archive; the keys in it.

    InputError where a job is not here or not intact, or the file cannot be written.
    """
    chosen: set[str] = set()
    asked = list(wanted)
    while asked:
        key = asked.pop()
        if key not in chosen:
            chosen.add(key)
            inputs = store.record(store.verified(key).key).get("inputs")
            asked += [str(needed) for needed in inputs.values()] if isinstance(inputs, dict) else []
    write(file, entries(store, chosen))
    return sorted(chosen)


def entries(store: Store, chosen: Iterable[str]) -> dict[str, Path]:
    """The files of finished jobs by their names in an archive: below the job's key, as in the store."""
    return {f"{key}/{name}": store.folder(key) / name for key in chosen for name in (RECORD, *store.files(key))}


def unpack(store: Store, file: Path) -> list[str]:
    """Take the jobs of an archive into the store, each checked against its own record; keys that were new.

    InputError where the archive is no archive, holds anything but files in folders named by keys, or a changed file.
    """
    store.prepare()
    with reading(file) as archive:
        absent = [key for key in archive.tops if store.artifact(key) is None]
        return [key for key in absent if take(store, key, archive.extract, file)]


def take(store: Store, key: str, bring: Callable[[str, Path], object], file: Path) -> bool:
    """Let `bring` put one job of an archive `file` into a folder beside the others, and publish it when it is intact;
    False where another process holds it."""
    with store.lock(key) as mine:
        if not mine:
            return False
        with store.explained(), store.scratch(key) as folder:
            arrived = Store(folder)
            bring(key, arrived.folder(key).parent)
            try:
                arrived.verified(key)
            except BenchError as error:
                raise InputError(f"{file}: {_without(folder, str(error))}; nothing of this job was taken") from None
            remove(store.folder(key))
            arrived.folder(key).rename(store.folder(key))
        remove(store.partial(key))
    return (store.folder(key) / RECORD).is_file()


def _without(folder: Path, text: str) -> str:
    return text.partition("; delete")[0].replace(f"{folder}/artifacts/", "")
