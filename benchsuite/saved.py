"""What a run left in the store, taken out again for a picture."""

from pathlib import Path

import numpy as np

from benchsuite.data.dataset import DetectionSet
from benchsuite.engine.store import Store
from benchsuite.errors import InputError
from benchsuite.jobs import Detection
from benchsuite.metrics.metric import Found
from benchsuite.plan import Plan
from benchsuite.report.draw import save_figure
from benchsuite.report.pictures import Boxes, Picture, detections


def plot_detections(plan: Plan, store: Store, folder: Path, count: int, form: str, threshold: float) -> Path:
    """Draw truth beside predictions on `count` images of a row's run, evenly spread over the split.

    InputError, with the command that makes them, where the run's detections are not in the store.
    """
    planned = plan.rows[0]
    seed = next(iter(planned.jobs))
    if not isinstance(planned.pipeline, Detection):
        raise InputError(f"{planned.id}: makes no detections; choose a row of a detection table")
    job = planned.pipeline.predict(seed)
    if store.artifact(job.key) is None:
        raise InputError(
            f"{planned.id}: was not run at tier {plan.tier} with these settings; first: bench run {planned.recipe.id} "
            f"--rows {planned.row.id} --tier {plan.tier}, and the same --data, --set and --seeds as here"
        )
    data, found = job.data.open(), Found.load(store.verified(job.key).path("detections.safetensors"))
    chosen = np.unique(np.linspace(0, len(data) - 1, min(count, len(data))).round().astype(int))
    pictures = [_picture(data, found, int(index)) for index in chosen]
    title = f"{planned.id}, {plan.tier} tier on {data.name}, seed {seed}"
    words = [planned.recipe.id, plan.tier, *([plan.data_name] if plan.data_name else []), planned.row.id]
    figure = detections(pictures, data.classes, title, threshold)
    return save_figure(figure, folder / f"{'.'.join(words)}.detections.{form}")


def _picture(data: DetectionSet, found: Found, index: int) -> Picture:
    rows, mine = data.rows(index), found.image_ids == data.image_ids[index]
    truth = Boxes(data.boxes[rows], data.labels[rows])
    predicted = Boxes(found.boxes[mine], found.labels[mine], found.scores[mine])
    return Picture(data.read(index), truth, predicted, Path(data.file_names[index]).stem)
