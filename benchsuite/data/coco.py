"""COCO (Lin et al. 2014) and anything in its format: one JSON of images, categories and annotations, beside images."""

import json
import re
from collections.abc import Iterator
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from benchsuite.data.dataset import DetectionData, DetectionSet
from benchsuite.data.files import Raw, checked, fingerprint, looked_in, roots
from benchsuite.errors import InputError, MissingData, nearest

# fmt: off
CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis",
    "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)
# fmt: on
# Detectron's names of the 2014 images; 2017 divides the same images nearly alike (115k + 5k).
SAME_AS = {"trainval35k": "train2017", "minival": "val2017"}


class Coco(DetectionData):
    """A split of COCO 2017, found under $BENCH_DATA in the usual layouts, or in `folder`."""

    split: str
    folder: Path | None = Field(None, exclude=True)

    @property
    def name(self) -> str:
        """`coco` and the split's 2017 name."""
        return f"coco {SAME_AS.get(self.split, self.split)}"

    @property
    def classes(self) -> tuple[str, ...]:
        """COCO's 80 classes."""
        return CLASSES

    def fingerprint(self) -> str:
        """Hash of the annotation file and the names and sizes of its images."""
        return _fingerprint(*self._found())

    def has_masks(self) -> bool:
        """Whether an annotation has a segmentation."""
        return _segmented(self._found()[0])

    def open(self) -> DetectionSet:
        """Read and check the annotations."""
        return checked(self.raw())

    def raw(self) -> Raw:
        """The annotations as written; InputError where the file is not COCO's."""
        raw = read(self.name, *self._found())
        if raw.classes != CLASSES:
            raise InputError(
                f"{raw.file}: has not COCO's 80 classes but {len(raw.classes)}; open it with --data instead"
            )
        return raw

    def _found(self) -> tuple[Path, Path]:
        split = SAME_AS.get(self.split, self.split)
        for root in roots("coco", self.folder):
            annotations = root / "annotations" / f"instances_{split}.json"
            if annotations.exists():
                images = next((p for p in (root / split, root / "images" / split) if p.is_dir()), None)
                if images is None:
                    raise MissingData(
                        f"coco {split}: {annotations} is there but not its images; unpack "
                        f"http://images.cocodataset.org/zips/{split}.zip into {root}"
                    )
                return annotations, images
        there = [p.stem.removeprefix("instances_") for r in roots("coco", self.folder) for p in _instances(r)]
        if split not in ("train2017", "val2017"):
            known = {"train2017", "val2017", *SAME_AS, *there}
            raise MissingData(f"coco {self.split}: there is no such split on disk; {nearest(self.split, known)}")
        found = f"; found only: {', '.join(sorted(set(there)))}" if there else ""
        raise MissingData(
            f"coco {split}: not in {looked_in('coco', self.folder)}{found}; unpack "
            f"http://images.cocodataset.org/zips/{split}.zip and "
            "http://images.cocodataset.org/annotations/annotations_trainval2017.zip into $BENCH_DATA/coco"
        )


class File(DetectionData):
    """Any COCO-format annotation file and the folder its file names are relative to; classes come from the file."""

    annotations: Path = Field(exclude=True)
    images: Path = Field(exclude=True)

    @property
    def name(self) -> str:
        """Folder and split, for instance `bccd train`."""
        folder = self.annotations.resolve().parent
        folder = folder.parent if folder.name == "annotations" else folder
        return f"{folder.name} {self.annotations.stem.removeprefix('instances_')}"

    @property
    def classes(self) -> tuple[str, ...]:
        """The file's categories in the order of their ids."""
        return _classes(*self._found())

    def fingerprint(self) -> str:
        """Hash of the annotation file and the names and sizes of its images."""
        return _fingerprint(*self._found())

    def has_masks(self) -> bool:
        """Whether an annotation has a segmentation."""
        return _segmented(self._found()[0])

    def open(self) -> DetectionSet:
        """Read and check the annotations."""
        return checked(self.raw())

    def raw(self) -> Raw:
        """The annotations as written."""
        return read(self.name, *self._found())

    def _found(self) -> tuple[Path, Path]:
        if not self.annotations.is_file():
            raise MissingData(f"{self.annotations}: there is no such annotation file; correct the path")
        if not self.images.is_dir():
            raise MissingData(f"{self.images}: there is no such folder of images; correct the path")
        return self.annotations, self.images


def read(name: str, annotations: Path, images: Path) -> Raw:
    """Parse a COCO-format file into columns; InputError where fields are missing or of another type."""
    content = _parse(annotations)
    listed, boxes, kinds = (_records(content, part, annotations) for part in ("images", "annotations", "categories"))
    image_ids, order = _ordered(_column(listed, "id", "images", annotations, np.int64))
    category_ids, of_kind = _ordered(_column(kinds, "id", "categories", annotations, np.int64))
    sides = [_column(listed, side, "images", annotations, np.int32) for side in ("height", "width")]
    names = [str(image["file_name"]) for image in _having(listed, "file_name", "images", annotations)]
    classes = [str(kind["name"]) for kind in _having(kinds, "name", "categories", annotations)]
    file_names = tuple(names[index] for index in order)
    xywh = _column(boxes, "bbox", "annotations", annotations, np.float64).reshape(-1, 4)
    box_ids = _column(boxes, "id", "annotations", annotations, np.int64)
    areas = xywh[:, 2] * xywh[:, 3]
    if all(box.get("area") is not None for box in boxes):
        areas = _column(boxes, "area", "annotations", annotations, np.float64)
    return Raw(
        name=name,
        file=annotations,
        classes=tuple(classes[index] for index in of_kind),
        category_ids=category_ids,
        image_ids=image_ids,
        file_names=file_names,
        paths=tuple(images / image for image in file_names),
        sizes=np.stack(sides, axis=1)[order],
        boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
        owners=_index(_column(boxes, "image_id", "annotations", annotations, np.int64), image_ids),
        labels=_index(_column(boxes, "category_id", "annotations", annotations, np.int64), category_ids),
        areas=areas,
        crowd=np.array([bool(box.get("iscrowd", 0)) for box in boxes], dtype=bool),
        # VOC converted to this format keeps its `difficult` as `ignore`.
        difficult=np.array([bool(box.get("difficult", box.get("ignore", 0))) for box in boxes], dtype=bool),
        describe=lambda row: f"annotation {box_ids[row]}",
        fingerprint=_fingerprint(annotations, images),
        found=(
            *_repeated("image", image_ids),
            *_repeated("category", category_ids),
            *_repeated("annotation", box_ids),
        ),
        segmentations=partial(_segmentations, annotations) if any(box.get("segmentation") for box in boxes) else None,
    )


def _segmentations(annotations: Path) -> list[Any]:
    """The segmentation of every annotation. The file is parsed once more: kept from its first reading, the masks of
    COCO would be two gigabytes for those who ask for none."""
    return [box.get("segmentation") for box in _records(_parse(annotations), "annotations", annotations)]


def _segmented(annotations: Path) -> bool:
    stamp = annotations.stat()
    return _segmented_of(annotations, stamp.st_mtime_ns, stamp.st_size)


@cache
def _segmented_of(annotations: Path, modified: int, size: int) -> bool:
    """Whether there is a segmentation that is not empty, picked out of the file's text."""
    return re.search(rb'"segmentation"\s*:\s*(\[\s*[^\]\s]|\{)', annotations.read_bytes()) is not None


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({error}); download it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); correct its permissions") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not COCO's object; name the annotation file")
    return content


def _records(content: dict[str, Any], part: str, path: Path) -> list[dict[str, Any]]:
    records = content.get(part)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise InputError(f"{path}: has no list of objects `{part}`, which a COCO annotation file needs; choose another")
    return records


def _ordered(ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids in rising order, and where each stands in the file."""
    order = np.argsort(ids, kind="stable")
    return ids[order], order


def _having(records: list[dict[str, Any]], field: str, part: str, path: Path) -> list[dict[str, Any]]:
    for place, record in enumerate(records):
        if field not in record:
            raise InputError(f"{path}: {part}[{place}] has no `{field}`; add it")
    return records


def _column(records: list[dict[str, Any]], field: str, part: str, path: Path, kind: Any) -> NDArray[Any]:
    values = [record[field] for record in _having(records, field, part, path)]
    try:
        column = np.array(values, dtype=kind)
    except (TypeError, ValueError, OverflowError):
        column = np.empty(0)
    shape = (len(values), 4) if field == "bbox" else (len(values),)
    if column.shape != shape and values:
        bad = next((p for p, value in enumerate(values) if not _fits(value, field)), 0)
        wanted = "four numbers" if field == "bbox" else "a number"
        raise InputError(f"{path}: {part}[{bad}] has `{field}` {values[bad]!r}, which is not {wanted}; correct it")
    return column


def _fits(value: object, field: str) -> bool:
    if field == "bbox":
        return isinstance(value, list) and len(value) == 4 and all(isinstance(side, (int, float)) for side in value)
    return isinstance(value, (int, float))


def _index(wanted: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each wanted id in the sorted `ids`, -1 where it is not there."""
    if not len(ids):
        return np.full(len(wanted), -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[place] == wanted, place, -1).astype(np.int64)


def _repeated(what: str, ids: NDArray[np.int64]) -> list[tuple[str, str]]:
    values, counts = np.unique(ids, return_counts=True)
    twice = counts > 1
    return [
        ("duplicates", f"{what} id {value} is given {count} times; make ids unique")
        for value, count in zip(values[twice], counts[twice], strict=True)
    ]


def _instances(root: Path) -> list[Path]:
    return sorted((root / "annotations").glob("instances_*.json"))


def _fingerprint(annotations: Path, images: Path) -> str:
    stamp = annotations.stat()
    return _fingerprint_of(annotations, images, stamp.st_mtime_ns, stamp.st_size)


@cache
def _fingerprint_of(annotations: Path, images: Path, modified: int, size: int) -> str:
    text = annotations.read_bytes()
    return fingerprint([text], (images / name for name in names_in(text)))


def names_in(text: bytes) -> Iterator[str]:
    """File names of the images of an annotation file, picked out of its text: parsing all of COCO takes ten seconds,
    and planning needs no more than these."""
    for found in re.finditer(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")', text):
        yield json.loads(found[1])


def _classes(annotations: Path, images: Path) -> tuple[str, ...]:
    stamp = annotations.stat()
    return _classes_of(annotations, images, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=16)
def _classes_of(annotations: Path, images: Path, modified: int, size: int) -> tuple[str, ...]:
    kinds = _records(_parse(annotations), "categories", annotations)
    _, order = _ordered(_column(kinds, "id", "categories", annotations, np.int64))
    names = [str(kind["name"]) for kind in _having(kinds, "name", "categories", annotations)]
    return tuple(names[index] for index in order)
