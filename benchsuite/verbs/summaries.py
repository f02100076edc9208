"""What is printed of detections, datasets, the machine and the store."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchsuite.verbs.terminal import marked, print_things, table

if TYPE_CHECKING:
    from pathlib import Path

    from benchsuite.data.verify import ClassReport, Report
    from benchsuite.verbs.again import Again
    from benchsuite.verbs.capsule import Packed
    from benchsuite.verbs.doctor import Check
    from benchsuite.verbs.export import Exported
    from benchsuite.verbs.status import Unfinished
    from benchsuite.verbs.store import Kept

SHOWN = 20  # notes on a dataset
LARGE_CAPSULE = "more than 100 MB; take some rows or seeds of the table into one archive, others into another"


def print_score(found: Mapping[str, Any]) -> None:
    """Numbers of one scoring, then the classes."""
    others = ("protocol", "per_class", "dropped", "notes")
    numbers = [(name, _number(value)) for name, value in found.items() if name not in others]
    print_things(table(f"protocol {found['protocol']} (0–100)", ("", "measured"), numbers))
    classes: Mapping[str, Mapping[str, Any]] = found.get("per_class", {})
    if classes:
        column = next(name for name in next(iter(classes.values())) if name != "name")
        rows = [(id_, each["name"], _number(each[column])) for id_, each in classes.items()]
        print_things(table("per class", ("id", "class", column), rows, left=2))
    if found.get("dropped"):
        told = f"{found['dropped']} boxes of the truth have no area and were left out; pycocotools counts them too"
        print_things(marked("yellow", "note", told))
    print_things(*(marked("yellow", "note", text) for text in found.get("notes", ())))


def _number(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, (int, float)) else "–"


def print_export(found: "Exported") -> None:
    """Where the file is, what it is made of, and how far it is from torch."""
    operators = ", ".join(f"{count} {name}" for name, count in found.operators.items())
    height, width = found.frame
    told = f"{found.detections} detections of {found.pictures} pictures: "
    if found.detections:
        told += f"boxes within {found.boxes_px:.1g} px, scores within {found.scores:.1g} of torch's"
    else:
        told += "nothing to hold against torch's; take more pictures (--images) or --set post.score_threshold=0"
    print_things(
        f"written: {found.file}, for one picture padded to {height}×{width} (image, size → boxes, scores, labels)",
        f"operators: {operators}",
        told,
    )


def print_verified(reports: Sequence["Report | ClassReport"]) -> None:
    """One table of facts and one of classes per split, then its problems."""
    for report in reports:
        classes = [(name, f"{count:,}") for name, count in report.classes.items()]
        print_things(table(report.name, ("", ""), report.facts()), table("", ("class", report.counted), classes))
        remarks = report.remarks()
        for line in remarks[:SHOWN]:
            print_things(marked("yellow", "note", line))
        if len(remarks) > SHOWN:
            print_things(f"{len(remarks) - SHOWN} more notes; --json has them all")
        lines = [line for sort in report.problems.values() for line in sort]
        for line in lines:
            print_things(marked("red", "problem", line))
        print_things(f"{report.name}: {len(lines) or 'no'} problem{'' if len(lines) == 1 else 's'}")


def print_checks(checks: Sequence["Check"]) -> None:
    """One line a check, with the cure where it is not well."""
    for check in checks:
        style, word = (
            ("green", "ok     ") if check.ok else ("red", "bad    ") if check.needed else ("yellow", "without")
        )
        cure = f"; {check.cure}" if check.cure and not check.ok else ""
        print_things(marked(style, word, f"{check.name}: {check.found}{cure}"))


def print_status(jobs: "Sequence[Unfinished]") -> None:
    """Unfinished jobs as a table."""
    from benchsuite.engine.progress import clock

    rows = [
        (
            job.key[:8],
            job.name,
            "working" if job.working else "failed" if job.failed else "waiting",
            f"{job.done}/{job.total} {job.unit}" if job.total else "",
            "" if job.loss is None else f"{job.loss:.4g}",
            f"{clock(job.seconds)} ago",
        )
        for job in jobs
    ]
    columns = ("key", "job", "", "done", "loss", "last report")
    print_things(
        table("", columns, rows, left=3) if rows else "no unfinished job",
        *(marked("red", "failed", f"{job.key[:8]} {job.failed}") for job in jobs if job.failed),
    )


def print_store(jobs: "Sequence[Kept]") -> None:
    """Finished jobs as a table, and their sum."""
    from benchsuite.engine.progress import clock

    rows = [(j.key[:8], j.label, "named" if j.named else "", _bytes(j.bytes), clock(j.seconds)) for j in jobs]
    total = sum(job.bytes for job in jobs)
    print_things(table("", ("key", "job", "results", "size", "took"), rows, left=3)) if rows else None
    print_things(f"{len(jobs)} finished jobs, {_bytes(total)}")


def print_pruned(paths: "Sequence[Path]", freed: int, deleted: bool) -> None:
    """What went, or would go."""
    what = f"{len(paths)} folders, {_bytes(freed)}"
    if deleted or not paths:
        print_things(f"deleted: {what}" if paths else "nothing to delete")
    else:
        print_things(*(path.as_posix() for path in paths), f"{what} can go; add --yes to delete")


def print_packed(found: "Packed") -> None:
    """Where the archive is and what it lacks."""
    print_things(
        f"written: {found.file}, {found.jobs} jobs, {_bytes(found.bytes)}; bench score {found.file} counts again",
        *(marked("yellow", "left out", f"{each}: not in the store") for each in found.absent),
        *([marked("yellow", "note", LARGE_CAPSULE)] if found.bytes > 100 * 10**6 else []),
    )


def print_again(found: "Sequence[Again]") -> None:
    """One line a count, and each number that came out otherwise than recorded."""
    for each in found:
        word = marked("red", "unlike", each.what) if each.unlike else marked("green", "same  ", each.what)
        print_things(word, *(f"  {name}: recorded {old}, now {new}" for name, (old, new) in each.unlike.items()))
    counted, unlike = sum(bool(each.key) for each in found), sum(bool(each.unlike) for each in found)
    print_things(f"{counted} counts made again from what was kept, {unlike or 'none'} unlike")


def _bytes(count: int) -> str:
    """A size for people: `512 B`, `3.1 MiB`."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
