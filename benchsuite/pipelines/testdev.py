"""Tables on COCO's test-dev, whose truth only COCO's server has: the row's results file for the server, and beside it
the numbers on the split whose truth is here.
"""

import json
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from benchsuite.data.dataset import DetectionData, DetectionSet
from benchsuite.engine.job import Context, Job
from benchsuite.metrics.metric import Found
from benchsuite.pipelines.detection import Detection, Predict, Score, found
from benchsuite.pipelines.pipeline import Pipeline
from benchsuite.recipe.recipe import MINIVAL
from benchsuite.settings import Json


class Minival(Score):
    """Scores on the split whose truth is here, each name with `minival_` before it. Leaves `metrics.json`."""

    def do(self, context: Context) -> None:
        """As `Score` does."""
        scores = self.metric.score(self.predict.data.open(), found(context.inputs["predict"]))
        context.write_metrics({MINIVAL + name: value for name, value in scores.items()})


class Submit(Job):
    """Write detections as COCO's server takes them. Leaves `detections.json` and how many there are.

    The file goes up as detections_test-dev2017_NAME_results.zip; no number of it can be told here.
    """

    product: ClassVar[str] = "detections.json"

    predict: Predict

    @property
    def label(self) -> str:
        """For progress and plan."""
        return f"submission seed {self.predict.train.seed}"

    def do(self, context: Context) -> None:
        """Read, convert, write."""
        lines = coco_results(self.predict.data.open(), found(context.inputs["predict"]))
        (context.folder / "detections.json").write_text(json.dumps(lines) + "\n")
        context.write_metrics({"submitted": len(lines)})


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


class TestDev(Detection):
    """A detection row whose published numbers are from test-dev: `test` is detected on and written for the server.

    Without `test`, as on data that has no such split, the submission is written of the split that is scored.
    """

    test: DetectionData | None = None

    def jobs(self, seed: int) -> Mapping[str, Job]:
        """The scores here, the submission, and the latency where it is asked for."""
        last = dict(super().jobs(seed))
        seen = self.predict(seed)
        last["score"] = Minival(predict=seen, metric=self.metric)
        last["submission"] = Submit(predict=seen if self.test is None else self.predict_on(self.test, seed))
        return last

    def difference(self, other: Pipeline, seed: int, column: str) -> Job | None:
        """On the columns that are measured here."""
        return super().difference(other, seed, column.removeprefix(MINIVAL)) if column.startswith(MINIVAL) else None
