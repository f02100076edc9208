"""YOLO's layout (Ultralytics): `data.yaml` names classes and splits, `labels/` has a text beside each of `images/`, a
line a box: class, and the box's centre, width and height as shares of the image's sides."""

import codecs
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

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
MOST = 2.0  # image's sides: boxes may end beyond the image, but what is far beyond is in pixels


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
        folder, classes = splits_of(self.folder)[self.split], self.classes
        names = tuple(image.relative_to(folder).as_posix() for image in images)
        sizes, unsized, found = np.ones((len(images), 2), np.int32), set[int](), []
        for index, image in enumerate(images):
            try:
                sizes[index] = image_size(image, (folder,))
            except InputError as error:
                unsized.add(index)
                found.append(("undecodable images", names[index] + str(error).removeprefix(str(image))))
        rows: list[tuple[int, int, tuple[float, ...]]] = []
        for owner, label in enumerate(labels):
            for number, box in _boxes(label, len(classes), "kpt_shape" in _document(self.folder)):
                if isinstance(box, str):
                    found.append(("labels", f"{self._called(label)} line {number} {box}; {CURE}"))
                elif owner not in unsized:
                    rows.append((owner, number, box))
        notes = []
        if stray := self._strays(labels):
            some = f"{', '.join(map(self._called, stray[:3]))}{', …' if len(stray) > 3 else ''}"
            if any(map(is_file, labels)):
                notes.append(f"{len(stray)} texts of labels have no image, and are left out: {some}")
            else:
                told = f"no image has a text of labels, and these have no image: {some}; name them alike"
                found.append(("labels", told))
        owners = np.array([owner for owner, _, _ in rows], np.int64)
        shares = np.array([box for _, _, box in rows], np.float64).reshape(-1, 5)[:, 1:]
        xywh = (shares - np.pad(shares[:, 2:] / 2, ((0, 0), (0, 2)))) * np.tile(sizes[owners][:, ::-1], 2)
        return Raw(
            name=self.name,
            file=self.folder / NAME,
            classes=classes,
            category_ids=np.arange(len(classes)),
            image_ids=np.arange(1, len(images) + 1),
            file_names=names,
            sizes=sizes,
            boxes=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
            sides=xywh[:, 2:],
            owners=owners,
            labels=np.array([box[0] for _, _, box in rows], np.int64),
            areas=xywh[:, 2] * xywh[:, 3],
            crowd=np.zeros(len(rows), dtype=bool),
            difficult=np.zeros(len(rows), dtype=bool),
            describe=lambda row: f"{self._called(labels[rows[row][0]])} line {rows[row][1]}",
            images=ImageFiles(images, (folder,)),
            fingerprint=self.fingerprint(),
            found=tuple(found),
            notes=tuple(notes),
            unsized=frozenset(unsized),
        )

    def _called(self, label: Path) -> str:
        return label.relative_to(self.folder).as_posix() if label.is_relative_to(self.folder) else str(label)

    def _strays(self, labels: Sequence[Path]) -> list[Path]:
        """Texts of labels that are of no image."""
        known = {*labels, *(label.with_name("classes.txt") for label in labels)}  # what LabelImg leaves
        texts = unhidden(_labels_of(splits_of(self.folder)[self.split]), "**/*")
        return sorted(text for text in texts if text.suffix.lower() == ".txt" and text not in known)

    def _files(self) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
        """Images in the order of their names, and the label file of each, which need not be there."""
        splits = splits_of(self.folder)
        if self.split not in splits:
            raise MissingData(
                f"{self.folder / NAME}: names no split {self.split}; it has {', '.join(splits) or 'none'}"
            )
        folder = splits[self.split]
        labels = _labels_of(folder)

        def label(image: Path) -> Path:
            return (labels / image.relative_to(folder)).with_suffix(".txt")

        files = list(unhidden(folder, "**/*"))
        images = {file for file in files if file.suffix.lower() in SUFFIXES}
        # What is labelled and of a kind that is not read (.heic) is told of, not left out.
        texts = {label(image) for image in images}
        images |= {file for file in files if label(file) not in texts and is_file(label(file)) and is_file(file)}
        if not images:
            raise InputError(f"{folder}: holds no images; correct {NAME}, or put them there")
        if labels == folder or not labels.is_dir():
            raise InputError(f"{folder}: has no labels/ beside its images/; put a text of labels there for each image")
        ordered = tuple(sorted(images))
        return ordered, tuple(map(label, ordered))


def names_of(folder: Path) -> tuple[str, ...]:
    """The classes: a list, or a mapping of 0, 1, … to names."""
    names = _document(folder).get("names")
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[label] for label in range(len(names))]
    if not isinstance(names, list) or not names:
        raise InputError(
            f"{folder / NAME}: `names` is neither a list of names nor a mapping of 0, 1, … to them; {CURE}"
        )
    for name in names:
        if not isinstance(name, str) or not name:
            told = "is empty" if name in ("", None) else f"YAML reads as {name!r}"
            raise InputError(f"{folder / NAME}: `names` has one that {told}, no text; put it in quotes")
    return tuple(names)


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


def _labels_of(images: Path) -> Path:
    """The folder of labels beside a folder of images: `images` becomes `labels` where it stands last in the path; the
    folder itself where it stands nowhere."""
    before, here, after = f"/{images.as_posix()}/".rpartition("/images/")
    return Path(f"{before[1:]}/labels/{after}") if here else images


def _text(label: Path) -> bytes:
    """In UTF-8; nothing where there is no such file."""
    text = read_within(label, CURE) if is_file(label) else b""
    if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # PowerShell's
        return text.decode("utf-16", "replace").encode()
    return text.removeprefix(codecs.BOM_UTF8)


def _boxes(label: Path, classes: int, keypoints: bool) -> Iterator[tuple[int, tuple[float, ...] | str]]:
    """Number of the line, and class, centre, width and height of each box; or what is wrong with the line."""
    for number, line in enumerate(_text(label).splitlines(), 1):
        if words := line.split():
            try:
                yield number, _box(words, classes, keypoints)
            except ValueError as error:
                yield number, str(error)


def _box(words: list[bytes], classes: int, keypoints: bool) -> tuple[float, ...]:
    """Of `class x y width height`; of a polygon, `class x1 y1 x2 y2 …`, the box around it (as Ultralytics has it); the
    box before `keypoints`. ValueError, in words, for what is neither."""
    try:
        label, *numbers = map(float, words)
    except ValueError:
        raise ValueError("is no `class x y width height`, five numbers") from None
    if label not in range(classes):
        raise ValueError(f"has class {words[0].decode(errors='replace')[:20]}, and {NAME} names 0 to {classes - 1}")
    numbers = numbers[:4] if keypoints else numbers
    polygon = len(numbers) >= 6 and len(numbers) % 2 == 0
    if len(numbers) != 4 and not polygon:
        raise ValueError(f"has {len(words)} numbers, and `class x y width height` are five")
    if not all(abs(number) <= MOST for number in numbers):
        raise ValueError("has numbers that are no shares of the image's sides, 0 to 1")
    if polygon:
        (left, right), (top, bottom) = ((min(ends), max(ends)) for ends in (numbers[::2], numbers[1::2]))
        numbers = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    if min(numbers[2:]) < 0:
        raise ValueError("has a width or height below 0")
    return label, *numbers
