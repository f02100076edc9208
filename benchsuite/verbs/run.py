"""Run a plan and write what came of it: results file, table, plot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchsuite.data.batch import Share
from benchsuite.disk import outgoing
from benchsuite.engine.job import Execution
from benchsuite.engine.progress import Reporter, reporter
from benchsuite.engine.schedule import Outcome, run_jobs
from benchsuite.engine.slots import Slots
from benchsuite.engine.store import Store
from benchsuite.pipelines.steps import Evaluation, Scoring, Training
from benchsuite.recipe.recipe import Recipe
from benchsuite.report.results import Results, load
from benchsuite.report.saving import require_place, save
from benchsuite.verbs.collect import collect, unfilled
from benchsuite.verbs.plan import Plan, require_all


@dataclass(frozen=True)
class RunOptions:
    """How to run, and where results go; nothing here changes a number. On what to run, the plan says."""

    slots: int | None = None
    out: Path = Path("results")
    name: str = ""
    force: bool = False
    checkpoint_every: int = 500
    execution: Execution = field(default_factory=Execution)


@dataclass(frozen=True)
class Ran:
    """What came of a run: results and their files by recipe, what failed, and the files that jobs made for the user,
    by what they are. `notes` are what should be known of the tables, `onward` is what to run next."""

    results: Mapping[str, Results]
    files: Mapping[str, list[Path]]
    outcome: Outcome
    products: Mapping[str, Path] = field(default_factory=dict)
    notes: Sequence[str] = ()
    onward: str = ""

    @property
    def exit_code(self) -> int:
        """0 all done, 1 a job failed, 2 if for wrong input."""
        return self.outcome.exit_code

    def form(self) -> dict[str, Any]:
        """JSON of `bench run`."""
        return {
            "files": {recipe: [file.as_posix() for file in files] for recipe, files in self.files.items()},
            "products": {name: file.as_posix() for name, file in self.products.items()},
            "failed": [result.message for result in self.outcome.failures],
            "notes": list(self.notes),
            "results": {each: self.results[each].model_dump(mode="json", by_alias=True) for each in self.results},
        }

    def show(self) -> None:
        """Print the tables, what jobs made for the user, what failed, and one line on the files and on how to go on. Of
        a smoke run, whose numbers mean nothing, the values alone: differences and claims are for `bench compare`."""
        from benchsuite.report.compare import compare
        from benchsuite.report.tables import render
        from benchsuite.verbs.terminal import marked, print_things

        tier = next(iter(self.results.values())).tier
        render(compare(list(self.results.values())), values_only=tier == "smoke")
        for name, file in self.products.items():
            print_things(f"{name}: {file.as_posix()}")
        print_things(*(marked("yellow", "note", line) for line in self.notes))
        for result in self.outcome.failures:
            print_things(marked("red", "failed", result.message))
        written = " ".join(file.as_posix() for files in self.files.values() for file in files)
        onward = "" if self.outcome.failures else self.onward
        print_things(f"written: {written}; {f'go on with: {onward}' if onward else f'see: bench compare {written}'}")


def run_plan(
    plan: Plan, store: Store | None = None, options: RunOptions | None = None, progress: Reporter | None = None
) -> Ran:
    """Do every job of the plan that the store does not hold, then write results.

    MissingData before anything starts if data or weights are not here; InputError if they do not do, or if results
    could not be written in the end. A failed job does not stop the others; what was measured is written all the same,
    and `exit_code` is not 0.
    """
    store, options = store or Store(), options or RunOptions()
    require_all(plan, store)
    per_job = options.execution.per_job
    slots = Slots.on(plan.device, options.slots, per_job)
    for key, job in plan.jobs.items():
        if isinstance(job, Training) and store.artifact(key) is None:
            Share(0, per_job, job.solver.micro_batch).parts(job.solver.batch)
    recipes = {planned.recipe.id: planned.recipe for planned in plan.rows}
    name = options.name or plan.data_name
    for recipe in recipes.values():
        require_place(collect(plan, recipe, store), options.out, name or None, options.force)
    jobs = list(plan.jobs.values())
    outcome = run_jobs(
        jobs,
        store,
        slots=slots,
        progress=progress or reporter(),
        checkpoint_every=options.checkpoint_every,
        execution=options.execution,
        names=plan.names,
        judges={
            job.predict.train.key: job
            for job in plan.jobs.values()
            if isinstance(job, Scoring) and isinstance(job.predict, Evaluation)
        },
    )
    results = {recipe_id: collect(plan, recipe, store, outcome) for recipe_id, recipe in recipes.items()}
    files = {recipe_id: write(found, options.out, name, options.force) for recipe_id, found in results.items()}
    made = {plan.names[key]: store.folder(key) / job.product for key, job in plan.jobs.items() if job.product}
    products = {name: file for name, file in made.items() if file.exists()}
    notes = [line for recipe in recipes.values() for line in unfilled(plan, recipe, store)]
    return Ran(results, files, outcome, products, notes, _onward(plan, list(recipes.values())))


def _onward(plan: Plan, recipes: Sequence[Recipe]) -> str:
    """The command for the next tier, where every recipe has it."""
    tier = {"smoke": "mini", "mini": "paper"}.get(plan.tier)
    if tier is None or not all(tier in recipe.tiers for recipe in recipes):
        return ""
    same = [option for option, said in (("--data", plan.data_name), ("--set", plan.overrides)) if said]
    as_here = f", with {' and '.join(same)} as here" if same else ""
    return f"bench run {' '.join(recipe.called for recipe in recipes)} --tier {tier}{as_here}"


def write(results: Results, folder: Path, name: str, force: bool) -> list[Path]:
    """Results file, table and figure, merged with what is there; InputError as `save`."""
    from benchsuite.report.compare import compare
    from benchsuite.report.draw import save_figure
    from benchsuite.report.figures import default
    from benchsuite.report.tables import markdown

    file = save(results, folder, name or None, force)
    merged = load(file)
    table = file.with_suffix(".md")
    with outgoing(table) as scratch:
        scratch.write_text(markdown(compare([merged])), encoding="utf-8")
    return [file, table, save_figure(default(merged), file.with_suffix(".png"))]
