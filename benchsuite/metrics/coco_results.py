"""COCO's results format, read: anybody's detections, for a split as our readers open it."""

import re
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
NUMBER = re.compile(r"[0-9]{1,18}")  # in quotes

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
    try:
        entries = read_typed(path, list[Detection], CURE)
    except InputError as error:
        if str(error).startswith(f"{path}: Expected `array`, got `object`"):
            raise InputError(
                f"{path}: is one object, and COCO's results are a list of {{image_id, category_id, bbox, score}}; give "
                "the detections (annotations are the first argument of `bench score`)"
            ) from None
        raise
    images = _images([entry.image_id for entry in entries], path, data, names)
    kinds = ids_of([entry.category_id for entry in entries], "[{}].category_id", path)
    labels = index_of(kinds, data.category_ids)
    xywh = np.array([entry.bbox for entry in entries], np.float64).reshape(-1, 4)
    scores = np.array([entry.score for entry in entries], np.float64)
    for row in np.flatnonzero(images < 0):
        id_ = entries[row].image_id
        raise _unknown(path, row, f"image_id {repr(id_[:80]) if isinstance(id_, str) else id_}", data.image_ids)
    for row in np.flatnonzero(labels < 0):
        raise _unknown(path, row, f"category_id {kinds[row]}", data.category_ids)
    for row in np.flatnonzero(~(np.abs(xywh) <= FARTHEST).all(axis=1)):
        raise _odd(path, row, f"bbox {xywh[row].tolist()}, which is not finite")
    for row in np.flatnonzero(~np.isfinite(scores)):
        raise _odd(path, row, f"score {scores[row]}, which is not finite")
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    return Found(data.image_ids[images], corners, scores, labels, sides=xywh[:, 2:])


def oddities(found: Found, data: DetectionSet) -> list[str]:
    """What most detections have that boxes xywh in pixels do not: sentences, none where all looks right."""
    if not len(found):
        return []
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    beyond = (found.boxes[:, 2:] > 1.1 * data.sizes[found.images(data), ::-1]).any(axis=1)
    rows = np.column_stack([found.image_ids, found.labels, found.boxes, found.scores]).astype(np.float64)
    again = 1 - len(np.unique(rows, axis=0)) / len(rows)
    told = (
        (float((sides <= 0).any(axis=1).mean()), 0.1, "have a side of zero or less"),
        (float((np.abs(found.boxes) <= 1).all(axis=1).mean()), 0.5, "lie between 0 and 1: boxes are in pixels"),
        (float(beyond.mean()), 0.5, "end beyond their image: boxes are x, y, width, height"),
        (again, 0.1, "stand there more than once"),
    )
    return [f"{share:.0%} of the detections {what}" for share, least, what in told if share >= least]


def _unknown(path: Path, row: int | np.integer, has: str, known: NDArray[np.integer]) -> InputError:
    ids = np.sort(known).tolist()
    some = ", ".join(map(str, ids if len(ids) < 8 else [*ids[:3], "…", ids[-1]]))
    return InputError(f"{path}: detection {row + 1} has {has}; the ground truth has {some}: number them as it does")


def _odd(path: Path, row: int | np.integer, has: str) -> InputError:
    return InputError(f"{path}: detection {row + 1} has {has}; {CURE}")


def _images(ids: list[Number | str], path: Path, data: DetectionSet, names: Names) -> NDArray[np.int64]:
    """Place of each detection's image, -1 for none: COCO's by id, a devkit's by name or by its digits."""
    if data.sides is not None:
        return _by_id_or_name(ids, path, data, names)
    digits = unique((str(int(plain)), place) for plain, place in _digits(names))
    places = [names.get(id_) if isinstance(id_, str) else digits.get(str(id_)) for id_ in ids]
    return np.array([-1 if place is None else place for place in places], np.int64)


def _by_id_or_name(ids: list[Number | str], path: Path, data: DetectionSet, names: Names) -> NDArray[np.int64]:
    """A text is the name of a file, or an id in quotes: a number in quotes the one that fits all of the file."""
    plain = [id_ if not isinstance(id_, str) else int(id_) if NUMBER.fullmatch(id_) else 0 for id_ in ids]
    by_id = index_of(ids_of(plain, "[{}].image_id", path), data.image_ids)
    texts = {id_: row for row, id_ in enumerate(ids) if isinstance(id_, str)}
    named = {id_: -1 if (place := names.get(id_)) is None else place for id_ in texts}
    quoted = {id_: int(by_id[row]) for id_, row in texts.items() if NUMBER.fullmatch(id_)}
    if all(place >= 0 for place in quoted.values()):
        unlike = [id_ for id_, place in quoted.items() if place != named[id_]]
        if unlike and all(named[id_] >= 0 for id_ in quoted):
            one = unlike[0]
            raise InputError(
                f"{path}: image_id {one!r} is the id of {data.file_names[quoted[one]]} and the name of "
                f"{data.file_names[named[one]]}; write ids without quotes, or names with their suffix"
            )
        named |= quoted
    return np.array([named[id_] if isinstance(id_, str) else by_id[row] for row, id_ in enumerate(ids)], np.int64)


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
