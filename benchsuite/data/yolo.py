"""YOLO's layout (Ultralytics): `data.yaml` names classes and splits, `labels/` has a text beside each of `images/`.

The labels are read by hotcoco, which takes one folder of them with its `data.yaml`: it is laid out anew for that.
"""

import codecs
import json
import math
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hotcoco
import numpy as np
import yaml
from pydantic import Field
from typing_extensions import override

from benchsuite.data.dataset import DetectionData, DetectionSet
from benchsuite.data.files import Raw, checked, fingerprint, unhidden
from benchsuite.data.images import SUFFIXES, ImageFiles, image_size
from benchsuite.disk import is_file, read_within, told
from benchsuite.errors import InputError, MissingData

NAME = "data.yaml"
CURE = "correct the file"


class Yolo(DetectionData):
    """A split of a folder with `data.yaml`: classes in its order, images in the order of their names."""

    split: str
    folder: Path = Field(exclude=True)

    @property
    @override
    def name(self) -> str:
        return f"{self.folder.resolve().name} {self.split}"

    @property
    @override
    def classes(self) -> tuple[str, ...]:
        return names_of(self.folder)

    @override
    def fingerprint(self) -> str:
        images, labels = self._files()
        texts = [json.dumps(self.classes).encode(), *(_text(label) for label in labels)]
        return fingerprint(texts, images)

    @override
    def open(self) -> DetectionSet:
        return checked(self.raw())

    def raw(self) -> Raw:
        """The labels as written, in pixels; images are numbered from 1 in the order of their names."""
        images, labels = self._files()
        folder, sizes, found = splits_of(self.folder)[self.split], np.ones((len(images), 2), np.int32), []
        for index, image in enumerate(images):
            if image.suffix.lower() not in SUFFIXES:
                line = f"{image}: has labels, and ends in none of {' '.join(SUFFIXES)}; convert, rename or remove it"
                found.append(("undecodable images", line))
                continue
            try:
                sizes[index] = image_size(image, (folder,))
            except InputError as error:
                found.append(("undecodable images", str(error)))
        boxes = [] if found else _read(self.folder, images, labels, self.classes)
        order = {str(number): number for number in range(len(images))}
        xywh = np.array([box["bbox"] for box in boxes], np.float64).reshape(-1, 4)
        return Raw(
            name=self.name,
            file=self.folder / NAME,
            classes=self.classes,
            category_ids=np.arange(len(self.classes)),
            image_ids=np.arange(1, len(images) + 1),
            file_names=tuple(image.relative_to(folder).as_posix() for image in images),
            sizes=sizes,
            boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
            sides=xywh[:, 2:],
            owners=np.array([order[box["image"]] for box in boxes], np.int64),
            labels=np.array([box["category_id"] - 1 for box in boxes], np.int64),
            areas=xywh[:, 2] * xywh[:, 3],
            crowd=np.zeros(len(boxes), dtype=bool),
            difficult=np.zeros(len(boxes), dtype=bool),
            describe=lambda row: f"{labels[order[boxes[row]['image']]].name}: box {row + 1} of the split",
            images=ImageFiles(images, (folder,)),
            fingerprint=self.fingerprint(),
            found=tuple(found),
        )

    def _files(self) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
        """Images in the order of their names, and the label file of each, which need not be there."""
        splits = splits_of(self.folder)
        if self.split not in splits:
            raise MissingData(
                f"{self.folder / NAME}: names no split {self.split}; it has {', '.join(splits) or 'none'}"
            )
        folder = splits[self.split]
        *before, _, after = f"/{folder.as_posix()}/".rpartition("/images/")
        labels = Path(f"{before[0][1:]}/labels/{after}")

        def label(image: Path) -> Path:
            return (labels / image.relative_to(folder)).with_suffix(".txt")

        files = list(unhidden(folder, "**/*"))
        images = {file for file in files if file.suffix.lower() in SUFFIXES}
        # What is labelled and of a kind that is not read (.heic) is told of, not left out.
        texts = {label(image) for image in images}
        images |= {file for file in files if label(file) not in texts and is_file(label(file)) and is_file(file)}
        if not images:
            raise InputError(f"{folder}: holds no images; correct {NAME}, or put them there")
        if not before[0] or not labels.is_dir():
            raise InputError(f"{folder}: has no labels/ beside its images/; put a text of labels there for each image")
        ordered = tuple(sorted(images))
        return ordered, tuple(map(label, ordered))


def names_of(folder: Path) -> tuple[str, ...]:
    """The classes: a list, or a mapping of 0, 1, … to names."""
    names = _document(folder).get("names")
    listed = list(names.values()) if isinstance(names, dict) and list(names) == list(range(len(names))) else names
    if not isinstance(listed, list) or not listed or not all(isinstance(name, str) and name for name in listed):
        raise InputError(
            f"{folder / NAME}: `names` is neither a list of names nor a mapping of 0, 1, … to them; {CURE}"
        )
    return tuple(listed)


def places_of(folder: Path) -> dict[str, Any]:
    """What the file names for each split, as it is written."""
    return {split: place for split in ("train", "val", "test") if (place := _document(folder).get(split)) is not None}


def splits_of(folder: Path) -> dict[str, Path]:
    """The folder of images of each split that is there; InputError for one that is given otherwise."""
    found = dict[str, Path]()
    root = folder / str(_document(folder).get("path") or "")
    for split, place in places_of(folder).items():
        if not isinstance(place, str) or "\0" in place:
            raise InputError(f"{folder / NAME}: `{split}` is no folder of images; give one folder below {folder}")
        options = [base / place.removeprefix("../") for base in (root, folder)]  # Roboflow's are one level too high
        there = [option for option in options if option.is_dir()]
        inside = [option for option in there if option.resolve().is_relative_to(folder.resolve())]
        if there and not inside:
            raise InputError(f"{folder / NAME}: `{split}` leads out of {folder}; put the images below it")
        if inside:
            found[split] = inside[0]
    return found


def _document(folder: Path) -> dict[str, Any]:
    file = folder / NAME
    stamp = file.stat()
    return _parsed(file, stamp.st_mtime_ns, stamp.st_size)


@cache
def _parsed(file: Path, modified: int, size: int) -> dict[str, Any]:
    try:
        document = yaml.safe_load(read_within(file, CURE, 2**20))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: is not YAML ({told(error)}); {CURE}") from None
    if not isinstance(document, dict):
        raise InputError(f"{file}: is no mapping with `names`, `train` and `val`; {CURE}")
    return document


def _text(label: Path) -> bytes:
    return read_within(label, CURE).removeprefix(codecs.BOM_UTF8) if is_file(label) else b""


def _as_box(line: bytes, keypoints: bool = False) -> bytes:
    """A line as hotcoco knows it, `class x y width height`: of a polygon, `class x1 y1 x2 y2 …`, the box around it
    (as Ultralytics has it), the box before `keypoints`, and with a class that is written as a float. What is neither
    stays, to be told of."""
    first, *rest = line.split() or [b""]
    rest = rest[:4] if keypoints else rest
    if first.isdigit() and len(rest) == 4:
        return b" ".join([first, *rest])
    try:
        label, points = float(first), [float(number) for number in rest]
    except ValueError:
        return line
    if not label.is_integer() or not all(map(math.isfinite, points)):
        return line
    if len(points) >= 6 and len(points) % 2 == 0:
        (left, right), (top, bottom) = ((min(ends), max(ends)) for ends in (points[::2], points[1::2]))
        points = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    return " ".join([str(int(label)), *map(repr, points)]).encode()


def _read(
    folder: Path, images: tuple[Path, ...], labels: tuple[Path, ...], classes: tuple[str, ...]
) -> list[dict[str, Any]]:
    """hotcoco's annotations, each with its image's number as a text; an image without labels has no boxes."""
    with TemporaryDirectory() as scratch:
        texts, pictures = Path(scratch) / "labels", Path(scratch) / "images"
        keypoints = "kpt_shape" in _document(folder)
        texts.mkdir()
        pictures.mkdir()
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            lines = (_as_box(line, keypoints) for line in _text(label).splitlines())
            (texts / f"{number}.txt").write_bytes(b"\n".join(lines))
            (pictures / f"{number}{image.suffix.lower()}").symlink_to(image.resolve())
        numbered = [f"c{label}" for label in range(len(classes))]  # ours are known; its reader knows one form of YAML
        (texts / NAME).write_text(f"names: [{', '.join(numbered)}]\n")
        try:
            read = hotcoco.COCO.from_yolo(str(texts), str(pictures)).dataset
        except (ValueError, OSError) as error:
            text = told(error).removeprefix("parse error: ")
            place, _, rest = text.removeprefix(f"{texts}/").partition(".txt: ")
            where = labels[int(place)] if place.isdigit() and int(place) < len(labels) else folder
            raise InputError(f"{where}: {rest or text}; correct the labels") from None
    stems = {image["id"]: Path(image["file_name"]).stem for image in read["images"]}
    return [{**box, "image": stems[box["image_id"]]} for box in read["annotations"]]
