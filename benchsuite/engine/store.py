"""The store: finished work by content key, complete or absent, shared by any number of runs at once.

<root>/artifacts/<key>/   a finished job's files and `artifact.json`; published by one rename
<root>/partial/<key>/     checkpoints and log of an unfinished job; outlives kills, removed on publishing
<root>/scratch/<key>/     files of the job that holds the key's lock; of nobody, once the lock is free
<root>/locks/<key>        locked (flock) by the process that works, so the kernel frees it on any death
<root>/cache/             decoded images, shared by all jobs
"""

import errno
import hashlib
import json
import os
import pwd
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from benchsuite.disk import locked, read_json, sync, whole
from benchsuite.engine.job import Artifact
from benchsuite.errors import InputError
from benchsuite.settings import Json, Strict, content_key

RECORD = "artifact.json"
LOG = "job.log"
PROGRESS = "progress.json"
FAILED = "failed.json"


class _Failure(Strict):
    run: str
    message: str
    exit_code: int


_FILES = TypeAdapter(dict[str, tuple[int, str] | tuple[int, str, int]])  # size, SHA-256, time of change in ns
_digests: dict[tuple[str, int, int, int], str] = {}


class Store:
    """Artifacts under one folder: `root`, or `$BENCH_STORE`, or `runs/`. Reading creates nothing."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or Path(os.environ.get("BENCH_STORE") or "runs")
        self.cache = self.root / "cache"

    @classmethod
    def there(cls, root: Path | None = None) -> "Store":
        """A store to look into; InputError where there is none."""
        store = cls(root)
        if not (store.root / "artifacts").is_dir():
            raise InputError(
                f"{store.root}: is no store; bench run makes one, and --store or $BENCH_STORE says where it is"
            )
        return store

    def folder(self, key: str) -> Path:
        """Where the artifact of `key` is or will be."""
        return self.root / "artifacts" / key

    def partial(self, key: str) -> Path:
        """Where checkpoints and the log of an unfinished job are or will be."""
        return self.root / "partial" / key

    def artifact(self, key: str) -> Artifact | None:
        """The finished artifact of `key`, or None; its files are not read (see `verified`)."""
        folder = self.folder(key)
        return Artifact(key, folder) if (folder / RECORD).is_file() else None

    def verified(self, key: str, *, quickly: bool = False) -> Artifact:
        """The finished artifact of `key`, its files compared with what was recorded when they were written.

        A file is hashed once per process and change; `quickly` hashes none whose size
        and time are the recorded ones. InputError if a file was changed or is gone, or if there is no such artifact.
        """
        artifact = self.artifact(key)
        if artifact is None:
            raise InputError(f"{self.folder(key)}: no such artifact in the store; run the job that makes it")
        for name, (size, sha256, changed) in _recorded_files(artifact).items():
            path = artifact.path(name)
            if not path.is_file():
                raise _changed(artifact, f"{path}: is gone")
            found = path.stat()
            if found.st_size != size:
                raise _changed(
                    artifact, f"{path}: was changed after it was written ({found.st_size} bytes instead of {size})"
                )
            if not (quickly and changed == found.st_mtime_ns) and _digest(path) != sha256:
                raise _changed(artifact, f"{path}: was changed after it was written (its hash differs)")
        return artifact

    def begun(self, key: str) -> bool:
        """Whether a checkpoint, or anything else to go on from, is left of an unfinished job."""
        folder = self.partial(key)
        return folder.is_dir() and not {path.name for path in folder.iterdir()} <= {LOG, PROGRESS, FAILED}

    def record(self, key: str) -> Mapping[str, Json]:
        """What `artifact.json` says: key, job, label, inputs, device, threads, seconds, environment, files."""
        return _read_record(Artifact(key, self.folder(key)))

    def files(self, key: str) -> list[str]:
        """The files of a finished job that its record lists."""
        return list(_recorded_files(Artifact(key, self.folder(key))))

    def prepare(self) -> None:
        """Make the folders and sweep what killed processes left; InputError if the store cannot be written."""
        if umask() & 0o700:
            raise InputError(f"umask {umask():03o}: takes your own rights away from every new file; set it to 022")
        with self.explained():
            for name in ("artifacts", "partial", "scratch", "locks", "cache"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            probe = self.root / "scratch" / f".probe-{os.getpid()}"
            probe.write_bytes(b"\0")
            probe.unlink()
            leftovers = [*(self.root / "scratch").iterdir(), *(self.root / "partial").iterdir()]
        for folder in leftovers:
            if folder.is_dir() and (folder.parent.name == "scratch" or self.artifact(folder.name)):
                with self.lock(folder.name) as mine:
                    if mine:
                        shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def lock(self, key: str) -> Iterator[bool]:
        """Hold the lock of `key`: True, or False at once when another process holds it."""
        with ExitStack() as held:
            with self.explained():
                mine = held.enter_context(locked(self.root / "locks" / key))
            yield mine

    def note_failure(self, key: str, run: str, message: str, exit_code: int) -> None:
        """Tell the other workers of a run that a job failed, so that not each of them tries it, and whoever looks."""
        with suppress(OSError), whole(self.partial(key) / FAILED) as part:
            part.write_text(json.dumps({"run": run, "message": message, "exit_code": exit_code}), encoding="utf-8")

    def failure(self, key: str, run: str | None = None) -> tuple[str, int] | None:
        """Message and exit code of a job that failed in this run, or in any when it was last tried; None where it did
        not."""
        file = self.partial(key) / FAILED
        with suppress(InputError, ValidationError):  # torn, or of nobody's making
            known = _Failure.model_validate(read_json(file))
            return (known.message, known.exit_code) if run in (None, known.run) else None
        return None

    @contextmanager
    def scratch(self, key: str) -> Iterator[Path]:
        """A new empty folder to write the artifact of `key` into, gone afterwards; the caller holds the lock."""
        folder = self.root / "scratch" / key
        remove(folder)
        folder.mkdir()
        if not self.partial(key).is_dir():
            remove(self.partial(key))
            self.partial(key).mkdir()
        for name in (LOG, PROGRESS):
            own_file(self.partial(key) / name)
        remove(self.partial(key) / FAILED)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, key: str, scratch: Path, record: Mapping[str, Json]) -> Artifact:
        """Make `scratch` the artifact of `key`, with the log beside its files; the caller holds the lock."""
        log = self.partial(key) / LOG
        if log.is_file() and log.stat().st_size:
            log.replace(scratch / LOG)
        paths = sorted(path for path in scratch.rglob("*") if path.is_file())
        for path in paths:  # some libraries write files that only their owner may read, and stores are shared
            path.chmod(0o666 & ~umask())
        files = {path.relative_to(scratch).as_posix(): _described(path) for path in paths}
        form = json.loads(json.dumps({"key": key, **record, "files": files}))  # as it will be read
        text = json.dumps(form | {"checksum": content_key(form)}, indent=1, ensure_ascii=False)
        (scratch / RECORD).write_text(text + "\n", encoding="utf-8")
        for path in (*paths, scratch / RECORD, *(p for p in scratch.rglob("*") if p.is_dir()), scratch):
            sync(path)
        target = self.folder(key)
        remove(target)  # it has no record, or the job would not have run: a folder somebody emptied, a link to nowhere
        for name, path in zip(files, paths, strict=True):  # the rename moves files, it does not change them
            _digests[_identity(target / name, path)] = str(files[name][1])
        scratch.rename(target)
        shutil.rmtree(self.partial(key), ignore_errors=True)
        return Artifact(key, target)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn a full disk or an unwritable store into an InputError of one line."""
        try:
            yield
        except Exception as error:
            told = self.explain(error)
            if told is None:
                raise
            raise told from error

    def explain(self, error: Exception) -> InputError | None:
        """What to tell about an error met while writing into the store; None if it is about something else."""
        number = error.errno if isinstance(error, OSError) else None
        named = Path(str(error.filename)) if isinstance(error, OSError) and error.filename else self.root
        # safetensors and torch report a full disk in errors of their own
        if number == errno.EFBIG or "File too large" in str(error):
            return InputError(f"{named}: may not grow as it must (File too large); raise `ulimit -f`, or use another "
                              "store with --store, and run again (finished jobs and checkpoints are kept)")  # fmt: skip
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            return InputError(f"{named}: the disk is full; free some space, or use another store with --store, "
                              "and run again (finished jobs and checkpoints are kept)")  # fmt: skip
        if not isinstance(error, OSError) or not named.absolute().is_relative_to(self.root.absolute()):
            return None
        if number in (errno.EROFS, errno.EACCES, errno.EPERM):
            return InputError(f"{named}: cannot be written ({error.strerror}{_owner(named)}); change its permissions, "
                              "or use another store with --store")  # fmt: skip
        if number == errno.EISDIR:
            return InputError(f"{named}: a folder is where the store needs a file; delete it")
        if number in (errno.ELOOP, errno.ENOENT) and named.is_symlink():
            return InputError(f"{named}: a link is where the store needs a file; delete it")
        if number in (errno.ENOTDIR, errno.EEXIST):
            return InputError(f"{named}: a file is where the store needs a folder; move it, "
                              "or use another store with --store")  # fmt: skip
        if number in (errno.ENOLCK, errno.EOPNOTSUPP):
            return InputError(f"{named}: this file system has no locks; use a store on a local disk with --store")
        return None


def umask() -> int:
    """The rights that new files of this process are denied."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def own_file(path: Path) -> None:
    """Remove what is at `path` unless it is a file: a pipe waits for a reader, a link leads elsewhere."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        remove(path)


def remove(path: Path) -> None:
    """Delete what is at `path`, be it a folder with all it holds, a file, a link (not what it leads to) or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _owner(path: Path) -> str:
    """Whose the nearest thing on the way to `path` is, where it is somebody else's."""
    for each in (path, *path.absolute().parents):
        with suppress(OSError):
            owner = each.stat().st_uid
            return "" if owner == os.getuid() else f": it belongs to {_user(owner)}"
    return ""


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _described(path: Path) -> list[Json]:
    found = path.stat()
    return [found.st_size, _digest(path), found.st_mtime_ns]


def _read_record(artifact: Artifact) -> Mapping[str, Json]:
    file = artifact.path(RECORD)
    try:
        record = read_json(file)
    except InputError as error:
        raise _changed(artifact, str(error).partition(";")[0]) from error
    if not isinstance(record, dict) or not isinstance(record.get("key"), str):
        raise _changed(artifact, f"{file}: cannot be read as a record")
    if record["key"] != artifact.key:
        raise _changed(artifact, f"{file}: is of another artifact, {record['key']}")
    if record.pop("checksum", None) not in (None, content_key(record)):  # older records have none
        raise _changed(artifact, f"{file}: was changed after it was written (its checksum differs)")
    return record


def _recorded_files(artifact: Artifact) -> dict[str, tuple[int, str, int | None]]:
    """Size, SHA-256 and time of change of each file; older records have no time."""
    try:
        files = _FILES.validate_python(_read_record(artifact).get("files"))
    except ValidationError as error:
        raise _changed(artifact, f"{artifact.path(RECORD)}: has no readable list of files") from error
    return {name: (entry[0], entry[1], entry[2] if len(entry) == 3 else None) for name, entry in files.items()}


def _changed(artifact: Artifact, what: str) -> InputError:
    return InputError(f"{what}; delete the folder {artifact.folder} and run again")


def _identity(path: Path, file: Path) -> tuple[str, int, int, int]:
    """Of what lies in `file` and will be called `path`. No program can set back the time of the inode's change."""
    stat = file.stat()
    return str(path.absolute()), stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size


def _digest(path: Path) -> str:
    identity = _identity(path, path)
    if identity not in _digests:
        with path.open("rb") as file:
            _digests[identity] = hashlib.file_digest(file, "sha256").hexdigest()
    return _digests[identity]
