"""A trained row on a folder of pictures: COCO's results and the pictures with boxes."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchsuite.data.dataset import DetectionSet
from benchsuite.data.images import UPRIGHT, orientation
from benchsuite.data.pictures import Pictures
from benchsuite.data.split import opened
from benchsuite.disk import outgoing
from benchsuite.engine.progress import Reporter
from benchsuite.engine.schedule import run_jobs
from benchsuite.engine.slots import Slots
from benchsuite.engine.store import Store
from benchsuite.errors import InputError, shortened, visible
from benchsuite.metrics.metric import Found
from benchsuite.pipelines.submit import coco_results
from benchsuite.verbs.plan import Plan
from benchsuite.verbs.plot import detection_of, require

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")


@dataclass(frozen=True)
class Predicted:
    """The file of COCO results, a picture for each image in their order, and what should be told of the images."""

    results: str
    pictures: tuple[str, ...]
    detections: int
    notes: tuple[str, ...] = ()

    def form(self) -> dict[str, Any]:
        """JSON of `bench predict`."""
        return asdict(self)


def predict(plan: Plan, store: Store, images: Path, folder: Path, threshold: float) -> Predicted:
    """Detect on the pictures below `images` with the plan's one row; all detections go into `detections.json`, those
    of at least `threshold` into pictures of the same names with `.png`.

    InputError where the row was not trained, there are no pictures, one cannot be read, or `folder` is among them.
    """
    if folder.resolve().is_relative_to(images.resolve()):
        raise InputError(
            f"{folder}: lies in {images}, where what is drawn would be one more picture; give another --out"
        )
    pipeline, seed = detection_of(plan)
    fit = pipeline.fit(seed)
    require(fit, plan, store)
    trained = opened(fit.data)
    kinds = tuple(zip(trained.category_ids.tolist(), trained.classes, strict=True))
    pictures = Pictures(folder=images, categories=kinds)
    job = pipeline.predict_on(pictures, seed)
    data = opened(job.data)
    outcome = run_jobs([fit, job], store, slots=Slots.on(plan.device), progress=Reporter())
    for failure in outcome.failures:
        raise InputError(failure.message)
    found = Found.load(store.verified(job.key).path("detections.safetensors"))
    images_of = found.images(data).tolist()
    told = zip(coco_results(data, found), images_of, strict=True)
    lines = [{**line, "file_name": data.file_names[index]} for line, index in told]
    with outgoing(folder / "detections.json") as scratch:
        scratch.write_text(json.dumps(lines) + "\n", encoding="utf-8")
    files = [_drawn(data, found, index, folder, threshold) for index in range(len(data))]
    notes = tuple(turned(data, pictures.files()))
    results = (folder / "detections.json").as_posix()
    return Predicted(results, tuple(file.as_posix() for file in files), len(found), notes)


def turned(data: DetectionSet, files: Sequence[Path]) -> Iterator[str]:
    """A line where images are shown otherwise than they are stored."""
    names = [name for name, path in zip(data.file_names, files, strict=True) if orientation(path) != UPRIGHT]
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield f"{names[0]}{more}: EXIF shows it turned; it is read as stored, in whose pixels the boxes are"


def _drawn(data: DetectionSet, found: Found, index: int, folder: Path, threshold: float) -> Path:
    mine = np.flatnonzero((found.images(data) == index) & (found.scores >= threshold))
    image = with_boxes(data.read(index), found, mine[np.argsort(found.scores[mine])], data.classes)
    # The suffix stays: a.jpg and a.png are two pictures.
    file = folder / f"{data.file_names[index]}.png"
    with outgoing(file) as scratch:
        image.save(scratch, "PNG")
    return file


def with_boxes(
    pixels: NDArray[np.uint8], found: Found, rows: NDArray[np.int64], classes: tuple[str, ...]
) -> Image.Image:
    """A picture, uint8 [H, W, 3], with the boxes of `rows`, the last ones on top; a class has one colour."""
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    for row in rows.tolist():
        label, box = int(found.labels[row]), found.boxes[row].astype(float).tolist()
        text, colour = (
            f"{shortened(visible(classes[label]), 30)} {found.scores[row]:.2f}",
            COLOURS[label % len(COLOURS)],
        )
        x, y = box[0], max(0.0, box[1] - 11)
        draw.rectangle(box, outline=colour, width=2)
        draw.rectangle(draw.textbbox((x, y), text), fill=colour)
        draw.text((x, y), text, fill="white")
    return image
