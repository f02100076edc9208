"""The files of a VOCdevkit, read: lists of images, XML annotations, and which image an annotation is of."""

import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from benchsuite.data.images import SUFFIXES
from benchsuite.disk import is_file, read_within, told
from benchsuite.errors import InputError

LIMIT = 16 * 2**20  # bytes of one annotation or list
FLAGS = {"": False, "0": False, "1": True, "false": False, "true": True}


class Object(NamedTuple):
    """One annotated object: class name, xyxy box, and whether VOC calls it difficult."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


class Annotation(NamedTuple):
    """What an XML file says of its image: height and width, the objects, and the name of the image's file."""

    size: tuple[int, int]
    objects: tuple[Object, ...]
    file_name: str


def parse(path: Path) -> Annotation:
    """An annotation; InputError for what is none.

    Documents that declare a type or entities are refused: nothing VOC needs, and entities can expand without end.
    """
    try:
        stamp = path.stat()
    except FileNotFoundError:
        raise InputError(f"{path}: the annotation is missing; restore it or take its image off the list") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({told(error)}); correct its name or its permissions") from None
    return _parsed(path, stamp.st_mtime_ns, stamp.st_size)


@cache
def _parsed(path: Path, modified: int, size: int) -> Annotation:
    text = _text(path, read_within(path, "restore it", LIMIT))
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError(f"{path}: declares a document type or entities, which is not allowed; remove the declaration")
    try:
        root = ET.fromstring(text)
        height, width = (_pixels(root, f"size/{side}") for side in ("height", "width"))
        objects = tuple(_object(item) for item in root.iter("object"))
        return Annotation((height, width), objects, (root.findtext("filename") or "").strip())
    except (ET.ParseError, ValueError) as error:
        raise InputError(f"{path}: is not a VOC annotation ({told(error)}); correct it") from error


def text_of(path: Path) -> bytes:
    """The bytes of an annotation, none where it cannot be read."""
    try:
        return read_within(path, "restore it", LIMIT)
    except InputError:
        return b""


def _text(path: Path, written: bytes) -> str:
    """In the encoding that the first bytes show, or else the XML declaration names, or else UTF-8."""
    encoding: str = json.detect_encoding(written)
    if encoding == "utf-8" and (declared := re.match(rb'<\?xml[^>]*?encoding\s*=\s*["\']([\w.:-]+)["\']', written)):
        encoding = declared[1].decode()
    try:
        return written.decode(encoding)
    except (LookupError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as {encoding} ({told(error)}); correct its encoding") from None


def _object(item: ET.Element) -> Object:
    if len(item.findall("bndbox")) > 1:
        raise ValueError("<object> has several <bndbox>")
    xmin, ymin, xmax, ymax = (_number(item, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
    name, flag = ((item.findtext(field) or "").strip() for field in ("name", "difficult"))
    if not name:
        raise ValueError("<object> has no <name>")
    if flag.lower().removesuffix(".0") not in FLAGS:
        raise ValueError(f"<difficult> {flag[:20]!r} is neither 0 nor 1")
    return Object(name, (xmin - 1, ymin - 1, xmax, ymax), FLAGS[flag.lower().removesuffix(".0")])


def _pixels(item: ET.Element, path: str) -> int:
    number = _number(item, path)
    if not (number.is_integer() and abs(number) < 2**31):
        raise ValueError(f"<{path.replace('/', '><')}> {number} is no whole number of pixels")
    return int(number)


def _number(item: ET.Element, path: str) -> float:
    text, named = item.findtext(path), f"<{path.replace('/', '><')}>"
    if text is None:
        raise ValueError(f"<{item.tag}> has no {named}")
    if "_" in text or not math.isfinite(number := float(text)):
        raise ValueError(f"{named} {text.strip()[:20]!r} is not a finite number")
    return number


def listed(file: Path) -> tuple[str, ...]:
    """The images that a list of `ImageSets/Main` names, one a line. Lists of single classes have 1, 0 or -1 behind
    each name; a suffix is taken off where the annotation has none. InputError for a name that leads elsewhere."""
    try:
        text = read_within(file, "restore it", LIMIT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: cannot be read as UTF-8 ({told(error)}); write the list anew") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    annotations = file.parents[2] / "Annotations"
    for number, line in lines:
        if "\0" in line or line.startswith("/") or ".." in line.split("/"):
            raise InputError(f"{file}: line {number}: {line[:80]!r} is no image of the devkit; correct it")
    flagged = [re.fullmatch(r"(.*\S)\s+(?:-1|0|1)", line) for _, line in lines]
    whole = {line for _, line in lines if is_file(annotations / f"{line}.xml")}
    if all(flagged) and not whole:
        return tuple(match[1] for match in flagged if match)
    return tuple(line if line in whole else _without_suffix(line, annotations) for _, line in lines)


def _without_suffix(line: str, annotations: Path) -> str:
    stem, _, suffix = line.rpartition(".")
    return stem if f".{suffix.lower()}" in SUFFIXES and is_file(annotations / f"{stem}.xml") else line


def image_path(folder: Path, image: str) -> Path:
    """The file of an image: the one that its annotation names, or else the one with its name in the list.

    InputError where these are two files: whose boxes they are, nobody can tell.
    """
    images = folder / "JPEGImages"
    usual = images / f"{image}.jpg"
    try:
        named = parse(folder / "Annotations" / f"{image}.xml").file_name
    except InputError:
        named = ""  # told where the annotation is read
    own = next((path for path in _of_name(images, image) if is_file(path)), None)
    if named == usual.name or Path(named).suffix.lower() not in SUFFIXES or not is_file(images / named):
        return own or usual
    if own is None or Path(named).with_suffix("").as_posix() == image:
        return images / named
    raise InputError(
        f"{folder}/Annotations/{image}.xml: names {named}, and there is {own.name} as well; correct its <filename>"
    )


def _of_name(images: Path, image: str) -> Iterator[Path]:
    for suffix in SUFFIXES:
        yield images / f"{image}{suffix}"
        yield images / f"{image}{suffix.upper()}"
