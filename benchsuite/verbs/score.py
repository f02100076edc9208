"""Score anybody's detections against anybody's ground truth, in COCO's or VOC's files, by COCO's or VOC's rules.

The truth is read by the datasets' own readers, so that what `bench run` and `bench score` make of a file is one thing.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchsuite.data.cocofile import Number, ids_of, read
from benchsuite.data.dataset import DetectionSet, index_of
from benchsuite.data.files import FARTHEST, checked
from benchsuite.data.voc import Voc as VocData
from benchsuite.disk import LARGE, read_typed, read_within, told
from benchsuite.errors import InputError, nearest
from benchsuite.metrics.coco import Coco
from benchsuite.metrics.metric import Found, Metric
from benchsuite.metrics.voc import Voc
from benchsuite.settings import Json

PROTOCOLS: dict[str, Metric] = {"coco": Coco(), "voc07": Voc(year=2007), "voc12": Voc(year=2012)}
CURE = "correct or leave it out"
COMP4 = "image score xmin ymin xmax ymax"

Names: TypeAlias = Mapping[str, int | None]
"""The place of an image by every name that detections may give it; None for a name that several have."""


class Detection(msgspec.Struct, gc=False):
    """An entry of COCO's results."""

    image_id: Number | str
    category_id: Number
    bbox: tuple[float, float, float, float]
    score: float


def score(ground_truth: Path, detections: Path, protocol: str) -> dict[str, Json]:
    """`{"protocol", "AP", "AP50", …, "per_class"}`, 0–100, None where undefined; with `dropped`, their number, where
    boxes of the truth have no area and were left out.

    ground_truth  a COCO JSON, or a VOCdevkit split: `VOCdevkit/VOC2007:test` or its list `…/ImageSets/Main/test.txt`
    detections    a COCO results JSON, or a folder of VOC's `comp4_det_test_CLASS.txt` (`image score xmin ymin xmax
                  ymax`, pixels counted from 1, the last one included)
    protocol      `coco`, `voc07` (11-point) or `voc12` (area)

    Results JSON against a VOCdevkit: `image_id` is the file's name without suffix, or that name's digits as a number;
    `category_id` is 1, 2, … in the order of the classes. InputError, one line, for what cannot be scored.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol '{protocol}' is unknown; {nearest(protocol, PROTOCOLS)}")
    if not detections.exists():
        raise InputError(f"{detections}: no such file or folder; give a COCO results JSON or a folder of comp4 files")
    data, names = _truth(ground_truth)
    found = _comp4(detections, data, names) if detections.is_dir() else _results(detections, data, names)
    return PROTOCOLS[protocol].score(data, found) | ({"dropped": data.dropped} if data.dropped else {})


def _truth(path: Path) -> tuple[DetectionSet, Names]:
    if path.is_file() and path.suffix == ".json":
        data = checked(read(path.stem, path, None))
        if not data.classes:
            raise InputError(f"{path}: lists no categories; give an instances JSON of COCO's form")
        return data, _unique((alias, place) for place, name in enumerate(data.file_names) for alias in _aliases(name))
    split = _devkit(path)
    return split.open(), _unique((name, place) for place, name in enumerate(split.listed()))


def _aliases(file_name: str) -> set[str]:
    """A file's name, and that without folders and suffix."""
    return {file_name, Path(file_name).stem} - {""}


def _unique(named: Iterable[tuple[str, int]]) -> Names:
    places: dict[str, set[int]] = defaultdict(set)
    for name, place in named:
        places[name].add(place)
    return {name: next(iter(several)) if len(several) == 1 else None for name, several in places.items()}


def _devkit(path: Path) -> VocData:
    if path.is_file() and path.suffix == ".txt" and path.parts[-3:-1] == ("ImageSets", "Main"):
        year, split = path.absolute().parents[2], path.stem
    else:
        folder, _, split = str(path).rpartition(":")
        year = Path(folder).absolute()
        if not folder or not year.is_dir():
            raise InputError(
                f"{path}: neither a COCO JSON nor a VOCdevkit split; give instances.json or VOCdevkit/VOC2007:test"
            )
    return VocData(splits=(f"{year.name.removeprefix('VOC')}/{split}",), folder=year.parent)


def _results(path: Path, data: DetectionSet, names: Names) -> Found:
    """A COCO results JSON; boxes xywh."""
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
    digits = _unique((str(int(plain)), place) for plain, place in _digits(names))
    places = [names.get(id_) if isinstance(id_, str) else digits.get(str(id_)) for id_ in ids]
    return np.array([-1 if place is None else place for place in places], np.int64)


def _digits(names: Names) -> Iterable[tuple[str, int]]:
    for name, place in names.items():
        plain = name.replace("_", "")
        if place is not None and plain.isascii() and plain.isdigit() and len(plain) < 20:
            yield plain, place


def _comp4(folder: Path, data: DetectionSet, names: Names) -> Found:
    """A folder of VOC's results files, one a class; pixels 1, 1 to w, w become edges 0, 0 to w, w."""
    files = {file: _label(file, data.classes) for file in sorted(folder.glob("*_det_*.txt"))}
    if not files:
        raise InputError(f"{folder}: holds no results such as comp4_det_test_{data.classes[0]}.txt; give their folder")
    held: dict[int, Path] = {}
    for file, label in files.items():
        if held.setdefault(label, file) != file:
            raise InputError(f"{file}: is of the same class as {held[label].name}; give a folder with one of them")
    parts = [_table(file, names) for file in files]
    images, numbers = (np.concatenate(part) for part in zip(*parts, strict=True))
    labels = np.repeat(list(files.values()), [len(part[0]) for part in parts]).astype(np.int64)
    return Found(data.image_ids[images], numbers[:, 1:] - [1, 1, 0, 0], numbers[:, 0], labels)


def _label(file: Path, classes: tuple[str, ...]) -> int:
    """The class at the end of the file's name; of several (`car`, `toy_car`) the longest."""
    named = [name for name in classes if file.stem.endswith(f"_{name}")]
    if not named:
        raise InputError(f"{file}: names no class of the ground truth; {nearest(file.stem.split('_')[-1], classes)}")
    best = max(named, key=len)
    if classes.count(best) > 1:
        raise InputError(f"{file}: {classes.count(best)} classes have that name; give COCO results, which have ids")
    return classes.index(best)


def _table(file: Path, names: Names) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Places of images [D], and score, xmin, ymin, xmax, ymax [D, 5]. A name may hold spaces: numbers come last."""
    try:
        text = read_within(file, CURE, LARGE).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: cannot be read as UTF-8 ({told(error)}); write it anew") from None
    lines = [(number, line.rsplit(None, 5)) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    images, numbers = np.empty(len(lines), np.int64), np.empty((len(lines), 5))
    for row, (number, words) in enumerate(lines):
        try:
            name, *columns = words
            if any("_" in word for word in columns):
                raise ValueError
            numbers[row] = [float(word) for word in columns]
        except ValueError:
            raise InputError(f"{file}: not lines of `{COMP4}` (line {number}); correct the file") from None
        place = names.get(name.lstrip())
        if place is None:
            several = "which several images have" if name.lstrip() in names else "not in the split"
            raise InputError(f"{file}: line {number} has image {name.lstrip()[:80]!r}, {several}; leave it out")
        images[row] = place
    broken = np.flatnonzero(~(np.isfinite(numbers[:, 0]) & (np.abs(numbers[:, 1:]) <= FARTHEST).all(axis=1)))
    if len(broken):
        raise InputError(f"{file}: line {lines[broken[0]][0]} is not `{COMP4}` with finite numbers; correct it")
    return images, numbers
