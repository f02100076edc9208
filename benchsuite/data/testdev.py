"""COCO's test-dev: images without truth, for results that COCO's server scores."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from benchsuite.data.coco import CLASSES, names_in
from benchsuite.data.dataset import DetectionData, DetectionSet
from benchsuite.data.files import ImageFiles, fingerprint, looked_in, roots
from benchsuite.errors import InputError, MissingData


class TestDev(DetectionData):
    """The 20,288 images of test-dev2017, found under $BENCH_DATA in the usual layouts, or in `folder`: the list
    `annotations/image_info_test-dev2017.json` beside `test2017/`."""

    folder: Path | None = Field(None, exclude=True)

    @property
    def name(self) -> str:
        """Shown on results."""
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
        listed, images = self._found()
        text = listed.read_bytes()
        return fingerprint([text], (images / name for name in names_in(text)))

    def open(self) -> DetectionSet:
        """The images, without boxes. InputError where the list is not COCO's."""
        listed, images = self._found()
        try:
            content: Mapping[str, Any] = json.loads(listed.read_bytes())
            entries = sorted(content["images"], key=lambda image: int(image["id"]))
            kinds = sorted(content["categories"], key=lambda kind: int(kind["id"]))
            sizes = [(image["height"], image["width"]) for image in entries]
            names = tuple(image["file_name"] for image in entries)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{listed}: is not COCO's list of test images ({error!r}); download it again") from None
        if tuple(kind["name"] for kind in kinds) != CLASSES:
            raise InputError(f"{listed}: has not COCO's 80 classes but {len(kinds)}; download it again")
        none = np.zeros(0)
        return DetectionSet(
            name=self.name,
            classes=CLASSES,
            image_ids=np.array([image["id"] for image in entries], np.int64),
            file_names=names,
            sizes=np.array(sizes, np.int32),
            boxes=none.reshape(0, 4),
            labels=none.astype(np.int64),
            areas=none,
            crowd=none.astype(np.bool_),
            difficult=none.astype(np.bool_),
            offsets=np.zeros(len(entries) + 1, np.int64),
            category_ids=np.array([kind["id"] for kind in kinds], np.int64),
            read=ImageFiles(tuple(images / name for name in names)),
            fingerprint=self.fingerprint(),
        )

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
