"""ImageNet (Russakovsky et al. 2015) as folders, and any set of one folder a class: `train/CLASS/*`, `val/CLASS/*`."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from benchsuite.data.classification import ClassificationData, ClassificationSet
from benchsuite.data.files import fingerprint, looked_in, roots, unhidden
from benchsuite.data.images import SUFFIXES, read_image
from benchsuite.errors import InputError, MissingData


@dataclass(frozen=True)
class _Files:
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]:
        return read_image(self.paths[index])


class Folders(ClassificationData):
    """A split with one folder a class; classes and images in the order of their names."""

    usual_classes: ClassVar[int | None] = 1000
    split: str
    folder: Path | None = Field(None, exclude=True)

    @property
    def name(self) -> str:
        """`imagenet`, or the folder's name where one is given, and the split."""
        return f"{self.folder.resolve().name if self.folder is not None else 'imagenet'} {self.split}"

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the folders."""
        return _listing(self._found())[0]

    def fingerprint(self) -> str:
        """Hash of classes, file names and file sizes."""
        return _listing(self._found())[2]

    def open(self) -> ClassificationSet:
        """List the files; images are read on demand."""
        classes, files, content = _listing(self._found())
        place = {name: label for label, name in enumerate(classes)}
        labels = np.array([place[file.parent.name] for file in files], dtype=np.int64)
        return ClassificationSet(self.name, classes, _Files(files), labels, content)

    def _found(self) -> Path:
        candidates = roots("imagenet", self.folder)
        for root in candidates:
            if self.split and (root / self.split).is_dir():
                return root / self.split
        there = sorted({f.name for root in candidates for f in (root / "train", root / "val") if f.is_dir()})
        found = f"; found only: {', '.join(there)}" if there else ""
        raise MissingData(
            f"imagenet {self.split}: not in {looked_in('imagenet', self.folder)}{found}; download it from "
            f"https://image-net.org and put one folder a class into $BENCH_DATA/imagenet/{self.split}"
        )


def has_classes(split: Path) -> bool:
    """Whether a folder holds folders with images."""
    return any(file.suffix.lower() in SUFFIXES for file in unhidden(split, "*/*"))


@cache
def _listing(folder: Path) -> tuple[tuple[str, ...], tuple[Path, ...], str]:
    """Classes, files in order, fingerprint."""
    files = tuple(sorted(file for file in unhidden(folder, "*/*") if file.suffix.lower() in SUFFIXES))
    classes = tuple(sorted(item.name for item in unhidden(folder, "*") if item.is_dir()))
    if not files:
        raise InputError(f"{folder}: has no folder with images; sort the images into one folder a class")
    bare = sorted(set(classes) - {file.parent.name for file in files})
    if bare:
        raise InputError(f"{folder / bare[0]}: a class without an image; add images or remove the folder")
    return classes, files, fingerprint(["\n".join(classes).encode(errors="backslashreplace")], files)
