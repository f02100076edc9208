"""PASCAL VOC (Everingham et al. 2010) and any VOCdevkit: XML annotations, JPEGImages, lists in ImageSets/Main.

VOC counts pixels from 1 and includes the last one; boxes here are (xmin - 1, ymin - 1, xmax, ymax), so that width and
height count both ends (as Detectron reads them): where both corners are one pixel, the box is that pixel.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from pydantic import Field
from typing_extensions import override

from benchsuite.data.dataset import DetectionData, DetectionSet
from benchsuite.data.files import Raw, checked, fingerprint, looked_in, roots, unhidden
from benchsuite.data.images import ImageFiles, image_size
from benchsuite.data.vocfile import image_path, listed, parse, text_of
from benchsuite.disk import is_file
from benchsuite.errors import InputError, MissingData
from benchsuite.settings import once

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
SITE = "http://host.robots.ox.ac.uk/pascal/VOC"
ARCHIVES = {
    **dict.fromkeys(("2007/train", "2007/val", "2007/trainval"), f"{SITE}/voc2007/VOCtrainval_06-Nov-2007.tar"),
    "2007/test": f"{SITE}/voc2007/VOCtest_06-Nov-2007.tar",
    "2012/test": "the archive VOC2012test.tar of the evaluation server, http://host.robots.ox.ac.uk:8080",
    **dict.fromkeys(("2012/train", "2012/val", "2012/trainval"), f"{SITE}/voc2012/VOCtrainval_11-May-2012.tar"),
}


WITHHELD = frozenset(f"{year}/test" for year in range(2008, 2013))
"""Splits whose annotations only the evaluation server has."""


class Voc(DetectionData):
    """Splits of a VOCdevkit put together, each `YEAR/SET`: ("2007/trainval", "2012/trainval") is VOC 07+12.

    The classes are VOC's 20 if every name in the annotations is one of them, or if all of them occur (other names are
    then mistakes); else they are the names in all annotations of the devkit, sorted.

    Splits of which no image is annotated are images without truth; so are those of 2008 to 2012 `test`, some of which
    come with a few annotations for other tasks, unless all of them are.
    """

    splits: tuple[str, ...] = Field(min_length=1)
    folder: Path | None = Field(None, exclude=True)

    @property
    def name(self) -> str:
        """`voc`, or the folder's name where one is given, and the splits: `voc 2007-trainval+2012-trainval`."""
        folder = self.folder.resolve() if self.folder is not None else Path("voc")
        folder = folder.parent if folder.name == "VOCdevkit" else folder
        return f"{folder.name} {'+'.join(self.splits).replace('/', '-')}"

    @property
    def classes(self) -> tuple[str, ...]:
        """VOC's 20, or the devkit's own; VOC's where the devkit is not on this machine."""
        return self._named()

    @once
    def _named(self) -> tuple[str, ...]:
        try:
            return _classes(tuple(dict.fromkeys(folder / "Annotations" for folder, _ in self._found())))
        except MissingData:
            return CLASSES

    @property
    def annotated(self) -> bool:
        """Whether its images are; by the splits' names where the devkit is not on this machine."""
        withheld = WITHHELD.issuperset(self.splits)
        try:
            return _annotated(tuple((folder, listed(file)) for folder, file in self._found()), withheld)
        except MissingData:
            return not withheld

    def fingerprint(self) -> str:
        """Hash of the annotations of the listed images, and of the images' names and sizes."""
        return _fingerprint(tuple((folder, listed(file)) for folder, file in self._found()))

    @override
    def open(self) -> DetectionSet:
        return checked(self.raw())

    def raw(self) -> Raw:
        """The annotations as written; images are numbered from 1 in the order of the lists."""
        splits, classes = self._found(), self.classes
        images = [(folder, image) for folder, file in splits for image in listed(file)]
        label_of = {name: label for label, name in enumerate(classes)}
        sizes, rows, found = np.ones((len(images), 2), dtype=np.int32), [], []
        unsized = set[int]()
        paths, annotated = tuple(_path(folder, image) for folder, image in images), self.annotated
        for owner, (folder, image) in enumerate(images):
            try:
                if not annotated:
                    sizes[owner] = image_size(paths[owner], (folder / "JPEGImages",))
                    continue
                image_path(folder, image)
                sizes[owner], objects, _ = parse(folder / "Annotations" / f"{image}.xml")
            except InputError as error:
                unsized.add(owner)
                found.append(("annotations", str(error).removeprefix(f"{folder.parent}/")))
                continue
            rows += [(owner, place, item) for place, item in enumerate(objects, 1)]
        boxes = np.array([item.box for _, _, item in rows], dtype=np.float64).reshape(-1, 4)

        def describe(row: int) -> str:
            folder, image = images[rows[row][0]]
            return f"{folder.name}/Annotations/{image}.xml: object {rows[row][1]} ({rows[row][2].name})"

        repeated = [f"{folder.name}/{image}" for (folder, image), times in Counter(images).items() if times > 1]
        found += [("duplicates", f"image {name} is listed twice; list it once") for name in repeated]
        return Raw(
            name=self.name,
            file=splits[0][0].parent if images else splits[0][1],
            classes=classes,
            category_ids=np.arange(1, len(classes) + 1),
            image_ids=np.arange(1, len(images) + 1),
            file_names=tuple(path.name for path in paths),
            sizes=sizes,
            boxes=boxes,
            owners=np.array([owner for owner, _, _ in rows], dtype=np.int64),
            labels=np.array([label_of.get(item.name, -1) for _, _, item in rows], dtype=np.int64),
            areas=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
            crowd=np.zeros(len(rows), dtype=bool),
            difficult=np.array([item.difficult for _, _, item in rows], dtype=bool),
            describe=describe,
            images=ImageFiles(paths, tuple(folder / "JPEGImages" for folder, _ in splits)),
            fingerprint=self.fingerprint(),
            found=tuple(found),
            unsized=frozenset(unsized),
        )

    def listed(self) -> tuple[str, ...]:
        """The images' names as in the lists, in the order of the opened set."""
        return tuple(image for _, file in self._found() for image in listed(file))

    def _found(self) -> list[tuple[Path, Path]]:
        """Year folder and list file of each split."""
        return [self._find(split) for split in self.splits]

    def _find(self, split: str) -> tuple[Path, Path]:
        year, _, name = split.partition("/")
        kits = [kit for root in roots("voc", self.folder) for kit in (root / "VOCdevkit", root)]
        for folder in (kit / prefixed for kit in kits for prefixed in (f"VOC{year}", year)):
            file = folder / "ImageSets" / "Main" / f"{name}.txt"
            if name and file.is_file():
                return folder, file
        there = sorted({split for kit in kits for split in splits_of(kit)})
        found = f"; found only: {', '.join(there)}" if there else ""
        cure = f"unpack {ARCHIVES[split]} into $BENCH_DATA" if split in ARCHIVES else "a split is named YEAR/SET"
        raise MissingData(f"voc {split}: not in {looked_in('voc', self.folder)}{found}; {cure}")


def splits_of(kit: Path) -> Iterator[str]:
    """`YEAR/SET` of every list in a devkit; the lists of single classes (`car_train`) are left out."""
    for file in sorted(unhidden(kit, "*/ImageSets/Main/*.txt")):
        if not file.stem.startswith(tuple(f"{name}_" for name in CLASSES)):
            yield f"{file.parents[2].name.removeprefix('VOC')}/{file.stem}"


@cache
def _classes(folders: tuple[Path, ...]) -> tuple[str, ...]:
    names: set[str] = set()
    for kit in {folder.parents[1] for folder in folders}:
        for path in unhidden(kit, "*/Annotations/*.xml"):
            try:
                names.update(item.name for item in parse(path).objects)
            except InputError:
                continue  # told when its image is used
    return CLASSES if names <= set(CLASSES) or names >= set(CLASSES) else tuple(sorted(names))


@cache
def _fingerprint(sets: tuple[tuple[Path, tuple[str, ...]], ...]) -> str:
    images = [(folder, image) for folder, names in sets for image in names]
    texts = (text_of(folder / "Annotations" / f"{image}.xml") for folder, image in images)
    return fingerprint(texts, (_path(folder, image) for folder, image in images))


def _path(folder: Path, image: str) -> Path:
    """The image's file; VOC's own name for it where nobody can tell, which is told when the annotations are read."""
    with suppress(InputError):
        return image_path(folder, image)
    return folder / "JPEGImages" / f"{image}.jpg"


@cache
def _annotated(sets: tuple[tuple[Path, tuple[str, ...]], ...], withheld: bool) -> bool:
    there = (is_file(folder / "Annotations" / f"{image}.xml") for folder, names in sets for image in names)
    return all(there) if withheld else any(there)
