"""COCO (Lin et al. 2014) and anything in its format: one JSON of images, categories and annotations, beside images."""

from abc import abstractmethod
from pathlib import Path

from pydantic import Field
from typing_extensions import override

from benchsuite.data.cocofile import classes_of, file_fingerprint, read, segmented
from benchsuite.data.dataset import DetectionData, DetectionSet
from benchsuite.data.files import Raw, checked, looked_in, roots
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
ROBOFLOWS = "_annotations.coco.json"
"""The annotations of each split in Roboflow's export, in the folder of its images."""
SAME_AS = {"trainval35k": "train2017", "minival": "val2017"}


class InCocoFormat(DetectionData):
    """Images and the annotation file that is of them."""

    @abstractmethod
    def raw(self) -> Raw:
        """The annotations as written; InputError where the file is not in COCO's format."""

    @abstractmethod
    def _found(self) -> tuple[Path, Path]: ...

    def fingerprint(self) -> str:
        """Hash of the annotation file and the names and sizes of its images."""
        return file_fingerprint(*self._found())

    def has_masks(self) -> bool:
        """Whether an annotation has a segmentation."""
        return segmented(self._found()[0])

    @override
    def open(self) -> DetectionSet:
        return checked(self.raw())


class Coco(InCocoFormat):
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

    @override
    def raw(self) -> Raw:
        raw = read(self.name, *self._found())
        if raw.classes != CLASSES:
            raise InputError(
                f"{raw.file}: has not COCO's 80 classes but {len(raw.classes)}; open it with --data instead"
            )
        return raw

    @override
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


class File(InCocoFormat):
    """Any COCO-format annotation file and the folder its file names are relative to; classes come from the file."""

    annotations: Path = Field(exclude=True)
    images: Path = Field(exclude=True)

    @property
    def name(self) -> str:
        """Folder and split, for instance `bccd train`."""
        file = self.annotations.resolve()
        if file.name == ROBOFLOWS:
            return f"{file.parent.parent.name} {file.parent.name}"
        folder = file.parent.parent if file.parent.name == "annotations" else file.parent
        return f"{folder.name} {file.stem.removeprefix('instances_')}"

    @property
    def classes(self) -> tuple[str, ...]:
        """The file's categories in the order of their ids."""
        return classes_of(self._found()[0])

    @override
    def raw(self) -> Raw:
        return read(self.name, *self._found())

    @override
    def _found(self) -> tuple[Path, Path]:
        if not self.annotations.is_file():
            raise MissingData(f"{self.annotations}: there is no such annotation file; correct the path")
        if not self.images.is_dir():
            raise MissingData(f"{self.images}: there is no such folder of images; correct the path")
        return self.annotations, self.images


def _instances(root: Path) -> list[Path]:
    return sorted((root / "annotations").glob("instances_*.json"))
