"""What `show`, `plan`, `inspect`, `score` and `doctor` print: a JSON form and a table of each."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchsuite.errors import InputError
from benchsuite.recipe.recipe import Published, Recipe, Spread
from benchsuite.verbs.terminal import marked, print_things, table

if TYPE_CHECKING:
    from pathlib import Path

    from benchsuite.data.verify import ClassReport, Report
    from benchsuite.engine.store import Store
    from benchsuite.verbs.again import Again
    from benchsuite.verbs.budget import Budget
    from benchsuite.verbs.capsule import Packed
    from benchsuite.verbs.doctor import Check
    from benchsuite.verbs.export import Exported
    from benchsuite.verbs.memory import Need
    from benchsuite.verbs.plan import Plan
    from benchsuite.verbs.status import Unfinished
    from benchsuite.verbs.store import Kept


SHOWN = 20  # notes on a dataset
LARGE_CAPSULE = "more than 100 MB; take some rows or seeds of the table into one archive, others into another"


def cell_form(cell: Published) -> object:
    """A published cell as JSON: a number, {mean, std} or null."""
    return cell.model_dump() if isinstance(cell, Spread) else cell


def cell_text(cell: Published, decimals: int) -> str:
    """A published cell as printed in the paper."""
    if cell is None:
        return "–"
    if isinstance(cell, Spread):
        return f"{cell.mean:.{decimals}f} ± {cell.std:.{decimals}f}"
    return f"{cell:.{decimals}f}"


def show_form(recipe: Recipe) -> dict[str, Any]:
    """JSON of `bench show`."""
    return {
        "id": recipe.id,
        "paper": recipe.paper.model_dump(),
        "table": recipe.table,
        "title": recipe.title,
        "columns": [column.model_dump() for column in recipe.columns],
        "rows": [
            {
                "id": row.id,
                "label": row.label or row.id,
                "role": row.role,
                "published": {name: cell_form(cell) for name, cell in row.published.items()},
            }
            for row in recipe.rows
        ],
        "claims": [claim.model_dump(exclude_none=True) for claim in recipe.claims],
        "tiers": list(recipe.tiers),
    }


def print_show(recipe: Recipe) -> None:
    """The published table and its claims."""
    rows = [
        [row.id, row.label or row.id, "quoted" if row.role == "quoted" else ""]
        + [cell_text(row.published.get(column.id), column.decimals) for column in recipe.columns]
        for row in recipe.rows
    ]
    heads = ("row", "in the paper", "", *(column.label or column.id for column in recipe.columns))
    print_things(
        marked("bold", recipe.id, f" {recipe.title}"),
        f"{recipe.paper.title} ({recipe.paper.cite}), Table {recipe.table}: published numbers",
        table("", heads, rows, left=3),
    )
    for claim in recipe.claims:
        print_things("claim: " + claim.sentence())
    print_things(
        f"tiers: {', '.join(recipe.tiers)}    bench run {recipe.called} --tier {next(iter(recipe.tiers), 'smoke')}"
    )


def plan_form(plan: "Plan", store: "Store") -> dict[str, Any]:
    """JSON of `bench plan`."""
    totals: dict[str, int] = {}
    for job in plan.jobs.values():
        totals[job.work] = totals.get(job.work, 0) + 1
    return {
        "jobs": [
            {
                "key": key,
                "type": job.kind(),
                "work": job.work,
                "label": job.label,
                "needs": [needed.key for needed in job.inputs.values()],
                "rows": plan.users[key],
                "cached": store.artifact(key) is not None,
            }
            for key, job in plan.jobs.items()
        ],
        "totals": totals,
        "unsettled": unsettled(plan),
        "damaged": list(_damaged(plan, store)),
    }


def _damaged(plan: "Plan", store: "Store") -> Iterator[str]:
    """A line for each finished job that is not as it was left: a run would tell the same and stop there."""
    for key in plan.jobs:
        try:
            if store.artifact(key) is not None:
                store.verified(key, quickly=True)
        except InputError as error:
            yield f"{plan.names[key]}: {error}"


def unsettled(plan: "Plan") -> list[dict[str, Any]]:
    """Recipes whose claims between planned rows none of their seeds can settle, with the number of these claims."""
    found = []
    for recipe in {planned.recipe.id: planned.recipe for planned in plan.rows}.values():
        rows = {planned.row.id: planned for planned in plan.of(recipe)}
        claims = [claim for claim in recipe.claims if set(claim.rows) <= set(rows)]
        several = any(len(rows[claim.rows[0]].jobs) > 1 for claim in claims)
        if claims and not (several and plan.tier != "smoke"):
            why = "numbers of smoke mean nothing" if plan.tier == "smoke" else "one seed settles nothing"
            found.append({"recipe": recipe.id, "claims": len(claims), "reason": why})
    return found


def print_plan(plan: "Plan", store: "Store", to_stderr: bool = False) -> None:
    """The rows and what each still needs, then the totals."""
    form = plan_form(plan, store)
    rows = []
    for planned in plan.rows:
        mine = [job for job in form["jobs"] if planned.id in job["rows"]]
        waiting = [job for job in mine if not job["cached"]]
        rows.append((planned.id, str(len(mine) - len(waiting)), _counted(waiting) or "nothing"))
    data = plan.rows[0].pipeline.data
    cached = sum(job["cached"] for job in form["jobs"])
    several = "" if plan.tier == "smoke" else "; take several, as --seeds 0,1,2"
    print_things(
        table("", ("row", "jobs done", "to do"), rows, left=3),
        f"{plan.tier} tier on {data.cut('train').name} → {data.cut('val').name}: {len(form['jobs'])} distinct jobs "
        f"({_counted(form['jobs'])}), {cached} done already",
        *(
            f"{each['recipe']}: will settle none of {_claims(each['claims'])}: {each['reason']}{several}"
            for each in form["unsettled"]
        ),
        *(marked("red", "damaged", line) for line in form["damaged"]),
        to_stderr=to_stderr,
    )


def print_budget(budget: "Budget", to_stderr: bool = False) -> None:
    """Seeds of each row, the chance that each claim is settled, and why no more."""
    from benchsuite.engine.progress import clock

    form = budget.form()
    rows = [(row, " ".join(map(str, seeds)) or "none: no claim that fits the budget needs it")
            for row, seeds in form["rows"].items()]  # fmt: skip
    claims = [
        (f"{each['recipe']}: {each['claim']}", f"{each['chance']:.0%}", each["reason"]) for each in form["claims"]
    ]
    uncounted, guessed = ", ".join(form["uncounted"]), ", ".join(form["guessed"])
    better = " ".join(f"--takes {work}=20m" for work in form["guessed"])
    print_things(
        table("", ("row", "seeds"), rows, left=2),
        table("", ("claim", "chance to be settled", "left out because"), claims, left=1),
        f"{clock(budget.estimate)} of {clock(budget.seconds)}, jobs one after the other; {form['expected']:.1f} of "
        f"{len(claims)} claims expected to be settled",
        *([f"not counted, for no such job is in the store: {uncounted}"] if uncounted else []),
        *(
            [
                f"times guessed from unlike jobs in the store, of another tier perhaps: {guessed}; if you know better, say "
                f"{better}"
            ]
            if guessed
            else []
        ),
        to_stderr=to_stderr,
    )


def print_needs(found: "Sequence[Need]") -> None:
    """A line a training, in GiB, and what to do about those that take too much."""
    from benchsuite.verbs.memory import GIB, lines

    rows = []
    for need in found:
        sizes = (f"{size / GIB:.2f}" for size in vars(need.found).values())
        rows.append((need.name, f"{need.images} of {need.frame[0]}×{need.frame[1]}", *sizes))
    columns = "training", "images at once", "weights", "momentum", "gradients", "kept for backward", "most at once"
    print_things(
        table("GiB on each device", columns, rows, left=2),
        *(line for need in found for line in lines(need)),
        "estimated from shapes in float32; kernels, the allocator and matching come on top",
    )


def _claims(count: int) -> str:
    return f"its {count} claims" if count > 1 else "its one claim"


def _counted(jobs: Sequence[Mapping[str, Any]]) -> str:
    names = [str(job["work"]).lower() for job in jobs]
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


def print_inspect(rows: Sequence[Mapping[str, Any]]) -> None:
    """Costs per row, and the difference to the first."""
    first = rows[0]["parameters"]
    lines = []
    otherwise = any("macs_ptflops_224" in row for row in rows)
    for row in rows:
        if row["parameters"] is None:
            lines.append([row["id"], "–", "–", "–", "–", str(row["reason"])])
            continue
        shape = "×".join(str(side) for side in row["input"])
        anchors = "–" if row["anchors"] is None else f"{row['anchors']:,}"
        counts = [f"{row['parameters']:,}", f"{row['parameters'] - first:+,}", _macs(row["macs"])]
        lines.append([row["id"], *counts, anchors, shape])
        if otherwise:
            lines[-1].append(f"{row['macs_ptflops_224'] / 1e9:.3f} G")
    heads = ["row", "parameters", "to the first", "MACs", "anchors", "input"]
    print_things(table("", [*heads, *(["ptflops’ MACs at 224"] if otherwise else [])], lines))


def _macs(macs: int) -> str:
    return f"{macs / 1e9:.2f} G" if macs >= 1e9 else f"{macs / 1e6:.1f} M"


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
        print_things(marked("yellow", "note", f"{found['dropped']} boxes of the truth have no area and were left out"))
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
