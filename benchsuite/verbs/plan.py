"""Recipes × rows × seeds, resolved into unique jobs in dependency order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchsuite.data.split import Data, opened
from benchsuite.engine.environment import device_name
from benchsuite.engine.job import Job
from benchsuite.engine.store import Store
from benchsuite.errors import InputError
from benchsuite.pipelines.pipeline import Pipeline
from benchsuite.pipelines.steps import Training
from benchsuite.recipe.explain import explain
from benchsuite.recipe.form import seeds_in
from benchsuite.recipe.recipe import Claim, Recipe, Row
from benchsuite.settings import content_key, find, walk


@dataclass(frozen=True)
class PlannedRow:
    """A row of a recipe at one tier: its resolved pipeline, its last jobs for each seed, and what timings are of."""

    recipe: Recipe
    row: Row
    pipeline: Pipeline
    seeds: tuple[int, ...]
    device: str

    @property
    def id(self) -> str:
        """`recipe/row`."""
        return f"{self.recipe.id}/{self.row.id}"

    @cached_property
    def jobs(self) -> Mapping[int, Mapping[str, Job]]:
        """The last jobs of each seed, by name."""
        return {seed: self.last(seed) for seed in self.seeds}

    @cached_property
    def trained(self) -> str:
        """The content key of its trainings under seed 0: equal for rows that are two uses of one network, "" for a row
        without any."""
        jobs = {job.key: job for last in self.last(0).values() for job in _with_inputs(last)}
        keys = [key for key, job in jobs.items() if isinstance(job, Training)]
        return content_key(keys) if keys else ""

    def last(self, seed: int) -> Mapping[str, Job]:
        """The last jobs of a seed, without those that measure what no column of the table asks for."""
        asked = {column.number for column in self.recipe.columns}
        jobs = self.pipeline.jobs(seed, self.device)
        return {name: job for name, job in jobs.items() if not job.measures or asked & set(job.measures)}


@dataclass(frozen=True)
class Plan:
    """What will be run, at one tier, on `device`: cpu, cuda, cuda:N or auto."""

    tier: str
    rows: tuple[PlannedRow, ...]
    overrides: tuple[str, ...] = ()
    data_name: str = ""
    device: str = "auto"

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """Unique jobs by key, every job after its inputs."""
        last = [job for planned in self.rows for jobs in planned.jobs.values() for job in jobs.values()]
        unique: dict[str, Job] = {}
        for job in (*last, *self.differences.values()):
            unique |= {each.key: each for each in _with_inputs(job) if each.key not in unique}
        return unique

    @cached_property
    def differences(self) -> dict[tuple[str, Claim, int], Job]:
        """The jobs that tell how sure each claim's difference is over images, by recipe, claim and seed."""
        jobs: dict[tuple[str, Claim, int], Job] = {}
        for recipe in {planned.recipe.id: planned.recipe for planned in self.rows}.values():
            rows = {planned.row.id: planned for planned in self.of(recipe)}
            numbers = {column.id: column.number for column in recipe.columns}
            for claim in recipe.claims:
                first, second = (rows.get(row_id) for row_id in claim.rows)
                number = numbers[claim.on]
                if first is None or second is None or number is None:
                    continue
                for seed in [seed for seed in first.seeds if seed in second.seeds]:
                    if job := first.pipeline.difference(second.pipeline, seed, number):
                        jobs[recipe.id, claim, seed] = job
        return jobs

    @cached_property
    def users(self) -> dict[str, list[str]]:
        """Which rows (`recipe/row`) each job serves."""
        users: dict[str, list[str]] = {key: [] for key in self.jobs}
        for planned in self.rows:
            keys = {each.key for last in planned.jobs.values() for job in last.values() for each in _with_inputs(job)}
            for key in keys:
                users[key].append(planned.id)
        for (recipe_id, claim, _), job in self.differences.items():
            for each in _with_inputs(job):
                if not users[each.key] and each is not job:  # a resampling serves the row that it resamples
                    users[each.key] = [user for made in each.inputs.values() for user in users[made.key]]
            users[job.key] = list(dict.fromkeys([*users[job.key], *(f"{recipe_id}/{row}" for row in claim.rows)]))
        return users

    @cached_property
    def names(self) -> dict[str, str]:
        """How each job is called while it runs: the rows it serves and its label."""
        names = {}
        for key, job in self.jobs.items():
            first, *others = self.users[key]
            names[key] = f"{first}{f' +{len(others)}' if others else ''} {job.label}"
        return names

    def of(self, recipe: Recipe) -> tuple[PlannedRow, ...]:
        """The planned rows of one recipe."""
        return tuple(planned for planned in self.rows if planned.recipe.id == recipe.id)


def _with_inputs(job: Job) -> Iterator[Job]:
    for needed in job.inputs.values():
        yield from _with_inputs(needed)
    yield job


def make_plan(
    recipes: Sequence[Recipe],
    tier: str,
    *,
    rows: Sequence[str] = (),
    seeds: Sequence[int] = (),
    data: Path | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    timed_on: str = "",
) -> Plan:
    """Resolve the rows to run (all by default) and list their jobs.

    `data` is a folder whose dataset replaces the recipe's, `overrides` are `path=value` texts, `device` is where it
    will run: timings are kept under its name, or are those that were taken on the device named `timed_on`.
    InputError names file, line and key of what does not fit; two rows of a recipe that come out equal are an error
    unless the recipe says `same_as`.
    """
    look = None if data is None else _looking_into(data, overrides)
    named = timed_on or device_name(device)
    planned: list[PlannedRow] = []
    for recipe in recipes:
        chosen = [row for row in recipe.rows if row.role == "run" and (not rows or row.id in rows)]
        its_seeds = seeds_in(list(seeds), "--seeds") if seeds else recipe.seeds_of(tier)
        for row in chosen:
            pipeline = resolve(recipe, row, tier, look and look(recipe, row, tier), overrides)
            planned.append(PlannedRow(recipe, row, pipeline, its_seeds, named))
        _refuse_unlike_rows([each for each in planned if each.recipe is recipe])
        _refuse_equal_rows([each for each in planned if each.recipe is recipe])
    for name in rows:
        if not any(each.row.id == name for each in planned):
            recipes[0].row(name)
            raise InputError(f"--rows {name}: is quoted from elsewhere, there is nothing to run; leave it out")
    if not planned:
        raise InputError(f"{', '.join(each.id for each in recipes)}: every row is quoted, there is nothing to run")
    name = "" if data is None else data.resolve().name
    return Plan(tier, tuple(planned), tuple(overrides), name, device)


def _looking_into(folder: Path, overrides: Sequence[str]) -> Callable[[Recipe, Row, str], Mapping[str, Any] | None]:
    """What a folder puts in the place of a row's data, which is for the row's kind of pipeline to say."""
    opened = cache(lambda pipeline: pipeline.splits_of(folder))

    def look(recipe: Recipe, row: Row, tier: str) -> Mapping[str, Any] | None:
        try:
            kind = recipe.compose(row, tier, None, overrides).value.get("kind")
            pipeline = find(Pipeline, kind)  # type: ignore[type-abstract]  # looked up, not made
        except ValueError:
            return None  # resolving the row says what is wrong with its kind, and where it is written
        splits: Mapping[str, Any] = opened(pipeline)
        return splits

    return look


def resolve(
    recipe: Recipe,
    row: Row,
    tier: str,
    data: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> Pipeline:
    """The settings of one row, validated."""
    document = recipe.compose(row, tier, data, overrides)
    try:
        return Pipeline.model_validate(document.value)
    except ValidationError as error:
        raise explain(error, document, Pipeline) from None


def _refuse_unlike_rows(planned: Sequence[PlannedRow]) -> None:
    """InputError where two rows of a table are of other data or rules: their numbers would stand side by side."""
    for each in planned[1:]:
        first, other = planned[0].pipeline, each.pipeline
        for what, mine, theirs in (
            ("protocol", first.protocol, other.protocol),
            *((split, _told(first.data.cut(split)), _told(other.data.cut(split))) for split in ("train", "val")),
        ):
            if mine != theirs:
                raise InputError(
                    f"{each.recipe.id}: rows '{planned[0].row.id}' and '{each.row.id}' are of unlike {what} ({mine} "
                    f"and {theirs}); give all rows of a table the same"
                )


def _told(data: Data) -> str:
    return f"{data.name}, {data.identity()}"


def _refuse_equal_rows(planned: Sequence[PlannedRow]) -> None:
    seen: dict[frozenset[str], Row] = {}
    for each in planned:
        keys = frozenset(job.key for last in each.jobs.values() for job in last.values())
        twin = seen.setdefault(keys, each.row)
        if twin is not each.row and each.row.same_as != twin.id:
            raise InputError(
                f"{each.recipe.id}: rows '{twin.id}' and '{each.row.id}' come out equal; change one, or say "
                f"`same_as: {twin.id}` in the second"
            )


def unreached(plan: Plan) -> list[str]:
    """A line for each recipe with a training that ends before its rate falls for the last time, as where --set changed
    iterations alone. Smoke is too short for any schedule."""
    found: dict[str, str] = {}
    for key, job in plan.jobs.items() if plan.tier != "smoke" else ():
        if isinstance(job, Training):
            solver = job.solver
            if beyond := [drop for drop in solver.drops if drop >= solver.iterations]:
                found.setdefault(
                    plan.users[key][0].partition("/")[0],
                    f"solver.drops {beyond} lie beyond its {solver.iterations:,} iterations, and never come; for "
                    f"instance --set 'solver.drops=[{solver.iterations * 4 // 5}]'",
                )
    return [f"{recipe}: {line}" for recipe, line in found.items()]


def require_all(plan: Plan, store: Store | None = None) -> None:
    """MissingData, with what to download, if a dataset or weights file that the plan needs is not here; InputError if
    what is here does not do for a job that is not in the store yet: annotations with a mistake, too few images."""
    for planned in plan.rows:
        for settings in walk(planned.pipeline):
            settings.require()
    for key, job in plan.jobs.items():
        if store is None or store.artifact(key) is None:
            for name in type(job).model_fields:
                if isinstance(data := getattr(job, name), Data):
                    opened(data)
            job.require()
