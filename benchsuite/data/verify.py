"""Check a dataset as a whole: count what it holds and list everything that is wrong with it, not only the first."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, ClassVar

import hotcoco
import numpy as np

from benchsuite.data.classification import ClassificationData
from benchsuite.data.dataset import DetectionData, DetectionSet, clipped, distinct, without_area
from benchsuite.data.files import HasRaw, Raw, mistakes
from benchsuite.data.images import ImageFiles, examined
from benchsuite.data.masks import problem
from benchsuite.errors import InputError, visible
from benchsuite.settings import Json

SMALL, LARGE = 32**2, 96**2  # COCO's bounds between small, medium and large areas, square pixels


@dataclass(frozen=True)
class Report:
    """What one split holds, and what is wrong with it.

    classes   boxes of each class
    sizes     shares of small, medium and large boxes, 0..1, COCO's bounds
    dropped   boxes without area: left out, no mistake (COCO itself has some)
    notes     one line for each thing that is no mistake and worth knowing: a dropped box, an image shown turned
    health    what hotcoco's health check warns of, a line each
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
    health: list[str]
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

    def remarks(self) -> list[str]:
        """What is no mistake and worth knowing."""
        return [*self.notes, *(f"hotcoco: {line}" for line in self.health)]


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

    def remarks(self) -> list[str]:
        """None."""
        return []


def verify(data: DetectionData | ClassificationData) -> Report | ClassReport:
    """Read all annotations and decode all images of a split. MissingData or InputError only where there is nothing
    to check: no dataset, or an annotation file that cannot be parsed."""
    return verify_boxes(data) if isinstance(data, DetectionData) else verify_classes(data)


def verify_classes(data: ClassificationData) -> ClassReport:
    """Count the images of each class and decode them all."""
    opened = data.open()

    def look(index: int) -> Iterator[tuple[str, str]]:
        try:
            opened.read(index)
        except InputError as error:
            yield "undecodable images", str(error)

    counts = np.bincount(opened.labels, minlength=len(opened.classes)).tolist()
    problems = _by_sort(_looked_at(look, len(opened)))
    named = dict(zip(distinct(opened.classes, range(len(counts))), counts, strict=True))
    return ClassReport(opened.name, opened.fingerprint, len(opened), named, problems)


def verify_boxes(data: DetectionData) -> Report:
    """Check a detection dataset: annotations, masks where there are some, and images."""
    if isinstance(data, HasRaw):
        return _files(data.raw(), data.annotated)
    opened = data.open()
    problems = _decoded(opened)
    return _report(opened, opened.labels, opened.areas, [], problems, opened.dropped)


def _files(raw: Raw, annotated: bool) -> Report:
    notes: list[str] = []

    def look(index: int) -> Iterator[tuple[str, str]]:
        path, name, size = files.paths[index], raw.file_names[index], tuple(raw.sizes[index].tolist())
        try:
            found = examined(path, files.below)
        except InputError as error:
            missing = isinstance(error.__cause__, FileNotFoundError)
            yield f"{'missing' if missing else 'undecodable'} images", name + str(error).removeprefix(str(path))
            return
        notes.extend(f"{name}: {note}" for note in found.notes)
        if index in raw.unsized:
            return
        if found.shown != found.size and size == found.shown:
            yield (
                "sizes",
                f"{name}: is annotated as EXIF has it shown, {size[1]}x{size[0]}, but read as stored, "
                f"{size[0]}x{size[1]}; store it as it is shown (ImageOps.exif_transpose of Pillow)",
            )
        else:
            yield from _mismatch(name, size, found.size)

    files = raw.images or ImageFiles(())
    outlines = [] if raw.segmentations is None else raw.segmentations()
    lacking = [row for row, each in enumerate(outlines) if not each]
    if lacking:
        one = raw.describe(lacking[0])
        notes.append(f"{len(lacking)} annotations have no `segmentation` ({one}, say), which tables of masks need")
    problems = _by_sort(
        chain(mistakes(raw), _boxless(raw, annotated), _masks(raw, outlines), _looked_at(look, len(files.paths)))
    )
    rows = zip(np.flatnonzero(raw.empty).tolist(), raw.boxes[raw.empty].tolist(), strict=True)
    empty = [f"{raw.describe(row)}: box {box} has no area, and is left out" for row, box in rows]
    good = ~raw.empty
    health = [] if problems else _health(raw)
    notes = [*raw.notes, *empty, *_at_edges(raw), *sorted(notes)]
    return _report(raw, raw.labels[good], raw.areas[good], notes, problems, len(empty), health)


def _at_edges(raw: Raw) -> Iterator[str]:
    known = np.flatnonzero((raw.owners >= 0) & ~raw.empty & ~raw.outside & ~raw.endless)
    inside = clipped(raw.boxes[known], raw.sizes[raw.owners[known]])
    for row in known[without_area(inside)].tolist():
        box = raw.boxes[row].tolist()
        yield f"{raw.describe(row)}: box {box} has no area within its image; training leaves it out"


def _boxless(raw: Raw, annotated: bool) -> Iterator[tuple[str, str]]:
    if annotated and not raw.found and len(raw.image_ids) and not len(raw.boxes):
        told = f"none of its {len(raw.image_ids)} images has a box: it can be neither trained on nor scored"
        yield "boxes", f"{told}; annotate some, or choose another split"


def _masks(raw: Raw, outlines: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with the masks, where there are some, of boxes of known images."""
    for row, segmentation in enumerate(outlines):
        if segmentation and raw.owners[row] >= 0 and not raw.empty[row]:
            height, width = raw.sizes[raw.owners[row]].tolist()
            if mistake := problem(segmentation, height, width):
                yield "masks", f"{raw.describe(row)} {mistake}; correct or remove it"


def _health(raw: Raw) -> list[str]:
    """hotcoco's health check of a set without mistakes."""
    numbers = range(1, len(raw.image_ids) + 1)
    sizes = zip(numbers, raw.file_names, raw.sizes.tolist(), strict=True)
    truth = hotcoco.COCO.from_arrays(
        # visible: a name in no encoding that is known has signs that no text can hold
        [{"id": number, "file_name": visible(name), "height": h, "width": w} for number, name, (h, w) in sizes],
        [{"id": label + 1, "name": visible(name)} for label, name in enumerate(raw.classes)],
        raw.owners + 1,
        raw.labels + 1,
        np.concatenate([raw.boxes[:, :2], raw.boxes[:, 2:] - raw.boxes[:, :2]], axis=1),
        area=raw.areas,
        iscrowd=raw.crowd.astype(np.int64),
    )
    found = truth.healthcheck()
    return [str(each["message"]).rstrip(".") for each in (*found["errors"], *found["warnings"])]


def _mismatch(name: str, size: tuple[int, ...], found: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    if tuple(size) != tuple(found):
        yield "sizes", f"{name}: is {found[1]}x{found[0]} but annotated as {size[1]}x{size[0]}; correct the annotation"


def _decoded(data: DetectionSet) -> dict[str, list[str]]:
    def look(index: int) -> Iterator[tuple[str, str]]:
        try:
            found = data.read(index).shape
        except InputError as error:
            yield "undecodable images", str(error)
            return
        yield from _mismatch(data.file_names[index], tuple(data.sizes[index]), found[:2])

    return _by_sort(_looked_at(look, len(data)))


def _looked_at(look: Callable[[int], Iterable[tuple[str, str]]], count: int) -> Iterator[tuple[str, str]]:
    """(sort of mistake, one line) of what `look`, which takes an index, finds wrong with `count` images."""
    with ThreadPoolExecutor() as pool:
        yield from chain.from_iterable(pool.map(lambda index: list(look(index)), range(count)))


def _by_sort(lines: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    problems: dict[str, list[str]] = {}
    for sort, line in dict.fromkeys(lines):  # what keeps a file from being read may be met twice
        problems.setdefault(sort, []).append(line)
    return problems


def _report(
    data: Raw | DetectionSet,
    labels: np.ndarray[tuple[int], np.dtype[np.int64]],
    areas: np.ndarray[tuple[int], np.dtype[np.float64]],
    notes: list[str],
    problems: dict[str, list[str]],
    dropped: int,
    health: Sequence[str] = (),
) -> Report:
    counts = np.bincount(labels[labels >= 0], minlength=len(data.classes))
    bands = np.bincount(np.digitize(areas, [SMALL, LARGE]), minlength=3) / max(1, len(areas))
    return Report(
        name=data.name,
        fingerprint=data.fingerprint,
        images=len(data.image_ids),
        boxes=len(labels),
        classes=dict(zip(distinct(data.classes, data.category_ids.tolist()), counts.tolist(), strict=True)),
        sizes={name: round(float(share), 4) for name, share in zip(("small", "medium", "large"), bands, strict=True)},
        crowd=int(data.crowd.sum()),
        difficult=int(data.difficult.sum()),
        dropped=dropped,
        notes=notes,
        health=list(health),
        problems=problems,
    )
