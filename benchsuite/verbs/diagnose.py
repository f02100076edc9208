"""What a row's detections are like, and what its gain is made of: numbers out of the store, and their figures."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchsuite.data.dataset import DetectionSet, distinct
from benchsuite.data.split import opened
from benchsuite.disk import outgoing, placed
from benchsuite.engine.progress import Reporter
from benchsuite.engine.schedule import run_jobs
from benchsuite.engine.slots import Slots
from benchsuite.engine.store import Store
from benchsuite.errors import InputError, nearest
from benchsuite.metrics import diagnosis
from benchsuite.metrics.judged import Floats
from benchsuite.metrics.metric import Interval
from benchsuite.pipelines.analysis import Breakdown
from benchsuite.pipelines.detection import Detecting, Detection, found
from benchsuite.pipelines.steps import read_draws
from benchsuite.report import diagnosed
from benchsuite.report.diagnosed import Calibration, Confusion, Curves, Part, Why
from benchsuite.report.diagnosed.why import sentence
from benchsuite.report.draw import save_figure
from benchsuite.report.results import RowRecord, load
from benchsuite.report.statistics import contrast, two_levels
from benchsuite.verbs.foreign import foreign_jobs
from benchsuite.verbs.plan import Plan


def plot_diagnosed(
    name: str, plan: Plan, row: str, store: Store, folder: Path, form: str, least: float = 0.3, against: str = ""
) -> tuple[list[Path], str]:
    """Draw the figure `name` of a row, with its numbers as CSV beside it; and what it says, where one sentence can.

    plan     all rows of the recipe; `row` is one of them, or a foreign one of its results in `folder`
    least    score from which a detection counts in the confusion matrix
    against  for `why`, the row that the difference is to, by default the row's baseline
    InputError, with the command that makes them, where the detections are not in the store.
    """
    pipeline = plan.rows[0].pipeline
    if not isinstance(pipeline, Detection):
        raise InputError(f"{plan.rows[0].recipe.id}: makes no detections; choose a detection table")
    data: DetectionSet = opened(pipeline.data.cut("val"))
    jobs = _detecting(plan, row, store, folder)
    if name == "why":
        other = against or _baseline(plan, row)
        if other == row:
            raise InputError(f"plot why: {row} against itself shows nothing; name another row, --against ROW")
        theirs = _detecting(plan, other, store, folder)
        names = {each.row.id: each.row.label or each.row.id for each in plan.rows}
        seeds: Sequence[int] = [seed for seed in jobs if seed in theirs]
        rows = {row: jobs, other: theirs} | _beside(plan, {row, other}, seeds, store)
        shown: Any = _why(pipeline, store, seeds, rows, names)
        words = [row, "against", other, name] if against else [row, name]
    else:
        seed, job = next(iter(jobs.items()))
        shown, seeds, words = _single(name, data, store, job, least, pipeline), [seed], [row, name]
    known = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    title = f"{plan.rows[0].recipe.id}/{row}, {plan.tier} tier on {data.name}, {known}"
    place = [plan.rows[0].recipe.id, plan.tier, *([plan.data_name] if plan.data_name else []), *words]
    drawn = save_figure(diagnosed.draw(name, shown, title), placed(folder, *place, suffix=f".{form}"))
    return [drawn, _csv(shown.numbers, drawn.with_suffix(".csv"))], sentence(shown) if name == "why" else ""


def _csv(numbers: diagnosed.Numbers, file: Path) -> Path:
    import pandas as pd

    with outgoing(file) as scratch:
        pd.DataFrame(numbers).to_csv(scratch, index=False)
    return file


def _baseline(plan: Plan, row: str) -> str:
    recipe = plan.rows[0].recipe
    own = {each.id: recipe.baseline_of(each) for each in recipe.rows}
    baseline = own.get(row, recipe.baseline)
    if baseline is None or baseline == row:
        raise InputError(f"plot why: {row} has no baseline in {recipe.id}; name the other row, --against ROW")
    return baseline


def _detecting(plan: Plan, row: str, store: Store, folder: Path) -> dict[int, Detecting]:
    """The row's detections that the store holds, by seed; InputError where it holds none."""
    planned = {each.row.id: each for each in plan.rows}
    jobs: Mapping[int, Detecting]
    if row in planned and isinstance(pipeline := planned[row].pipeline, Detection):
        jobs = {seed: pipeline.predict(seed) for seed in planned[row].seeds}
        how = f"bench run {planned[row].recipe.called} --rows {row} --tier {plan.tier}"
    else:
        jobs, how = _foreign(plan, row, folder), f"bench add-row {plan.rows[0].recipe.called} --name {row}"
    held = {seed: job for seed, job in jobs.items() if store.artifact(job.key) is not None}
    if not held:
        raise InputError(
            f"{row}: its detections are not in the store; first: {how}, and the same --data, --set and --seeds as here"
        )
    return held


def _foreign(plan: Plan, row: str, folder: Path) -> Mapping[int, Detecting]:
    """Of a foreign row of the results there; InputError where there is none."""
    recipe, data = plan.rows[0].recipe, plan.rows[0].pipeline.data.cut("val")
    own = placed(folder, recipe.id, plan.tier, *([plan.data_name] if plan.data_name else []), suffix=".json")
    rows: dict[str, dict[Path, RowRecord]] = {}
    for file in sorted(folder.glob(f"{recipe.id}.{plan.tier}*.json")):
        results = load(file)
        if results.tier == plan.tier and results.data.name == data.name:
            for each in results.rows:
                if each.foreign:
                    rows.setdefault(each.id, {})[file] = each
    if row not in rows:
        known = [*(each.row.id for each in plan.rows), *rows]
        raise InputError(f"{recipe.id}: no row '{row}'; {nearest(row, known)}")
    held = rows[row]
    if own not in held and len(held) > 1:
        raise InputError(f"{row}: stands in {' and in '.join(file.name for file in held)}; say which, --name NAME")
    return foreign_jobs(held[own] if own in held else next(iter(held.values())), plan.rows[0].pipeline)


def _single(name: str, data: DetectionSet, store: Store, job: Detecting, least: float, pipeline: Detection) -> Any:
    """The numbers of a figure of one seed's detections."""
    seen = found(store.verified(job.key))
    evaluation = diagnosis.evaluated(data, seen, data.open_masks() if pipeline.metric.masks else None)
    names = distinct(data.classes, data.category_ids.tolist())
    if name == "pr":
        table = diagnosis.precisions(evaluation, data)
        at_once = diagnosis.thresholds(table)
        if not at_once:
            raise InputError(f"{data.name}: has no boxes to be found; there is no curve")
        classes = {each: table[0, :, k] for k, each in enumerate(names)}
        return Curves(np.linspace(0, 1, table.shape[1]), at_once, classes)
    diagnosis.require_shares(seen.scores)
    if name == "confusion":
        return Confusion(names, diagnosis.confusion(evaluation, data, least), least)
    told = diagnosis.calibration(evaluation)
    bins = told["bins"]
    counts = np.array([each["count"] for each in bins])
    share = np.array([each["avg_accuracy"] for each in bins])
    return Calibration(
        bounds=np.array([*(each["bin_lower"] for each in bins), bins[-1]["bin_upper"]]),
        scores=np.array([each["avg_confidence"] for each in bins]),
        right=np.where(counts > 0, share, np.nan),
        counts=counts,
        mean_error=told["ece"],
        greatest_error=told["mce"],
    )


def _beside(plan: Plan, two: set[str], seeds: Sequence[int], store: Store) -> dict[str, dict[int, Detecting]]:
    """The detections of the table's other rows that have these seeds, and so tell of the spread over them; none for a
    foreign row, whose seeds share nothing with theirs."""
    planned = {each.row.id: each.pipeline for each in plan.rows}
    if len(seeds) < 2 or not two <= planned.keys():
        return {}
    rows: dict[str, dict[int, Detecting]] = {
        row: {seed: pipeline.predict(seed) for seed in seeds}
        for row, pipeline in planned.items() if row not in two and isinstance(pipeline, Detection)
    }  # fmt: skip
    return {row: jobs for row, jobs in rows.items() if all(store.artifact(job.key) for job in jobs.values())}


Drawn = Mapping[str, Mapping[int, Mapping[str, Floats]]]
"""Row → seed → name of a part → draws [1 + D]."""


def _why(
    pipeline: Detection, store: Store, seeds: Sequence[int], rows: Mapping[str, Mapping[int, Detecting]],
    names: Mapping[str, str],
) -> Why:  # fmt: skip
    """Of the first of `rows` over the second under `seeds`; the others tell of the table's spread."""
    first, second = list(rows)[:2]
    row, other = names.get(first, first), names.get(second, second)
    if not seeds:
        raise InputError(
            f"plot why: {row} and {other} have no seed in common in the store; run both with equal --seeds, or add a "
            "foreign row's files under seeds of the other"
        )
    metric = pipeline.metric
    pieces = {
        name: {seed: Breakdown(predict=jobs[seed], metric=metric) for seed in seeds} for name, jobs in rows.items()
    }
    needed = [job for name in rows for seed in seeds for job in (rows[name][seed], pieces[name][seed])]
    jobs = list({job.key: job for job in needed}.values())
    for failure in run_jobs(jobs, store, slots=Slots.on("cpu"), progress=Reporter()).failures:
        raise InputError(failure.message)
    drawn = {
        name: {seed: read_draws(store.verified(job.key)) for seed, job in jobs.items()} for name, jobs in pieces.items()
    }
    both = [drawn[name][seed] for name in (first, second) for seed in seeds]
    shared = [name for name in both[0] if all(name in each for each in both)]
    if not shared:
        raise InputError(f"plot why: {metric.protocol} does not tell what its numbers are made of")
    made = {row: jobs[seeds[0]].inputs.get("train") for row, jobs in rows.items()}
    trained = {row: job.key for row, job in made.items() if job is not None}
    parts = [part for name in shared for part in _part(name, first, second, drawn, trained)]
    order = {name: place for place, name in enumerate(_order(metric.of_classes))}
    parts.sort(key=lambda part: order.get(part.name, len(order)) if part.group != "class" else len(order) + 1)
    over = "images" if len(seeds) == 1 else f"{len(seeds)} seeds and images"
    return Why(row, other, metric.of_classes, tuple(parts), over)


def _order(column: str) -> tuple[str, ...]:
    from benchsuite.metrics.coco import SIZE_NAMES
    from benchsuite.metrics.tide import KINDS

    return (column, *KINDS, *SIZE_NAMES)


def _part(name: str, first: str, second: str, drawn: Drawn, trained: Mapping[str, str]) -> Iterator[Part]:
    """A part of the difference, from its draws under each seed; nothing where it is undefined."""
    group, slash, plain = name.partition("/")
    group, plain = (group, plain) if slash else ("total", name)
    # Of errors, what the baseline loses and the row does not.
    sign = -1 if group == "error" else 1
    draws = {
        row: {seed: sign * each[name] for seed, each in seeds.items() if name in each} for row, seeds in drawn.items()
    }
    gains = [draws[first][seed] - draws[second][seed] for seed in draws[first]]
    images = Interval.of(np.mean(gains, axis=0))
    if images is None:
        return
    low, high = images.low, images.high
    values = {row: {seed: float(each[0]) for seed, each in seeds.items()} for row, seeds in draws.items()}
    known = {row: seeds for row, seeds in values.items() if all(map(math.isfinite, seeds.values()))}
    if (found := contrast(known, first, second, trained)) is not None and found[0].error is not None:
        single = [one for one in map(Interval.of, gains) if one is not None]
        low, high = two_levels(*found, (low, high), [(one.difference, one.low, one.high) for one in single])
    yield Part(group, plain, images.difference, low, high)
