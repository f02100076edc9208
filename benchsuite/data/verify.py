"""Check a dataset as a whole: count what it holds and list everything that is wrong with it, not only the first."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchsuite.data.classification import ClassificationData
from benchsuite.data.dataset import DetectionData, DetectionSet
from benchsuite.data.files import HasRaw, Raw, mistakes, read_image
from benchsuite.errors import InputError
from benchsuite.settings import Json

SMALL, LARGE = 32**2, 96**2  # COCO's bounds between small, medium and large areas, square pixels


@dataclass(frozen=True)
class Report:
    """What one split holds, and what is wrong with it.

    classes   boxes of each class
    sizes     shares of small, medium and large boxes, 0..1, COCO's bounds
    dropped   boxes without area: left out, no mistake (COCO itself has some)
    notes     one line for each dropped box
    problems  one line for each mistake, by sort; empty where all is well
    """

    counted: ClassVar[str] = "boxes"

    name: str
    fingerprint: str
    images: int
    boxes: int
    classes: dict[str, int]
    sizes: dict[str, float]
    crowd: int
    difficult: int
    dropped: int
    notes: list[str]
    problems: dict[str, list[str]]

    def form(self) -> dict[str, Json]:
        """The report as JSON."""
        return asdict(self)

    def facts(self) -> list[tuple[str, str]]:
        """What was counted, and how much, as it is printed."""
        counts = {"images": self.images, "boxes": self.boxes, "of them crowd": self.crowd}
        counts |= {"of them difficult": self.difficult, "dropped, no area": self.dropped}
        shares = [(f"{size} boxes", f"{100 * share:.1f} %") for size, share in self.sizes.items()]
        return [*((name, f"{count:,}") for name, count in counts.items()), *shares]


@dataclass(frozen=True)
class ClassReport:
    """What one split of a classification dataset holds, and what is wrong with it.

    classes   images of each class
    problems  one line for each mistake, by sort; empty where all is well
    """

    counted: ClassVar[str] = "images"

    name: str
    fingerprint: str
    images: int
    classes: dict[str, int]
    problems: dict[str, list[str]]

    def form(self) -> dict[str, Json]:
        """The report as JSON."""
        return asdict(self)

    def facts(self) -> list[tuple[str, str]]:
        """What was counted, and how much, as it is printed."""
        return [("images", f"{self.images:,}"), ("classes", f"{len(self.classes):,}")]


def verify(data: DetectionData | ClassificationData) -> Report | ClassReport:
    """Read all annotations and decode all images of a split. MissingData or InputError only where there is nothing
    to check: no dataset, or an annotation file that cannot be parsed."""
    return verify_boxes(data) if isinstance(data, DetectionData) else verify_classes(data)


def verify_classes(data: ClassificationData) -> ClassReport:
    """Count the images of each class and decode them all."""
    opened = data.open()

    def look(index: int) -> tuple[str, str] | None:
        try:
            opened.read(index)
        except InputError as error:
            return "undecodable images", str(error)
        return None

    counts = np.bincount(opened.labels, minlength=len(opened.classes)).tolist()
    problems = _by_sort(_looked_at(look, len(opened)))
    named = dict(zip(opened.classes, counts, strict=True))
    return ClassReport(opened.name, opened.fingerprint, len(opened), named, problems)


def verify_boxes(data: DetectionData) -> Report:
    """Check a detection dataset."""
    if isinstance(data, HasRaw):
        return _files(data.raw())
    opened = data.open()
    problems = _decoded(opened)
    return _report(opened, opened.labels, opened.areas, [], problems, opened.dropped)


def _files(raw: Raw) -> Report:
    def look(index: int) -> tuple[str, str] | None:
        return _image(raw.paths[index], raw.file_names[index], (raw.sizes[index, 0], raw.sizes[index, 1]))

    problems = _by_sort(chain(mistakes(raw), _looked_at(look, len(raw.paths))))
    empty = [
        f"{raw.describe(int(row))}: box {raw.boxes[row].tolist()} has no area" for row in np.flatnonzero(raw.empty)
    ]
    good = ~raw.empty
    return _report(raw, raw.labels[good], raw.areas[good], empty, problems, len(empty))


def _image(path: Path, name: str, size: tuple[int, int]) -> tuple[str, str] | None:
    if not path.exists():
        return "missing images", f"{name}: is missing; restore it or correct the annotations"
    try:
        found = read_image(path).shape
    except InputError as error:
        return "undecodable images", name + str(error).removeprefix(str(path))
    return _mismatch(name, size, found[:2])


def _mismatch(name: str, size: tuple[int, ...], found: tuple[int, ...]) -> tuple[str, str] | None:
    if tuple(size) == tuple(found):
        return None
    return "sizes", f"{name}: is {found[1]}x{found[0]} but annotated as {size[1]}x{size[0]}; correct the annotation"


def _decoded(data: DetectionSet) -> dict[str, list[str]]:
    def look(index: int) -> tuple[str, str] | None:
        try:
            found = data.read(index).shape
        except InputError as error:
            return "undecodable images", str(error)
        return _mismatch(data.file_names[index], tuple(data.sizes[index]), found[:2])

    return _by_sort(_looked_at(look, len(data)))


def _looked_at(look: Callable[[int], tuple[str, str] | None], count: int) -> Iterator[tuple[str, str]]:
    """(sort of mistake, one line) of what `look`, which takes an index, finds wrong with `count` images."""
    with ThreadPoolExecutor() as pool:
        yield from filter(None, pool.map(look, range(count)))


def _by_sort(lines: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    problems: dict[str, list[str]] = {}
    for sort, line in lines:
        problems.setdefault(sort, []).append(line)
    return problems


def _report(
    data: Raw | DetectionSet,
    labels: np.ndarray[tuple[int], np.dtype[np.int64]],
    areas: np.ndarray[tuple[int], np.dtype[np.float64]],
    notes: list[str],
    problems: dict[str, list[str]],
    dropped: int,
) -> Report:
    counts = np.bincount(labels[labels >= 0], minlength=len(data.classes))
    bands = np.bincount(np.digitize(areas, [SMALL, LARGE]), minlength=3) / max(1, len(areas))
    return Report(
        name=data.name,
        fingerprint=data.fingerprint,
        images=len(data.image_ids),
        boxes=len(labels),
        classes={name: int(count) for name, count in zip(data.classes, counts, strict=True)},
        sizes={name: round(float(share), 4) for name, share in zip(("small", "medium", "large"), bands, strict=True)},
        crowd=int(data.crowd.sum()),
        difficult=int(data.difficult.sum()),
        dropped=dropped,
        notes=notes,
        problems=problems,
    )
