"""What a run left in the store, taken out again for a picture."""

import shutil
from pathlib import Path

import numpy as np

from benchsuite.data.dataset import DetectionSet
from benchsuite.disk import outgoing, placed
from benchsuite.engine.job import Job
from benchsuite.engine.progress import Reporter
from benchsuite.engine.schedule import run_jobs
from benchsuite.engine.slots import Slots
from benchsuite.engine.store import Store
from benchsuite.errors import InputError
from benchsuite.metrics.metric import Found
from benchsuite.metrics.overlap import met
from benchsuite.pipelines.detection import Detection, found
from benchsuite.pipelines.probe import probe_for
from benchsuite.report import probed
from benchsuite.report.draw import save_figure
from benchsuite.report.figures._style import caption
from benchsuite.report.pictures import Boxes, Picture, detections
from benchsuite.verbs.plan import Plan


def plot_detections(plan: Plan, store: Store, folder: Path, count: int, form: str, threshold: float) -> Path:
    """Draw truth beside predictions on `count` images of a row's run, evenly spread over the split.

    InputError, with the command that makes them, where the run's detections are not in the store.
    """
    pipeline, seed = detection_of(plan)
    job = pipeline.predict(seed)
    require(job, plan, store)
    data, predicted = job.data.open(), found(store.verified(job.key))
    chosen = np.unique(np.linspace(0, len(data) - 1, min(count, len(data))).round().astype(int))
    pictures = [_picture(data, predicted, int(index), threshold) for index in chosen]
    figure = detections(pictures, data.classes, plan.rows[0].id, threshold)
    caption(figure, _settings(plan, data.name, seed))
    return save_figure(figure, placed(folder, *_words(plan), "detections", suffix=f".{form}"))


def plot_probe(picture: str, plan: Plan, store: Store, folder: Path, image: int, form: str) -> list[Path]:
    """Look at one image of the row's val split with its trained model, and draw what was found; the arrays themselves
    lie beside the picture, as safetensors.

    InputError where no probe makes such a picture, the row was not trained, or its model has nothing of the kind.
    """
    pipeline, seed = detection_of(plan)
    fit, val = pipeline.fit(seed), pipeline.data.cut("val")
    kind = probe_for(picture)
    job = kind(train=fit, data=val, input=pipeline.input, image=image, post=pipeline.post)
    require(fit, plan, store)
    outcome = run_jobs([fit, job], store, slots=Slots.on("cpu"), progress=Reporter())
    for failure in outcome.failures:
        raise InputError(failure.message)
    file = store.verified(job.key).path("arrays.safetensors")
    figure = probed.draw(picture, file, plan.rows[0].id, f"{_settings(plan, val.name, seed)} · image {image}")
    drawn = save_figure(figure, placed(folder, *_words(plan), picture, suffix=f".{form}"))
    arrays = drawn.with_suffix(".safetensors")
    with outgoing(arrays) as scratch:
        shutil.copyfile(file, scratch)
    return [drawn, arrays]


def detection_of(plan: Plan) -> tuple[Detection, int]:
    """Pipeline and seed of the plan's first row; InputError for one that makes no detections."""
    planned = plan.rows[0]
    if not isinstance(planned.pipeline, Detection):
        raise InputError(f"{planned.id}: makes no detections; choose a row of a detection table")
    return planned.pipeline, next(iter(planned.jobs))


def require(job: Job, plan: Plan, store: Store) -> None:
    """InputError, with the command that makes it, where the store does not hold the job of the plan's first row."""
    planned = plan.rows[0]
    if store.artifact(job.key) is None:
        raise InputError(
            f"{planned.id}: was not run at tier {plan.tier} with these settings; first: bench run "
            f"{planned.recipe.called} --rows {planned.row.id} --tier {plan.tier}, and the same --data, --set and "
            "--seeds as here"
        )


def _settings(plan: Plan, data: str, seed: int) -> str:
    changed = f" · set {', '.join(plan.overrides)}" if plan.overrides else ""
    return f"tier {plan.tier} · data {data} · seed {seed}{changed}"


def _words(plan: Plan) -> list[str]:
    planned = plan.rows[0]
    return [planned.recipe.id, plan.tier, *([plan.data_name] if plan.data_name else []), planned.row.id]


def _picture(data: DetectionSet, found: Found, index: int, threshold: float) -> Picture:
    owned = data.rows(index)
    rows = np.arange(owned.start, owned.stop)
    mine = np.flatnonzero((found.images(data) == index) & (found.scores >= threshold))
    truth, seen = (data.xywh[rows], data.labels[rows]), (found.xywh[mine], found.labels[mine])
    return Picture(
        image=data.read(index),
        truth=Boxes(data.boxes[rows], data.labels[rows], met(*truth, *seen)),
        predicted=Boxes(found.boxes[mine], found.labels[mine], met(*seen, *truth), found.scores[mine]),
        name=Path(data.file_names[index]).stem,
    )
