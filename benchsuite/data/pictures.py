"""A folder of pictures without truth, to detect on."""

from pathlib import Path

import numpy as np
from pydantic import Field
from typing_extensions import override

from benchsuite.data.dataset import DetectionData, DetectionSet
from benchsuite.data.files import Raw, checked, fingerprint, unhidden
from benchsuite.data.images import SUFFIXES, ImageFiles, image_size
from benchsuite.errors import InputError


class Pictures(DetectionData):
    """All images below a folder in the order of their names, numbered from 1; the classes are those of a training.

    categories  each class as (id, name), in label order
    """

    folder: Path = Field(exclude=True)
    categories: tuple[tuple[int, str], ...]

    @property
    @override
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    @override
    def classes(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.categories)

    @property
    @override
    def annotated(self) -> bool:
        return False

    @override
    def fingerprint(self) -> str:
        files = self.files()
        # Names and sizes alone would not tell a picture from the next one of a camera.
        return fingerprint((f"{file.name} {file.stat().st_mtime_ns}".encode() for file in files), files)

    @override
    def open(self) -> DetectionSet:
        files, none = self.files(), np.zeros(0)
        return checked(
            Raw(
                name=self.name,
                file=self.folder,
                classes=self.classes,
                category_ids=np.array([id_ for id_, _ in self.categories]),
                image_ids=np.arange(1, len(files) + 1),
                file_names=tuple(file.relative_to(self.folder).as_posix() for file in files),
                sizes=np.array([image_size(file) for file in files], np.int32),
                boxes=none.reshape(0, 4),
                owners=none.astype(np.int64),
                labels=none.astype(np.int64),
                areas=none,
                crowd=none.astype(np.bool_),
                difficult=none.astype(np.bool_),
                describe=str,
                images=ImageFiles(files),
                fingerprint=self.fingerprint(),
            )
        )

    def files(self) -> tuple[Path, ...]:
        """The pictures, in order; InputError where there are none."""
        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: is not a folder; give a folder of pictures")
        files = tuple(sorted(file for file in unhidden(self.folder, "**/*") if file.suffix.lower() in SUFFIXES))
        if not files:
            raise InputError(f"{self.folder}: holds no pictures ({', '.join(SUFFIXES)}); give a folder of pictures")
        return files
