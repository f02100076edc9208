"""COCO's results format, read: anybody's detections, for a split as our readers open it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchsuite.data.cocofile import Number, ids_of
from benchsuite.data.dataset import DetectionSet, index_of
from benchsuite.data.files import FARTHEST
from benchsuite.disk import read_typed
from benchsuite.errors import InputError
from benchsuite.metrics.metric import Found

CURE = "correct or leave it out"

Names: TypeAlias = Mapping[str, int | None]
"""The place of an image by every name that detections may give it; None for a name that several have."""


class Detection(msgspec.Struct, gc=False):
    """An entry of COCO's results."""

    image_id: Number | str
    category_id: Number
    bbox: tuple[float, float, float, float]
    score: float


def read_results(path: Path, data: DetectionSet, names: Names) -> Found:
    """A COCO results JSON; boxes xywh. An image that has no id of COCO's is called by name, or by its name's digits.

    InputError, naming file and detection, for an image or a class that `data` has not, and for what is not finite.
    """
    entries = read_typed(path, list[Detection], CURE)
    images = _images([entry.image_id for entry in entries], path, data, names)
    kinds = ids_of([entry.category_id for entry in entries], "[{}].category_id", path)
    labels = index_of(kinds, data.category_ids)
    xywh = np.array([entry.bbox for entry in entries], np.float64).reshape(-1, 4)
    scores = np.array([entry.score for entry in entries], np.float64)
    for row in np.flatnonzero(images < 0):
        raise _odd(path, row, f"image_id {entries[row].image_id}, unknown to the ground truth")
    for row in np.flatnonzero(labels < 0):
        raise _odd(path, row, f"category_id {kinds[row]}, unknown to the ground truth")
    for row in np.flatnonzero(~(np.abs(xywh) <= FARTHEST).all(axis=1)):
        raise _odd(path, row, f"bbox {xywh[row].tolist()}, which is not finite")
    for row in np.flatnonzero(~np.isfinite(scores)):
        raise _odd(path, row, f"score {scores[row]}, which is not finite")
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    return Found(data.image_ids[images], corners, scores, labels, sides=xywh[:, 2:])


def _odd(path: Path, row: int | np.integer, has: str) -> InputError:
    return InputError(f"{path}: detection {row + 1} has {has}; {CURE}")


def _images(ids: list[Number | str], path: Path, data: DetectionSet, names: Names) -> NDArray[np.int64]:
    """Place of each detection's image, -1 for none: COCO's by id, a devkit's by name or by its digits."""
    if data.sides is not None:  # COCO's
        for row, id_ in enumerate(ids):
            if isinstance(id_, str):
                raise _odd(path, row, f"image_id {id_[:80]!r}, a text, unknown to the ground truth")
        numbers = [id_ for id_ in ids if not isinstance(id_, str)]
        return index_of(ids_of(numbers, "[{}].image_id", path), data.image_ids)
    digits = unique((str(int(plain)), place) for plain, place in _digits(names))
    places = [names.get(id_) if isinstance(id_, str) else digits.get(str(id_)) for id_ in ids]
    return np.array([-1 if place is None else place for place in places], np.int64)


def _digits(names: Names) -> Iterable[tuple[str, int]]:
    for name, place in names.items():
        plain = name.replace("_", "")
        if place is not None and plain.isascii() and plain.isdigit() and len(plain) < 20:
            yield plain, place


def names_of(data: DetectionSet) -> Names:
    """By file name, and by that without folders and suffix."""
    return unique(
        (alias, place) for place, name in enumerate(data.file_names) for alias in {name, Path(name).stem} - {""}
    )


def unique(named: Iterable[tuple[str, int]]) -> Names:
    """Without the place where several have the name."""
    places: dict[str, set[int]] = defaultdict(set)
    for name, place in named:
        places[name].add(place)
    return {name: next(iter(several)) if len(several) == 1 else None for name, several in places.items()}
