"""What `--data DIR` means: the training and validation splits of whatever dataset lies in a folder."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from benchsuite.data.cifar import FOLDER as CIFAR
from benchsuite.data.cifar import Cifar100
from benchsuite.data.classification import ClassificationData
from benchsuite.data.coco import ROBOFLOWS, File
from benchsuite.data.cocofile import names_in
from benchsuite.data.dataset import DetectionData
from benchsuite.data.files import data_root
from benchsuite.data.imagenet import Folders, has_classes
from benchsuite.data.split import unlike
from benchsuite.data.voc import Voc, splits_of
from benchsuite.data.yolo import NAME as YOLO
from benchsuite.data.yolo import Yolo, places_of
from benchsuite.data.yolo import splits_of as splits_of_yolo
from benchsuite.disk import is_file
from benchsuite.errors import InputError, shortened

__all__ = ["data_root", "open_class_folder", "open_folder"]

TRAIN = ("train2017", "train2014", "train")
VAL = ("val2017", "val2014", "val", "valid", "validation", "test")
NEEDED = (
    "needed are annotations/instances_train.json and annotations/instances_val.json (COCO format) with their images, "
    "data.yaml with images/ and labels/ (YOLO), or a VOCdevkit with ImageSets/Main/train.txt and val.txt"
)
NEEDED_CLASSES = (
    "needed are train/CLASS/*.jpg and val/CLASS/*.jpg, or CIFAR-100's files (cifar-100-python/train, test and meta)"
)


def open_folder(path: Path) -> tuple[DetectionData, DetectionData]:
    """(train, val) of a COCO-format folder, else of YOLO's layout, else of a VOCdevkit; InputError naming what is
    missing."""
    if not path.is_dir():
        raise InputError(f"{path}: is not a folder; give the folder of a dataset ({NEEDED})")
    found = _coco(path) or _yolo(path) or _voc(path)
    if found is None:
        single = [
            file.relative_to(path).as_posix() for file in (*path.glob("*.json"), *path.glob("annotations/*.json"))
        ]
        there = f"has only {', '.join(sorted(single)[:5])}" if single else "holds no detection dataset"
        if (path / YOLO).is_file():
            places = ", ".join(f"{split}: {place}" for split, place in places_of(path).items()) or "no train, no val"
            there = (
                f"its {YOLO} names no folders of images that are here for both train and val ({shortened(places, 200)})"
            )
        elif _classes(path):
            there = "holds images with a class each, and this is about detection"
        raise InputError(f"{path}: {there}; {NEEDED}")
    train, val = found
    if train.classes != val.classes:
        raise InputError(f"{path}: {unlike(train, val)}; give both the same categories in the same order")
    return found


def open_class_folder(path: Path) -> tuple[ClassificationData, ClassificationData]:
    """(train, val) of CIFAR-100's layout, or else of one folder a class; InputError naming what is missing."""
    if not path.is_dir():
        raise InputError(f"{path}: is not a folder; give the folder of a dataset ({NEEDED_CLASSES})")
    kits = path / "VOCdevkit", path
    boxes = any(_annotated(path, TRAIN + VAL)) or any(split for kit in kits for split in splits_of(kit))
    found = None if boxes else _classes(path)
    if found is None:
        there = "holds images with boxes, and this is about classification" if boxes else "holds no such dataset"
        raise InputError(f"{path}: {there}; {NEEDED_CLASSES}")
    train, val = found
    if train.classes != val.classes:
        raise InputError(f"{path}: {unlike(train, val)}; give both the same")
    return found


def open_any_folder(
    path: Path,
) -> tuple[DetectionData, DetectionData] | tuple[ClassificationData, ClassificationData]:
    """(train, val) of a dataset of either kind; InputError naming what detection needs where there is none."""
    boxes = not path.is_dir() or _coco(path) or _yolo(path) or _voc(path)
    labelled = (path / YOLO).is_file()  # its images/ and labels/ look like two classes
    return open_folder(path) if boxes or labelled or not _classes(path) else open_class_folder(path)


def _classes(path: Path) -> tuple[ClassificationData, ClassificationData] | None:
    for folder in (path / CIFAR, path):
        if all((folder / name).is_file() for name in ("train", "test", "meta")):
            return Cifar100(split="train", folder=path), Cifar100(split="test", folder=path)
    train, val = (next((name for name in names if has_classes(path / name)), None) for names in (TRAIN, VAL))
    return (Folders(split=train, folder=path), Folders(split=val, folder=path)) if train and val else None


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
            f"{split}/{ROBOFLOWS}",
        ):
            if (path / name).is_file():
                yield split, path / name


def _images(path: Path, split: str, annotations: Path) -> Path:
    """The folder that the annotations' file names are relative to: the first that has one of the first ten images."""
    names = list(islice(names_in(annotations), 10))
    folders = [
        path / split,
        path / "images" / split,
        path / "images",
        *sorted(path.glob("VOCdevkit/*/JPEGImages")),
        path,
    ]
    for folder in folders:
        if any(is_file(folder / name) for name in names):
            return folder
    shown = f", such as {names[0]}," if names else ""
    looked = ", ".join(folder.relative_to(path).as_posix() for folder in folders if folder.is_dir())
    raise InputError(f"{annotations}: its images{shown} are in none of {looked}; put them into images/")


def _yolo(path: Path) -> tuple[DetectionData, DetectionData] | None:
    if not (path / YOLO).is_file():
        return None
    there = splits_of_yolo(path)
    val = next((split for split in ("val", "test") if split in there), None)
    return (Yolo(split="train", folder=path), Yolo(split=val, folder=path)) if val and "train" in there else None


def _voc(path: Path) -> tuple[DetectionData, DetectionData] | None:
    for kit in (path / "VOCdevkit", path):
        there = set(splits_of(kit))
        for names in (("trainval", "test"), ("train", "val"), ("train", "test")):
            train, val = (tuple(sorted(s for s in there if s.endswith(f"/{name}"))) for name in names)
            if train and val:
                return Voc(splits=train, folder=path), Voc(splits=val, folder=path)
    return None
