"""What `--data DIR` means: the training and validation splits of whatever detection dataset lies in a folder."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from benchsuite.data.coco import File, names_in
from benchsuite.data.dataset import DetectionData
from benchsuite.data.files import data_root
from benchsuite.data.voc import Voc, splits_of
from benchsuite.errors import InputError

__all__ = ["data_root", "open_folder"]

TRAIN = ("train2017", "train2014", "train")
VAL = ("val2017", "val2014", "val", "valid", "validation", "test")
NEEDED = (
    "needed are annotations/instances_train.json and annotations/instances_val.json (COCO format) with their images, "
    "or a VOCdevkit with ImageSets/Main/train.txt and val.txt"
)


def open_folder(path: Path) -> tuple[DetectionData, DetectionData]:
    """(train, val) of a COCO-format folder, or else of a VOCdevkit; InputError naming what is missing."""
    if not path.is_dir():
        raise InputError(f"{path}: is not a folder; give the folder of a dataset ({NEEDED})")
    found = _coco(path) or _voc(path)
    if found is None:
        single = [
            file.relative_to(path).as_posix() for file in (*path.glob("*.json"), *path.glob("annotations/*.json"))
        ]
        there = f"has only {', '.join(sorted(single)[:5])}" if single else "holds no detection dataset"
        raise InputError(f"{path}: {there}; {NEEDED}")
    train, val = found
    if train.classes != val.classes:
        raise InputError(
            f"{path}: {train.name} has {len(train.classes)} classes and {val.name} {len(val.classes)}, or they differ "
            "in name or order; give both the same categories"
        )
    return found


def _coco(path: Path) -> tuple[DetectionData, DetectionData] | None:
    train, val = (next(_annotated(path, names), None) for names in (TRAIN, VAL))
    if train is None or val is None:
        return None
    files = [File(annotations=file, images=_images(path, split, file)) for split, file in (train, val)]
    return files[0], files[1]


def _annotated(path: Path, splits: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    for split in splits:
        for name in (
            f"annotations/instances_{split}.json",
            f"annotations/{split}.json",
            f"{split}.json",
            f"{split}/_annotations.coco.json",  # Roboflow's export
        ):
            if (path / name).is_file():
                yield split, path / name


def _images(path: Path, split: str, annotations: Path) -> Path:
    """The folder that the annotations' file names are relative to: the first that has one of the first ten images."""
    names = list(islice(names_in(annotations.read_bytes()), 10))
    folders = [
        path / split,
        path / "images" / split,
        path / "images",
        *sorted(path.glob("VOCdevkit/*/JPEGImages")),
        path,
    ]
    for folder in folders:
        if any((folder / name).is_file() for name in names):
            return folder
    shown = f", such as {names[0]}," if names else ""
    looked = ", ".join(folder.relative_to(path).as_posix() for folder in folders if folder.is_dir())
    raise InputError(f"{annotations}: its images{shown} are in none of {looked}; put them into images/")


def _voc(path: Path) -> tuple[DetectionData, DetectionData] | None:
    for kit in (path / "VOCdevkit", path):
        there = set(splits_of(kit))
        for names in (("trainval", "test"), ("train", "val"), ("train", "test")):
            train, val = (tuple(sorted(s for s in there if s.endswith(f"/{name}"))) for name in names)
            if train and val:
                return Voc(splits=train, folder=path), Voc(splits=val, folder=path)
    return None
