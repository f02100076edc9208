"""How far the locks of a store reach: `flock` on some network file systems holds on one host only, without an error."""

from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
LOCAL = {
    "nfs": {"local_lock=flock", "local_lock=all", "nolock"},
    "lustre": {"localflock"},
    "cifs": {"nobrl"},
    "smb3": {"nobrl"},
    "gfs2": {"localflocks", "lock_nolock"},
    "ocfs2": {"localflocks"},
}
"""By file system, the options of its mounts under which `flock` stays on the host."""
NEVER = ("fuse.sshfs", "fuse.s3fs", "fuse.rclone")
"""File systems of several hosts that never tell others of a `flock`."""


def reach(folder: Path, mounts: Path = MOUNTS) -> str:
    """Why locks below `folder` do not hold between hosts; "" where they do, or the system does not tell.

    NFS, for one, hands `flock` to its server unless it is mounted with `local_lock=flock`, `local_lock=all` or
    `nolock`. BeeGFS tells its clients in a file of its own, and is not looked into.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    kind, options = _mount(folder.resolve(), lines)
    if kind in NEVER:
        return f"it is on {kind}, whose locks hold on one host only"
    found = options & LOCAL.get("nfs" if kind.startswith("nfs") else kind, set())
    if found:
        return f"it is on {kind} mounted with locks that hold on one host only ({', '.join(sorted(found))})"
    return ""


def _mount(folder: Path, lines: list[str]) -> tuple[str, set[str]]:
    """Kind and options of the file system that `folder` is on: of its longest mount point, the last mounted there."""
    best, found = -1, ("", set[str]())
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, (kind, _, *further) = before.split(), [*after.split(), "", ""]
        if len(fields) < 6:
            continue
        point = Path(fields[4].replace("\\040", " "))
        if folder.is_relative_to(point) and len(point.parts) >= best:
            best, found = len(point.parts), (kind, {*fields[5].split(","), *",".join(further).split(",")})
    return found
