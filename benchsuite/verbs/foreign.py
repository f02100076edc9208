"""Somebody else's detections as a row of a table: scored by the same rules, held against the table's own rows."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from benchsuite.data.dataset import DetectionSet
from benchsuite.data.split import opened
from benchsuite.disk import LARGE, read_within
from benchsuite.engine.environment import version
from benchsuite.engine.job import Job
from benchsuite.engine.progress import Reporter
from benchsuite.engine.schedule import run_jobs
from benchsuite.engine.slots import Slots
from benchsuite.engine.store import Store
from benchsuite.errors import InputError
from benchsuite.metrics.coco_results import oddities
from benchsuite.metrics.judged import Floats
from benchsuite.metrics.metric import Interval
from benchsuite.pipelines.analysis import Foreign
from benchsuite.pipelines.detection import Detecting, Detection, Resample, Score, found
from benchsuite.pipelines.pipeline import Pipeline
from benchsuite.pipelines.steps import read_draws
from benchsuite.recipe.recipe import Column
from benchsuite.report.results import Against, ForeignFile, ForeignRecord, Measured, Results, RowRecord, load
from benchsuite.report.saving import file_of, require_place
from benchsuite.settings import content_key, flat_errors
from benchsuite.verbs.collect import collect
from benchsuite.verbs.plan import Plan
from benchsuite.verbs.run import write
from benchsuite.verbs.score import read_truth

CURE = "give a COCO results JSON"


@dataclass(frozen=True)
class Row:
    """What somebody calls a row: its name, a file of COCO results for each seed from `seed` on; for the asking, the
    annotations and the protocol that they are for; and whether it takes the place of one of that name."""

    name: str
    files: tuple[Path, ...]
    seed: int = 0
    truth: Path | None = None
    protocol: str = ""
    anew: bool = False


def add_row(plan: Plan, store: Store, out: Path, name: str, row: Row) -> list[Path]:
    """Score detections and add them to the results of the plan's one recipe, as a row, or as more seeds of the foreign
    row of that name; the files that were written.

    InputError, one line, where the name is a row's of the table, the seeds are none of the table's, the files do not
    fit the split (images, classes) or its rules, or the results there are of other settings.
    """
    recipe, name = plan.rows[0].recipe, name or plan.data_name
    if any(planned.recipe.id != recipe.id for planned in plan.rows):
        raise InputError("add-row: is for one recipe at a time; name one")
    try:
        RowRecord(id=row.name, role="foreign", status="not_run")
    except ValidationError as error:
        raise InputError(f"--name {row.name}: {flat_errors(error)[0][1]}") from None
    if any(each.id.casefold() == row.name.casefold() for each in recipe.rows):
        raise InputError(f"--name {row.name}: is a row of {recipe.id} itself; choose another name")
    table = collect(plan, recipe, store)
    file = file_of(table, out, name or None)
    before: RowRecord | None = None
    if file.exists():
        known = load(file)
        plan = replace(plan, rows=tuple(replace(each, seeds=known.seeds) for each in plan.rows))
        table = collect(plan, recipe, store)
        before = next((each for each in known.rows if each.id == row.name and not row.anew), None)
    require_place(table, out, name or None)
    added = _scored(plan, table, store, row, before)
    whole = Results.model_validate({**dict(table), "rows": (*table.rows, added)})
    return write(whole, out, name, force=False)


def foreign_jobs(row: RowRecord, pipeline: Pipeline) -> dict[int, Foreign]:
    """The detections behind a foreign row of results, by seed; the files themselves need not be here any more."""
    files, data = row.foreign.files if row.foreign else (), pipeline.data.cut("val")
    return {each.seed: Foreign(sha256=each.sha256, seed=each.seed, file=Path(each.name), data=data) for each in files}


def resamples(one: Against, row: RowRecord, plan: Plan) -> list[Resample]:
    """The draws that a difference of a foreign row to another is counted from; none where that row is not planned."""
    planned = next((each for each in plan.rows if each.row.id == one.row), None)
    if planned is None or not isinstance(planned.pipeline, Detection):
        return []
    pipeline = planned.pipeline
    number = next(column.number for column in planned.recipe.columns if column.id == one.on) or ""
    judged: list[Detecting] = [*foreign_jobs(row, pipeline).values(), *map(pipeline.predict, one.seeds)]
    return [Resample(predict=job, metric=pipeline.metric, column=number) for job in judged]


def odd(plan: Plan, row: RowRecord, store: Store) -> Iterator[str]:
    """What looks odd of a foreign row's detections, by file."""
    pipeline = plan.rows[0].pipeline
    data: DetectionSet = opened(pipeline.data.cut("val"))
    for job in foreign_jobs(row, pipeline).values():
        for told in oddities(found(store.verified(job.key)), data):
            yield f"{job.file}: {told}"


def _scored(plan: Plan, table: Results, store: Store, row: Row, before: RowRecord | None) -> RowRecord:
    """The row, with the seeds that it had before, and how it stands against the rows of the table whose detections are
    in the store."""
    pipeline = plan.rows[0].pipeline
    if not isinstance(pipeline, Detection):
        raise InputError(f"{table.recipe}: makes no detections; choose a detection table")
    if pipeline.metric.masks:
        raise InputError(f"{table.recipe}: scores masks, and a foreign row has boxes; choose a table of boxes")
    if row.protocol and row.protocol != table.protocol:
        raise InputError(f"--protocol {row.protocol}: {table.recipe} is scored by {table.protocol}; leave it out if so")
    theirs = _given(row, table, pipeline)
    earlier = foreign_jobs(before, pipeline) if before is not None else {}
    theirs = dict(sorted((_kept(row, earlier, theirs, store) | theirs).items()))
    own = _at_hand(plan, store)
    numbers = {column.id: column.number for column in table.columns if column.number in pipeline.metric.paired_columns}
    judged: list[Detecting] = [*theirs.values(), *(job for jobs in own.values() for job in jobs.values())]
    scores = {seed: Score(predict=job, metric=pipeline.metric) for seed, job in theirs.items()}
    drawn = {
        (job.key, column): Resample(predict=job, metric=pipeline.metric, column=numbers[column])
        for job in judged for column in _compared(table) if column in numbers
    }  # fmt: skip
    _do([*judged, *scores.values(), *drawn.values()], store)
    draws = {which: read_draws(store.verified(job.key))["values"] for which, job in drawn.items()}
    metrics = {seed: store.verified(job.key).metrics for seed, job in scores.items()}
    measured = {column.id: _cell(column, table, metrics) for column in table.columns}
    files = tuple(ForeignFile(seed=seed, name=job.file.name, sha256=job.sha256) for seed, job in theirs.items())
    against = [
        each for other, jobs in own.items() for column in _compared(table) if column in numbers
        for each in _against(other, column, jobs, theirs, draws)
    ]  # fmt: skip
    told = ", ".join(f"{each.name} (sha256 {each.sha256[:12]}, seed {each.seed})" for each in files)
    scorer = f"benchsuite {version('benchsuite')}"
    return RowRecord(
        id=row.name,
        role="foreign",
        status="done" if len(theirs) == len(table.seeds) else "partial",
        cite=f"foreign: {told}; scored by {scorer}, not trained here",
        measured={column: cell for column, cell in measured.items() if cell.mean is not None},
        settings=content_key([job.key for job in scores.values()]),
        keys=tuple(job.key for job in scores.values()),
        foreign=ForeignRecord(files=files, scored_by=scorer, against=tuple(against)),
    )


def _kept(row: Row, earlier: Mapping[int, Foreign], new: dict[int, Foreign], store: Store) -> dict[int, Foreign]:
    """The detections of the row's other seeds; InputError where they are not here, or a file is of two seeds."""
    others = {seed: job for seed, job in earlier.items() if seed not in new}
    whose: dict[str, int] = {}
    for seed, job in (others | new).items():
        if whose.setdefault(job.sha256, seed) != seed:
            raise InputError(
                f"{job.file}: is the file of seed {whose[job.sha256]} too; each seed has detections of its own"
            )
        if seed in others and store.artifact(job.key) is None:
            raise InputError(
                f"--name {row.name}: has seed {seed} of {job.file} already, which is not in the store {store.root}; "
                "give that file again too"
            )
    return others


def _given(row: Row, table: Results, pipeline: Detection) -> dict[int, Foreign]:
    """The files as jobs, by seed; InputError where they are of other seeds, images or classes."""
    data, jobs = pipeline.data.cut("val"), {}
    ours: DetectionSet = opened(data)
    if row.truth is not None:
        _require_same_truth(row.truth, ours)
    for seed, file in enumerate(row.files, row.seed):
        if seed not in table.seeds:
            known = ", ".join(map(str, table.seeds))
            raise InputError(f"{file}: would be of seed {seed}, and the table has {known}; choose --seed among them")
        digest = hashlib.sha256(read_within(file, CURE, LARGE)).hexdigest()
        jobs[seed] = Foreign(sha256=digest, seed=seed, file=file, data=data)
        seen = jobs[seed].read(ours)
        empty = np.setdiff1d(np.repeat(np.arange(len(ours)), np.diff(ours.offsets)), seen.images(ours))
        if row.truth is None and 2 * len(empty) > len(ours):
            raise InputError(
                f"{file}: detects nothing on {len(empty)} of the {len(ours)} images of {ours.name}; detect on all of "
                "them, or give the annotations that it is for, --truth FILE, if so it is"
            )
    return jobs


def _require_same_truth(file: Path, ours: DetectionSet) -> None:
    """InputError where the annotations that detections are for are not those of the table's split."""
    theirs, _ = read_truth(file)
    for what, told in (("images", _images), ("classes", _classes), ("boxes", _boxes)):
        if unlike := set(told(theirs)) ^ set(told(ours)):
            raise InputError(
                f"{file}: has other {what} than {ours.name} ({min(unlike)}, say); detect on the table's split"
            )


def _images(data: DetectionSet) -> Iterator[str]:
    for id_, name in zip(data.image_ids.tolist(), data.file_names, strict=True):
        yield f"{id_}, {Path(name).name}"


def _classes(data: DetectionSet) -> Iterator[str]:
    for id_, name in zip(data.category_ids.tolist(), data.classes, strict=True):
        yield f"{id_}, {name}"


def _boxes(data: DetectionSet) -> Iterator[str]:
    owners = np.repeat(data.image_ids, np.diff(data.offsets)).tolist()
    kinds = [data.classes[label] for label in data.labels]
    for image, kind, box in zip(owners, kinds, data.xywh.round(2).tolist(), strict=True):
        yield f"{kind} at {box} on image {image}"


def _at_hand(plan: Plan, store: Store) -> dict[str, dict[int, Detecting]]:
    """The detections of the table's own rows that the store holds, by row and seed."""
    rows: dict[str, dict[int, Detecting]] = {}
    for planned in plan.rows:
        if isinstance(planned.pipeline, Detection):
            jobs = {seed: planned.pipeline.predict(seed) for seed in planned.seeds}
            held = {seed: job for seed, job in jobs.items() if store.artifact(job.key) is not None}
            rows |= {planned.row.id: {**held}} if held else {}
    return rows


def _compared(table: Results) -> list[str]:
    """The columns that claims are about, or the first."""
    return list(dict.fromkeys(claim.on for claim in table.claims)) or [table.columns[0].id]


def _do(jobs: Sequence[Job], store: Store) -> None:
    outcome = run_jobs(list({job.key: job for job in jobs}.values()), store, slots=Slots.on("cpu"), progress=Reporter())
    for failure in outcome.failures:
        raise InputError(failure.message)


def _cell(column: Column, table: Results, metrics: Mapping[int, Mapping[str, float | None]]) -> Measured:
    return Measured.of([metrics.get(seed, {}).get(column.number or "") for seed in table.seeds])


def _against(other: str, column: str, own: Mapping[int, Detecting], theirs: Mapping[int, Foreign],
             draws: Mapping[tuple[str, str], Floats]) -> list[Against]:  # fmt: skip
    """The difference of the means over seeds, draw by draw of the images; nothing where it is undefined."""
    first, second = (np.mean([draws[job.key, column] for job in jobs.values()], axis=0) for jobs in (theirs, own))
    interval = Interval.of(first - second)
    if interval is None:
        return []
    return [Against(row=other, on=column, seeds=tuple(own), difference=interval.difference,
                    low=interval.low, high=interval.high)]  # fmt: skip
