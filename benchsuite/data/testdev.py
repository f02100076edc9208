"""COCO's test-dev: images without truth, for results that COCO's server scores."""

from pathlib import Path

from pydantic import Field
from typing_extensions import override

from benchsuite.data.coco import CLASSES
from benchsuite.data.cocofile import names_in, read
from benchsuite.data.dataset import DetectionData, DetectionSet
from benchsuite.data.files import checked, fingerprint, looked_in, roots
from benchsuite.disk import read_within
from benchsuite.errors import InputError, MissingData


class TestDev(DetectionData):
    """The 20,288 images of test-dev2017, found under $BENCH_DATA in the usual layouts, or in `folder`: the list
    `annotations/image_info_test-dev2017.json` beside `test2017/`."""

    folder: Path | None = Field(None, exclude=True)

    @property
    @override
    def name(self) -> str:
        return "coco test-dev2017"

    @property
    def classes(self) -> tuple[str, ...]:
        """COCO's 80 classes."""
        return CLASSES

    @property
    def annotated(self) -> bool:
        """No: only the server has the truth."""
        return False

    def fingerprint(self) -> str:
        """Hash of the list and of the names and sizes of its images."""
        file, folder = self._found()
        return fingerprint([read_within(file, "download it again")], (folder / name for name in names_in(file)))

    def open(self) -> DetectionSet:
        """The images, without boxes. InputError where the list is not COCO's."""
        file, folder = self._found()
        raw = read(self.name, file, folder, annotated=False)
        if raw.classes != CLASSES:
            raise InputError(f"{file}: has not COCO's 80 classes but {len(raw.classes)}; download it again")
        return checked(raw)

    def _found(self) -> tuple[Path, Path]:
        for root in roots("coco", self.folder):
            listed = root / "annotations" / "image_info_test-dev2017.json"
            images = next((path for path in (root / "test2017", root / "images" / "test2017") if path.is_dir()), None)
            if listed.exists() and images is not None:
                return listed, images
        raise MissingData(
            f"coco test-dev2017: not in {looked_in('coco', self.folder)}; unpack "
            "http://images.cocodataset.org/zips/test2017.zip and "
            "http://images.cocodataset.org/annotations/image_info_test2017.zip into $BENCH_DATA/coco, or leave the "
            "submission out with --set submit=null"
        )
