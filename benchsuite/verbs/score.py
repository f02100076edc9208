"""Score anybody's detections against anybody's ground truth, in COCO's or VOC's files, by COCO's or VOC's rules.

The truth is read by the datasets' own readers, so that what `bench run` and `bench score` make of a file is one thing.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchsuite.data.cocofile import read
from benchsuite.data.dataset import DetectionSet
from benchsuite.data.files import FARTHEST, checked
from benchsuite.data.voc import Voc as VocData
from benchsuite.disk import LARGE, read_within, told
from benchsuite.errors import InputError, nearest
from benchsuite.metrics.coco import Coco
from benchsuite.metrics.coco_results import CURE, Names, names_of, oddities, read_results, unique
from benchsuite.metrics.metric import Found, Metric
from benchsuite.metrics.voc import Voc
from benchsuite.settings import Json

PROTOCOLS: dict[str, Metric] = {"coco": Coco(), "voc07": Voc(year=2007), "voc12": Voc(year=2012)}
COMP4 = "image score xmin ymin xmax ymax"


def score(ground_truth: Path, detections: Path, protocol: str) -> dict[str, Json]:
    """`{"protocol", "AP", "AP50", …, "per_class"}`, 0–100, None where undefined; with `dropped`, their number, where
    boxes of the truth have no area and were left out, and `notes`, sentences, where detections look odd.

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
    data, names = read_truth(ground_truth)
    found = _comp4(detections, data, names) if detections.is_dir() else read_results(detections, data, names)
    more: dict[str, Json] = {"dropped": data.dropped} if data.dropped else {}
    if notes := oddities(found, data):
        more["notes"] = notes
    return PROTOCOLS[protocol].score(data, found) | more


def read_truth(path: Path) -> tuple[DetectionSet, Names]:
    """Annotations to score against, a COCO JSON or a devkit's split, and how detections may call their images."""
    devkit = path.suffix == ".txt" and path.parts[-3:-1] == ("ImageSets", "Main")
    if path.exists() and not path.is_dir() and not devkit:
        data = checked(read(path.stem, path, None))
        if not data.classes:
            raise InputError(f"{path}: lists no categories; give an instances JSON of COCO's form")
        return data, names_of(data)
    split = _devkit(path)
    return split.open(), unique((name, place) for place, name in enumerate(split.listed()))


def _devkit(path: Path) -> VocData:
    if path.is_file():
        year, split = path.absolute().parents[2], path.stem
    else:
        folder, _, split = str(path).rpartition(":")
        year = Path(folder).absolute()
        if not folder or not year.is_dir():
            what = "is a folder" if path.is_dir() else "there is no such file"
            raise InputError(f"{path}: {what}; give a COCO JSON, or a VOCdevkit split as VOCdevkit/VOC2007:test")
    return VocData(splits=(f"{year.name.removeprefix('VOC')}/{split}",), folder=year.parent)


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
