"""What is printed of tables before they are run, by `show`, `plan` and `inspect`: a JSON form and a table of each."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchsuite.errors import InputError
from benchsuite.recipe.recipe import Published, Recipe, Spread
from benchsuite.verbs.terminal import marked, print_things, table

if TYPE_CHECKING:
    from benchsuite.engine.store import Store
    from benchsuite.verbs.budget import Budget
    from benchsuite.verbs.memory import Need
    from benchsuite.verbs.plan import Plan


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
    from benchsuite.verbs.plan import unreached

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
        "unreached": unreached(plan),
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
        *(marked("yellow", "note", line) for line in form["unreached"]),
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
    guess = "times guessed from unlike jobs in the store, of another tier perhaps"
    uncounted, guessed = ", ".join(form["uncounted"]), ", ".join(form["guessed"])
    better = " ".join(f"--takes {work}=20m" for work in form["guessed"])
    print_things(
        table("", ("row", "seeds"), rows, left=2),
        table("", ("claim", "chance to be settled", "left out because"), claims, left=1),
        f"{clock(budget.estimate)} of {clock(budget.seconds)}, jobs one after the other; {form['expected']:.1f} of "
        f"{len(claims)} claims expected to be settled",
        *([f"not counted, for no such job is in the store: {uncounted}"] if uncounted else []),
        *([f"{guess}: {guessed}; if you know better, say {better}"] if guessed else []),
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
