"""Images decoded: what is an image, where it may lie, and which pixels are taken from it."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from benchsuite.disk import open_regular, told
from benchsuite.errors import InputError

# Others are never tried: to read EPS, for one, Pillow starts Ghostscript on the file.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
EIGHT_BITS = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
UPRIGHT, LYING = 1, (5, 6, 7, 8)  # of EXIF's orientations
MANY = 89_478_485  # pixels: beyond them Pillow warns of a decompression bomb, and refuses twice as many

# What Pillow warns of is told by `examined`, with the file's name, and never printed while a model trains.
warnings.filterwarnings("ignore", module=r"PIL(\.|$)")


def read_image(path: Path, below: tuple[Path, ...] = ()) -> NDArray[np.uint8]:
    """Decode to uint8 [H, W, 3], RGB, in the orientation stored; InputError naming the file where that fails.

    Where folders are given, the file must lie `below` one of them, links followed. What has more than 8 bits a channel
    is refused: which of its values is white, the file does not say.
    """
    with _opened(path, below) as image:
        return _pixels(image)


def image_size(path: Path, below: tuple[Path, ...] = ()) -> tuple[int, int]:
    """Height and width as stored, without decoding; InputError as `read_image`."""
    with _opened(path, below) as image:
        return image.height, image.width


def orientation(path: Path) -> int:
    """EXIF's, 1 (upright) to 8; without decoding. InputError as `read_image`."""
    with _opened(path, ()) as image:
        return _orientation(image)


def _orientation(image: Image.Image) -> int:
    found = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    return int(found) if found in range(1, 9) else UPRIGHT


@dataclass(frozen=True)
class Examined:
    """What is known of an image once it is decoded: height and width as stored and as EXIF has it shown, and what
    should be told of it, a line each."""

    size: tuple[int, int]
    shown: tuple[int, int]
    notes: tuple[str, ...]


def examined(path: Path, below: tuple[Path, ...] = ()) -> Examined:
    """Decode and look closer; InputError as `read_image`."""
    with _opened(path, below) as image:
        height, width, _ = _pixels(image).shape
        turned = _orientation(image)
        notes = []
        if turned != UPRIGHT:
            notes.append(f"its EXIF says that it is shown turned (orientation {turned}); it is read as stored")
        if height * width > MANY:
            notes.append(f"has {height * width:,} pixels, which takes long to decode")
        lying = turned in LYING
        return Examined((height, width), (width, height) if lying else (height, width), tuple(notes))


@dataclass(frozen=True)
class ImageFiles:
    """Index -> decoded image, from a list of files, which must lie `below` one of the folders where these are given."""

    paths: tuple[Path, ...]
    below: tuple[Path, ...] = ()

    def __call__(self, index: int) -> NDArray[np.uint8]:
        """uint8 [H, W, 3]."""
        return read_image(self.paths[index], self.below)


@contextmanager
def _opened(path: Path, below: tuple[Path, ...]) -> Iterator[Image.Image]:
    try:
        with _file(path, below) as file, Image.open(file, formats=FORMATS) as image:
            yield image
    except FileNotFoundError as error:
        raise InputError(f"{path}: the image is missing; restore it or correct the annotations") from error
    except InputError:
        raise
    except UnidentifiedImageError as error:
        known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise InputError(f"{path}: the image cannot be decoded (is not {known}); convert or remove it") from error
    # A broken file may make a decoder raise nearly anything (struct.error, IndexError, ZeroDivisionError, …).
    except Exception as error:
        raise InputError(f"{path}: the image cannot be decoded ({told(error)}); restore or remove it") from error


def _file(path: Path, below: tuple[Path, ...]) -> BinaryIO:
    if not below:
        return open_regular(path)
    place = os.path.realpath(path)
    if not place.startswith(tuple(_real(folder) for folder in below)):
        raise InputError(
            f"{path}: the image lies outside {below[0]}, at {place}; put it there, or name the folder that has it"
        )
    return open_regular(Path(place))


@cache
def _real(folder: Path) -> str:
    return os.path.join(os.path.realpath(folder), "")  # noqa: PTH118 (the separator at the end)


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode not in EIGHT_BITS:
        raise ValueError(f"has more than 8 bits a channel, mode {image.mode}: convert it to 8 bits")
    # A palette's transparent colours are looked up with their transparency, or Pillow warns.
    opaque = image.convert("RGBA") if image.mode in ("P", "PA") and "transparency" in image.info else image
    return np.array(opaque.convert("RGB"))
