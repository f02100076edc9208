"""What a run measured, gathered from the store into a results file's form."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchsuite.engine.environment import environment
from benchsuite.engine.job import Job
from benchsuite.engine.schedule import Outcome
from benchsuite.engine.store import Store
from benchsuite.errors import nearest
from benchsuite.metrics.judged import Floats
from benchsuite.metrics.metric import Interval
from benchsuite.pipelines.steps import read_draws
from benchsuite.recipe.recipe import Claim, Recipe, Row
from benchsuite.report.results import (
    ClaimRecord,
    DataRecord,
    ImageInterval,
    ImagesTogether,
    Measured,
    Results,
    RowRecord,
    RowStatus,
)
from benchsuite.settings import Json, content_key, walk
from benchsuite.verbs.plan import Plan, PlannedRow


def collect(plan: Plan, recipe: Recipe, store: Store, outcome: Outcome | None = None) -> Results:
    """The results of one recipe as far as the store holds them; nothing is run."""
    planned = {each.row.id: each for each in plan.of(recipe)}
    first = next(iter(planned.values()))
    seeds = tuple(dict.fromkeys(seed for each in planned.values() for seed in each.jobs))
    val = first.pipeline.data.cut("val")
    train = first.pipeline.data.cut("train")
    own = plan.tier == "paper" and not plan.data_name and not plan.overrides
    known = _environments(
        [job for each in planned.values() for last in each.jobs.values() for job in last.values()], store
    )
    return Results(
        recipe=recipe.id,
        paper=recipe.paper,
        table=recipe.table,
        title=recipe.title,
        tier=plan.tier,
        data=DataRecord(
            name=val.name, fingerprint=content_key([train.fingerprint(), val.fingerprint()]), papers_own=own
        ),
        protocol=first.pipeline.protocol,
        overrides=plan.overrides,
        seeds=seeds,
        columns=recipe.columns,
        rows=tuple(_row(recipe, row, planned.get(row.id), seeds, store, outcome) for row in recipe.rows),
        claims=tuple(_claim(plan, recipe, claim, store) for claim in recipe.claims),
        environment=known[-1] if known else environment(),
        earlier=tuple(known[:-1]),
    )


def unfilled(plan: Plan, recipe: Recipe, store: Store) -> list[str]:
    """A line for each column whose number no finished job of the table left, though its name asks for one: it is
    misspelt, or of another protocol. None while nothing is finished."""
    planned = plan.of(recipe)
    left = {name for each in planned for jobs in each.jobs.values() for name in _metrics(jobs, store)}
    offered = left | {name for job in planned[0].pipeline.jobs(0, plan.device).values() for name in job.measures}
    return [
        f"{recipe.id}: no job left a number '{column.number}' for the column '{column.id}'; "
        f"{nearest(column.number, [name for name in offered if '/' not in name])}; correct the column, or say "
        "`measures: null` where only the paper fills it"
        for column in recipe.columns
        if left and column.number is not None and column.number not in left
    ]


def _environments(jobs: Sequence[Job], store: Store) -> list[Mapping[str, Json]]:
    """What the numbers were made with, each once: of the artifacts, for they may be older than this run."""
    found: list[Mapping[str, Json]] = []
    for key in dict.fromkeys(made.key for job in jobs for made in _chain({"": job})):
        known = store.record(key)["environment"] if store.artifact(key) is not None else None
        if isinstance(known, Mapping) and known not in found:
            found.append(known)
    return found


def _row(
    recipe: Recipe, row: Row, planned: PlannedRow | None, seeds: tuple[int, ...], store: Store,
    outcome: Outcome | None,
) -> RowRecord:  # fmt: skip
    common: dict[str, Any] = {
        "id": row.id, "label": row.label, "role": row.role, "cite": row.cite, "published": row.published,
        "baseline": recipe.baseline_of(row),
    }  # fmt: skip
    if row.role == "quoted":
        return RowRecord(**common, status="quoted")
    if planned is None:
        return RowRecord(**common, status="not_run")
    metrics = {seed: _metrics(jobs, store) for seed, jobs in planned.jobs.items()}
    measured = {
        column.id: Measured.of([metrics.get(seed, {}).get(column.number or "") for seed in seeds])
        for column in recipe.columns
    }
    done = {seed for seed, found in metrics.items() if found}
    keys = tuple(job.key for seed in sorted(done) for job in planned.jobs[seed].values())
    # The store may lack what detections were made with: a capsule brings no weights.
    made = [job for seed in done for job in _chain(planned.jobs[seed]) if store.artifact(job.key)]
    devices = dict.fromkeys(_device(job.key, store) for job in [job for job in made if job.on_device] or made)
    status: RowStatus = "done" if len(done) == len(seeds) else "partial" if done else "not_run"
    reason = _reason(planned, outcome)
    return RowRecord(
        **common,
        status="failed" if reason and not done else status,
        measured={column: cell for column, cell in measured.items() if cell.mean is not None},
        settings=content_key([job.key for job in planned.last(0).values()]),
        trained=planned.trained,
        keys=keys,
        device=", ".join(device for device in devices if device),
        deviations=tuple(dict.fromkeys(text for part in walk(planned.pipeline) for text in part.deviations())),
        reason=reason,
    )


def _metrics(jobs: Mapping[str, Job], store: Store) -> dict[str, float | None]:
    """Metrics of all last jobs together; empty unless all are done."""
    found: dict[str, float | None] = {}
    for job in jobs.values():
        if store.artifact(job.key) is None:
            return {}
        found |= store.verified(job.key).metrics
    return {name: value for name, value in found.items() if not isinstance(value, (dict, list, str))}


def _chain(jobs: Mapping[str, Job]) -> list[Job]:
    """The jobs and everything they were made from, once each, inputs first."""
    found: dict[str, Job] = {}
    for job in jobs.values():
        found |= {needed.key: needed for needed in _chain(job.inputs)}
        found[job.key] = job
    return list(found.values())


def _device(key: str, store: Store) -> str:
    record = store.record(key)
    known = record.get("environment")
    known = known if isinstance(known, Mapping) else {}
    if str(record.get("device")).startswith("cuda"):
        gpus = known.get("gpus")
        return str(gpus[0]) if isinstance(gpus, list) and gpus else "GPU"
    return f"{known.get('cpu', 'CPU')}, {record.get('threads')} threads"


def _reason(planned: PlannedRow, outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    keys = [job.key for jobs in planned.jobs.values() for job in _chain(jobs)]
    failed = [outcome.results[key] for key in keys if key in outcome.results and outcome.results[key].exit_code]
    return failed[0].message if failed else ""


def _claim(plan: Plan, recipe: Recipe, claim: Claim, store: Store) -> ClaimRecord:
    images, drawn = [], {}
    for (recipe_id, its_claim, seed), job in plan.differences.items():
        if recipe_id == recipe.id and its_claim == claim and store.artifact(job.key) is not None:
            artifact = store.verified(job.key)
            if artifact.metrics:
                images.append(ImageInterval.model_validate({"seed": seed, **artifact.metrics}))
                drawn[seed] = read_draws(artifact)["values"]
    return ClaimRecord(**claim.model_dump(), images=tuple(images), images_together=_together(drawn))


def _together(drawn: Mapping[int, Floats]) -> ImagesTogether | None:
    """Over images, of the mean over seeds: a draw is of the same images under every seed."""
    if len({len(values) for values in drawn.values()}) != 1:
        return None
    interval = Interval.of(np.mean(list(drawn.values()), axis=0))
    return None if interval is None else ImagesTogether(seeds=tuple(drawn), low=interval.low, high=interval.high)
