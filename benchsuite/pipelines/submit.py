"""What a server takes that alone has the truth of its images: COCO's results file, VOC's files of competition 4."""

import json
from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchsuite.data.dataset import DetectionData, DetectionSet
from benchsuite.metrics.metric import Found
from benchsuite.settings import Json, Part


class Submission(Part):
    """Slot: the file or folder `product` that a server takes.

    data  the server's images; left out where they are the row's val split, or on data that has no such split
    """

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.pipelines", "benchsuite.papers")
    product: ClassVar[str]

    data: DetectionData | None = None

    @abstractmethod
    def write(self, data: DetectionSet, found: Found, path: Path) -> None:
        """Write what was found in `data` to `path`, which is not there yet."""


class CocoResults(Submission):
    """COCO's results format, one JSON file. It goes up as detections_test-dev2017_NAME_results.zip."""

    product: ClassVar[str] = "detections.json"

    def write(self, data: DetectionSet, found: Found, path: Path) -> None:
        """One line of JSON."""
        path.write_text(json.dumps(coco_results(data, found)) + "\n")


class Comp4(Submission):
    """VOC's results files, `comp4_det_test_CLASS.txt` with `image score xmin ymin xmax ymax` a line; a class without
    detections has an empty one. They go up as results/VOC2012/Main/ in one archive."""

    product: ClassVar[str] = "comp4"

    def write(self, data: DetectionSet, found: Found, path: Path) -> None:
        """One file a class. Pixels count from 1 and the last one is included: edges 0, 0 to w, h are 1, 1 to w, h."""
        path.mkdir()
        order = np.argsort(data.image_ids)
        images = order[np.searchsorted(data.image_ids, found.image_ids, sorter=order)]
        stems = [Path(name).stem for name in data.file_names]
        corners = (found.boxes.astype(np.float64) + np.array([1, 1, 0, 0])).tolist()
        scores = found.scores.astype(np.float64).tolist()
        for label, name in enumerate(data.classes):
            lines = [
                f"{stems[images[row]]} {scores[row]:.6f} {' '.join(f'{side:.3f}' for side in corners[row])}\n"
                for row in np.flatnonzero(found.labels == label).tolist()
            ]
            (path / f"comp4_det_test_{name}.txt").write_text("".join(lines))


def coco_results(data: DetectionSet, found: Found) -> list[dict[str, Json]]:
    """COCO's results format: image_id, category_id, bbox [x, y, width, height] in pixels, score."""
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    boxes = np.concatenate([found.boxes[:, :2], sides], axis=1).astype(np.float64).round(3)
    categories = data.category_ids[found.labels].tolist()
    scores = found.scores.astype(np.float64).round(6).tolist()
    rows = zip(found.image_ids.tolist(), categories, boxes.tolist(), scores, strict=True)
    return [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, category, box, score in rows
    ]
