"""Look after a store: what it holds, whether that is intact, what nobody needs any more; and carry work elsewhere."""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from benchsuite.engine.job import Artifact
from benchsuite.engine.store import RECORD, Store, remove
from benchsuite.errors import BenchError, InputError
from benchsuite.report.results import load

LARGEST = 64 << 30
"""Bytes that an archive may unpack to: more is a mistake, or an attack on the disk."""


@dataclass(frozen=True)
class Kept:
    """One finished job: what it is, its bytes and the seconds it took; `named`: a results file hangs on it."""

    key: str
    label: str
    bytes: int
    seconds: float
    named: bool

    def form(self) -> dict[str, Any]:
        """For `--json`."""
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
    chosen: dict[str, Artifact] = {}
    asked = list(wanted)
    while asked:
        key = asked.pop()
        if key not in chosen:
            chosen[key] = store.verified(key)
            inputs = store.record(key).get("inputs")
            asked += [str(needed) for needed in inputs.values()] if isinstance(inputs, dict) else []
    scratch = file.with_name(f".{file.name}.scratch")
    try:
        with tarfile.open(scratch, "w:gz" if file.suffix in (".gz", ".tgz") else "w") as archive:
            for key in sorted(chosen):
                archive.add(chosen[key].folder, arcname=key)
        scratch.replace(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({error.strerror}); choose another place") from None
    finally:
        scratch.unlink(missing_ok=True)
    return sorted(chosen)


def unpack(store: Store, file: Path) -> list[str]:
    """Take the jobs of an archive into the store, each checked against its own record; keys that were new.

    InputError where the archive is no archive, holds anything but files in folders named by keys, or a changed file.
    """
    store.prepare()
    try:
        with tarfile.open(file) as archive:
            members = archive.getmembers()
            _check(file, members)
            packed = sorted({PurePosixPath(member.name).parts[0] for member in members})
            absent = [key for key in packed if store.artifact(key) is None]
            new = [key for key in absent if _take(store, archive, members, key, file)]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{file}: cannot be read as an archive ({' '.join(str(error).split())[:120]})") from None
    return new


def _check(file: Path, members: Sequence[tarfile.TarInfo]) -> None:
    total = 0
    for member in members:
        path = PurePosixPath(member.name)
        plain = member.isfile() or member.isdir()
        inside = not path.is_absolute() and ".." not in path.parts and path.parts
        if not (plain and inside and path.parts[0].isalnum()):
            raise InputError(f"{file}: holds {member.name!r}, which is no file below a job's key; nothing was taken")
        total += member.size
    if total > LARGEST:
        raise InputError(f"{file}: would unpack to {total >> 30} GiB; nothing was taken")


def _take(store: Store, archive: tarfile.TarFile, members: Sequence[tarfile.TarInfo], key: str, file: Path) -> bool:
    """Unpack one job beside the others and publish it when it is intact; False where another process holds it."""
    with store.lock(key) as mine:
        if not mine:
            return False
        with store.explained(), store.scratch(key) as folder:
            arrived = Store(folder)
            its = [member for member in members if PurePosixPath(member.name).parts[0] == key]
            archive.extractall(arrived.folder(key).parent, its, filter="data")
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
