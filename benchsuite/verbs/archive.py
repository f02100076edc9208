"""Archives of finished work: written whole, and read only when every member is a plain file below a job's key, of a
declared size that fits. Nothing is unpacked, and little is read, before that is known."""

import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

from benchsuite.disk import open_regular, outgoing
from benchsuite.errors import InputError

LARGEST = 64 << 30
"""Bytes that an archive may unpack to: more is a mistake, or an attack on the disk."""
MOST = 1_000_000  # members
LONGEST_HEAD = 1 << 16  # bytes of names and times that stand before a member's own head
LONGEST_END = 1 << 20  # bytes of zeros after the last member: tar fills blocks of 10 KiB
SHORTEST_END = 512  # the second of the two zero blocks that end an archive
PACKED = {".tar": "w", ".gz": "w:gz", ".tgz": "w:gz", ".xz": "w:xz"}
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
               tarfile.GNUTYPE_LONGLINK)  # fmt: skip


class _Head(tarfile.TarInfo):
    """A member's head that is told of when it is damaged: `tarfile` takes such a one for the archive's end."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Self:
        try:
            head = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if bytes(buf).strip(b"\0"):
                raise tarfile.ReadError(f"damaged: {error}") from None
            raise  # the end
        if head.type in _EXTENSIONS and head.size > LONGEST_HEAD:
            raise tarfile.ReadError(f"a head of {head.size} bytes")
        return head


@dataclass(frozen=True)
class Archive:
    """An open archive whose members were all looked at."""

    file: Path
    _tar: tarfile.TarFile
    members: tuple[tarfile.TarInfo, ...]

    @property
    def tops(self) -> list[str]:
        """The folders at its top, which are keys of jobs."""
        return sorted({_top(member) for member in self.members})

    def extract(self, top: str, folder: Path) -> None:
        """Unpack one of the folders at its top into `folder`."""
        its = [member for member in self.members if _top(member) == top]
        try:
            self._tar.extractall(folder, its, filter="data")
        except OSError as error:
            told = error.strerror or type(error).__name__
            raise InputError(f"{self.file}: cannot be unpacked ({told}); take another copy of it") from None


@contextmanager
def reading(file: Path, largest: int = LARGEST) -> Iterator[Archive]:
    """An archive to unpack, of whatever compression. InputError, one line, where it is none, is cut off or damaged,
    holds anything but files below a job's key, or would unpack to more than `largest` bytes."""
    try:
        stream = open_regular(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be read as an archive ({error.strerror or error})") from None
    with stream:
        try:
            with tarfile.open(fileobj=stream, tarinfo=_Head) as tar:
                yield Archive(file, tar, tuple(_looked_at(file, tar, largest)))
        except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
            told = "it is no tar" if "method tar" in str(error) else " ".join(str(error).split())[:120]
            raise InputError(f"{file}: cannot be read as an archive ({told}); take another copy of it") from None


def _looked_at(file: Path, tar: tarfile.TarFile, largest: int) -> Iterator[tarfile.TarInfo]:
    """Every member, refused as soon as its head is read: what is declared too large is not even passed over."""
    seen: set[str] = set()
    total = 0
    for member in tar:
        path = PurePosixPath(member.name)
        plain = member.isdir() or (member.isfile() and len(path.parts) > 1)
        inside = not path.is_absolute() and ".." not in path.parts and path.parts and path.parts[0].isalnum()
        if not (plain and inside):
            raise InputError(f"{file}: holds {member.name!r}, which is no file below a job's key; nothing was taken")
        if member.name in seen or len(seen) >= MOST:
            raise InputError(f"{file}: holds {member.name!r} twice, or too many files; nothing was taken")
        seen.add(member.name)
        total += member.size
        if member.size < 0 or total > largest:
            raise InputError(f"{file}: would unpack to {total / (1 << 30):,.1f} GiB or more; nothing was taken")
        yield member
    assert tar.fileobj is not None
    end = tar.fileobj.read(LONGEST_END + 1)  # read to the end, so that checksums of the compression are looked at
    if not SHORTEST_END <= len(end) <= LONGEST_END or end.strip(b"\0"):
        raise tarfile.ReadError("cut off, or with something behind its end")


def write(file: Path, entries: Mapping[str, Path]) -> None:
    """Pack files under these names; equal files make equal archives. The file's ending says how it is compressed.
    InputError where it cannot be written, or has another ending."""
    if file.suffix not in PACKED:
        raise InputError(f"{file}: is no name of an archive; end it in {', '.join(PACKED)}")
    with outgoing(file) as scratch, tarfile.open(scratch, PACKED[file.suffix], dereference=True) as tar:  # type: ignore[call-overload]  # a mode that is no literal
        for name in sorted(entries):
            tar.add(entries[name], name, recursive=False, filter=_plain)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without whose file it was, and when."""
    return member.replace(mtime=0, mode=0o644, uid=0, gid=0, uname="", gname="", deep=False)


def _top(member: tarfile.TarInfo) -> str:
    return PurePosixPath(member.name).parts[0]
