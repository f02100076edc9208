"""How far the locks of a store reach: `flock` on some network file systems holds on one host only, without an error."""

from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
LOCAL = {"local_lock=flock", "local_lock=all", "nolock"}


def reach(folder: Path, mounts: Path = MOUNTS) -> str:
    """Why locks below `folder` do not hold between hosts; "" where they do, or the system does not tell.

    NFS hands `flock` to its server unless it is mounted with `local_lock=flock`, `local_lock=all` or `nolock`; Lustre
    does with `flock` and does not with `localflock`.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    kind, options = _mount(folder.resolve(), lines)
    if kind.startswith("nfs") and options & LOCAL:
        return f"it is on {kind} mounted with locks that hold on one host only ({', '.join(sorted(options & LOCAL))})"
    if kind == "lustre" and "localflock" in options:
        return "it is on lustre mounted with locks that hold on one host only (localflock)"
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
