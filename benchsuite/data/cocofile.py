"""COCO's annotation files, read: images, categories and annotations put into columns as they are written.

Ids are whole numbers of 64 bits, signed or not; flags are 0 or 1, true or false; what is of another type is told with
its place and never taken for something else.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchsuite.data.dataset import index_of
from benchsuite.data.files import Raw, fingerprint
from benchsuite.data.images import ImageFiles
from benchsuite.disk import LARGE, read_typed, read_within
from benchsuite.errors import InputError

CURE = "correct the file, or name another"

Number: TypeAlias = int | float
Flag: TypeAlias = bool | int | float | None


class Image(msgspec.Struct, gc=False):
    """An image; whoever scores needs only its id."""

    id: Number
    file_name: str | None = None
    height: Number | None = None
    width: Number | None = None


class Category(msgspec.Struct, gc=False):
    """A class."""

    id: Number
    name: str


class Annotation(msgspec.Struct, gc=False):
    """A box. VOC converted to this format keeps its `difficult` as `ignore`."""

    id: Number
    image_id: Number
    category_id: Number
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: Flag = None
    ignore: Flag = None
    difficult: Flag = None


class ImageList(msgspec.Struct):
    """A file's images and categories."""

    images: list[Image]
    categories: list[Category]


class AnnotationFile(ImageList):
    """A file of annotations."""

    annotations: list[Annotation]


class _Name(msgspec.Struct, gc=False):
    file_name: str | None = None


class _Names(msgspec.Struct):
    images: list[_Name]


class _Categories(msgspec.Struct):
    categories: list[Category]


class _Outline(msgspec.Struct):
    segmentation: Any = None


class _Outlines(msgspec.Struct):
    annotations: list[_Outline]


def read(name: str, annotations: Path, images: Path | None, annotated: bool = True) -> Raw:
    """A file's annotations in columns; InputError, with the place, where a field is missing or of another type.

    Without a folder of `images` it is truth to score against: images need no file name and no size. A file of test
    images is not `annotated`.
    """
    if annotated:
        content: ImageList = read_typed(annotations, AnnotationFile, CURE)
    else:
        content = read_typed(annotations, ImageList, "give COCO's list of test images")
    boxes = content.annotations if isinstance(content, AnnotationFile) else []
    image_ids, order = ordered([image.id for image in content.images], "images[{}].id", annotations)
    category_ids, of_kind = ordered([kind.id for kind in content.categories], "categories[{}].id", annotations)
    box_ids = ids_of([box.id for box in boxes], "annotations[{}].id", annotations)
    file_names = names(content.images, annotations, needed=images is not None)
    sizes = np.stack([_sides(content.images, side, annotations, images is not None) for side in ("height", "width")], 1)
    owners = ids_of([box.image_id for box in boxes], "annotations[{}].image_id", annotations)
    kinds = ids_of([box.category_id for box in boxes], "annotations[{}].category_id", annotations)
    xywh = np.array([box.bbox for box in boxes], np.float64).reshape(-1, 4)
    with np.errstate(all="ignore"):  # what is not finite is told by `mistakes`
        xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        own = (xywh[:, 2] * xywh[:, 3]).tolist()
    bare = [row for row, box in enumerate(boxes) if box.area is None]
    areas = [own[row] if box.area is None else box.area for row, box in enumerate(boxes)]
    crowd = _flags([box.iscrowd for box in boxes], "iscrowd", annotations)
    given = ("ignore" if box.difficult is None else "difficult" for box in boxes)
    difficult = _flags([getattr(box, field) for box, field in zip(boxes, given, strict=True)], "ignore", annotations)
    listed = tuple(file_names[index] for index in order)
    images_of, labels = index_of(owners, image_ids), index_of(kinds, category_ids)

    def describe(row: int) -> str:
        strange = [f"image_id {owners[row]}"] if images_of[row] < 0 else []
        strange += [f"category_id {kinds[row]}"] if labels[row] < 0 else []
        return f"annotation {box_ids[row]}" + (f" ({', '.join(strange)})" if strange else "")

    return Raw(
        name=name,
        file=annotations,
        classes=tuple(content.categories[index].name for index in of_kind),
        category_ids=category_ids,
        image_ids=image_ids,
        file_names=listed,
        images=None if images is None else ImageFiles(tuple(images / image for image in listed), (images,)),
        sizes=sizes[order],
        boxes=xyxy,
        sides=xywh[:, 2:],
        owners=images_of,
        labels=labels,
        areas=np.array(areas, np.float64),
        crowd=crowd,
        difficult=difficult,
        describe=describe,
        fingerprint="" if images is None else file_fingerprint(annotations, images),
        found=(
            *_repeated("image", image_ids),
            *_repeated("category", category_ids),
            *_repeated("annotation", box_ids),
        ),
        notes=(f"{len(bare)} annotations have no area; that of their box is taken",) if bare else (),
        segmentations=partial(segmentations, annotations) if boxes and segmented(annotations) else None,
    )


def ids_of(values: Sequence[Number], place: str, file: Path) -> NDArray[np.integer]:
    """Ids as int64, or uint64 where one of them needs it; InputError at the first that no 64 bits hold or that is no
    whole number. `place` says where they stand, `{}` being their number: `images[{}].id`."""
    whole = [value if type(value) is int else _whole(value) for value in values]
    held = [value for value in whole if value is not None]
    low, high = min(held, default=0), max(held, default=0)
    kind: type[np.integer] = np.uint64 if low >= 0 and high >= 2**63 else np.int64
    limits = np.iinfo(kind)
    if len(held) == len(whole) and limits.min <= low and high <= limits.max:
        return np.array(held, kind)
    bad = next(row for row, value in enumerate(whole) if value is None or not limits.min <= value <= limits.max)
    raise InputError(
        f"{file}: {place.format(bad)}: {values[bad]} is no id, a whole number that 64 bits hold; correct it"
    )


def _whole(value: float) -> int | None:
    return int(value) if abs(value) < 2**53 and float(value).is_integer() else None


def ordered(values: Sequence[Number], place: str, file: Path) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Ids in rising order, and where each stands in the file."""
    ids = ids_of(values, place, file)
    order = np.argsort(ids, kind="stable")
    return ids[order], order


def names(images: Sequence[Image], file: Path, needed: bool = True) -> list[str]:
    """File names of images; InputError at the first that is missing or can be no name."""
    found = [image.file_name or "" for image in images]
    for place, name in enumerate(found):
        if (needed and not name) or "\0" in name:
            told = f"{name!r} names no file" if name else "names no file"
            raise InputError(f"{file}: images[{place}].file_name: {told}; correct it")
    return found


def _sides(images: Sequence[Image], side: str, file: Path, needed: bool) -> NDArray[np.int32]:
    values = [getattr(image, side) for image in images]
    if not needed:
        values = [value or 0 for value in values]
    for place, value in enumerate(values):
        if value is None or not (abs(value) < 2**31 and float(value).is_integer()):
            told = "is missing" if value is None else f"{value} is no whole number of pixels"
            raise InputError(f"{file}: images[{place}].{side}: {told}; correct it")
    return np.array(values, np.int32)


def _flags(values: Sequence[Flag], field: str, file: Path) -> NDArray[np.bool_]:
    for place, value in enumerate(values):
        if value not in (None, 0, 1):
            raise InputError(f"{file}: annotations[{place}].{field}: {value} is neither 0 nor 1; correct it")
    return np.array([bool(value) for value in values], dtype=bool)


def _repeated(what: str, ids: NDArray[Any]) -> list[tuple[str, str]]:
    values, counts = np.unique(ids, return_counts=True)
    twice = counts > 1
    return [
        ("duplicates", f"{what} id {value} is given {count} times; make ids unique")
        for value, count in zip(values[twice], counts[twice], strict=True)
    ]


def segmentations(annotations: Path) -> list[Any]:
    """The segmentation of every annotation. The file is read once more: kept from its first reading, the masks of
    COCO would be two gigabytes for those who ask for none."""
    return [box.segmentation for box in read_typed(annotations, _Outlines, CURE).annotations]


def segmented(annotations: Path) -> bool:
    """Whether there is a segmentation that is not empty."""
    return _segmented(annotations, *_stamp(annotations))


@cache
def _segmented(annotations: Path, modified: int, size: int) -> bool:
    """Picked out of the file's text."""
    text = read_within(annotations, CURE, LARGE)
    return re.search(rb'"segmentation"\s*:\s*(\[\s*[^\]\s]|\{)', text) is not None


def names_in(annotations: Path) -> Iterator[str]:
    """File names of the images of an annotation file, in its order: planning needs no more than these."""
    return iter(_names(annotations, *_stamp(annotations)))


@cache
def _names(annotations: Path, modified: int, size: int) -> tuple[str, ...]:
    return tuple(image.file_name or "" for image in read_typed(annotations, _Names, CURE).images)


def classes_of(annotations: Path) -> tuple[str, ...]:
    """The names of the categories in the order of their ids."""
    return _classes(annotations, *_stamp(annotations))


@cache
def _classes(annotations: Path, modified: int, size: int) -> tuple[str, ...]:
    kinds = read_typed(annotations, _Categories, CURE).categories
    _, order = ordered([kind.id for kind in kinds], "categories[{}].id", annotations)
    return tuple(kinds[index].name for index in order)


def file_fingerprint(annotations: Path, images: Path) -> str:
    """Hash of an annotation file and of the names and sizes of its images."""
    return _fingerprint(annotations, images, *_stamp(annotations))


@cache
def _fingerprint(annotations: Path, images: Path, modified: int, size: int) -> str:
    text = read_within(annotations, CURE, LARGE)
    return fingerprint([text], (images / name for name in names_in(annotations)))


def _stamp(file: Path) -> tuple[int, int]:
    """When the file was changed, and its size: what is known of it holds as long as these."""
    try:
        stamp = file.stat()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); {CURE}") from None
    return stamp.st_mtime_ns, stamp.st_size
