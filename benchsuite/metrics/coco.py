"""COCO average precision and recall (Lin et al., ECCV 2014; pycocotools) of boxes and masks; its paired bootstrap."""

import contextlib
import io
from typing import Any, ClassVar, Literal, TypeAlias

import hotcoco
import numpy as np
from numpy.typing import NDArray
from pycocotools import coco as reference
from pycocotools import cocoeval as reference_eval
from pycocotools import mask as reference_mask

from benchsuite.data.dataset import DetectionSet, Masks, Rle
from benchsuite.errors import InputError
from benchsuite.metrics.metric import Found, Interval, Metric, per_class
from benchsuite.settings import Json

COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
AREAS = {"s": ("small", [0.0, 32.0**2]), "m": ("medium", [32.0**2, 96.0**2]), "l": ("large", [96.0**2, 1e10])}
ALL_AREAS = ("all", [0.0, 1e10])
BY_THRESHOLD = {f"AP{50 + 5 * t}{area}": (t, a) for t in range(10) for a, area in enumerate(("", *AREAS))}
"""Where AP50 … AP95, AP50s … AP95l stand in the evaluators' precision: index of threshold and of area."""

# Both evaluators offer pycocotools' interface: `stats` (12 numbers), `eval["precision"]` [T, R, K, A, M].
Evaluation: TypeAlias = Any


class Coco(Metric):
    """The 12 COCO numbers. `evaluator` chooses who counts; both give the same bits, hotcoco about 90 times faster.

    With them come AP at each of the ten IoU thresholds, of all sizes and of each: AP60, AP60s, AP85l. COCO knows crowd
    regions but nothing difficult: VOC's difficult boxes count like any other. AP is 0–100, None where no class has
    ground truth of that size.
    """

    evaluator: Literal["hotcoco", "pycocotools"] = "hotcoco"

    @property
    def protocol(self) -> str:
        """`coco`, whoever evaluates."""
        return "coco"

    @property
    def columns(self) -> tuple[str, ...]:
        """pycocotools' 12 numbers in its order, then the others."""
        return (*COLUMNS, *(name for name in BY_THRESHOLD if name not in COLUMNS))

    @property
    def paired_columns(self) -> tuple[str, ...]:
        """The 12 COCO numbers."""
        return COLUMNS

    def paired(self, data: DetectionSet, a: Found, b: Found, column: str) -> Interval | None:
        """See `paired_images`."""
        return paired_images(data, a, b, column, masks=self.truth(data))

    def score(self, data: DetectionSet, found: Found) -> dict[str, Json]:
        """Score `found`; `per_class` holds AP."""
        found.check(data)
        evaluate = with_hotcoco if self.evaluator == "hotcoco" else with_pycocotools
        evaluation = evaluate(data, found, self.truth(data))
        return {**by_threshold(evaluation), **summary(evaluation, data), "protocol": self.protocol}

    def truth(self, data: DetectionSet) -> Masks | None:
        """The true masks, where it is masks that overlap; None for boxes."""
        return None


class CocoMasks(Coco):
    """The same numbers, of masks: IoU counts pixels, and sizes are areas of masks (pycocotools' `segm`).

    InputError where the data or the detections have boxes only.
    """

    masks: ClassVar[bool] = True

    @property
    def protocol(self) -> str:
        """`coco-mask`, whoever evaluates."""
        return "coco-mask"

    def truth(self, data: DetectionSet) -> Masks:
        """The data's masks."""
        return data.open_masks()


def summary(evaluation: Evaluation, data: DetectionSet) -> dict[str, Json]:
    """The 12 numbers and the AP of each class, 0–100."""
    numbers = {name: percent(value) for name, value in zip(COLUMNS, evaluation.stats, strict=True)}
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    classes = [percent(_mean(precision[:, :, number - 1])) for number in _numbers(data.category_ids)]
    return {"protocol": "coco", **numbers, "per_class": per_class(data, "AP", classes)}


def by_threshold(evaluation: Evaluation) -> dict[str, Json]:
    """AP at each of the ten IoU thresholds for each range of areas, at most 100 detections an image."""
    precision = evaluation.eval["precision"][..., -1]
    return {name: percent(_mean(precision[t, :, :, a])) for name, (t, a) in BY_THRESHOLD.items()}


def percent(value: float) -> float | None:
    """0–1 to 0–100; pycocotools' -1 for "undefined" to None."""
    return 100 * float(value) if value > -1 else None


def _mean(precision: NDArray[np.float64]) -> float:
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else -1.0


def with_hotcoco(data: DetectionSet, found: Found, masks: Masks | None = None) -> Evaluation:
    """Evaluate and accumulate in hotcoco; with the true `masks`, by masks."""
    return finish(_loaded(hotcoco_truth(data, masks), data, found, masks))


def finish(evaluation: hotcoco.COCOeval) -> Evaluation:
    """Run an evaluation of hotcoco to its 12 numbers, printing nothing."""
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summary_lines()
    return evaluation


def with_pycocotools(data: DetectionSet, found: Found, masks: Masks | None = None) -> Evaluation:
    """Evaluate and accumulate in pycocotools, the reference."""
    images, categories = _images(data), _categories(data)
    truth = [
        {"id": i + 1, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": crowd}
        for i, (image, category, box, area, crowd) in enumerate(
            zip(*(column.tolist() for column in _truth_columns(data)), strict=True)
        )
    ]
    results = [
        {"id": i + 1, "image_id": int(row[0]), "category_id": int(row[6]), "bbox": row[1:5], "score": row[5]}
        | {"area": row[3] * row[4], "iscrowd": 0}
        for i, row in enumerate(_rows(data, found).tolist())
    ]
    if masks is not None:
        truth = [box | {"segmentation": masks.rle(row)} for row, box in enumerate(truth)]
        rles = zip(results, _rles(data, found), strict=True)
        results = [box | {"segmentation": rle, "area": float(reference_mask.area(rle))} for box, rle in rles]
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for annotations in (truth, results):
            side = reference.COCO()
            side.dataset = {"images": images, "categories": categories, "annotations": annotations}
            side.createIndex()
            sides.append(side)
        evaluation = reference_eval.COCOeval(*sides, _overlap(masks))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def paired_images(
    data: DetectionSet,
    a: Found,
    b: Found,
    column: str = "AP",
    draws: int = 1000,
    seed: int = 0,
    masks: Masks | None = None,
) -> Interval | None:
    """How sure `b` minus `a` is on this split: images are drawn with replacement, the same ones for both.

    `column` is one of the 12 COCO numbers; None for any other, and where the column is undefined on `data`. It says
    nothing about other seeds of training. With the true `masks` it is by masks.
    """
    if column not in COLUMNS:
        return None
    truth = hotcoco_truth(data, masks)
    sides = [_evaluated_for(column, truth, data, found, masks) for found in (a, b)]
    compared = hotcoco.compare(sides[0], sides[1], n_bootstrap=draws, seed=seed)
    if min(compared["metrics_a"][column], compared["metrics_b"][column]) < 0:
        return None
    interval = compared["ci"][column]
    return Interval(100 * interval["lower"], 100 * interval["upper"], 100 * compared["deltas"][column])


def _evaluated_for(
    column: str, truth: hotcoco.COCO, data: DetectionSet, found: Found, masks: Masks | None
) -> hotcoco.COCOeval:
    """Matched for one column alone, so that each draw accumulates an eighth of what all twelve need."""
    found.check(data)
    evaluation = _loaded(truth, data, found, masks)
    label, area = AREAS.get(column[-1], ALL_AREAS)
    evaluation.params.area_rng_lbl, evaluation.params.area_rng = [label], [area]
    evaluation.params.max_dets = [{"AR1": 1, "AR10": 10}.get(column, 100)]
    evaluation.evaluate()
    return evaluation


def hotcoco_truth(data: DetectionSet, masks: Masks | None = None) -> hotcoco.COCO:
    """The ground truth as hotcoco holds it."""
    image_ids, category_ids, boxes, areas, crowd = _truth_columns(data)
    rles: list[Any] | None = None if masks is None else [masks.rle(row) for row in range(len(boxes))]
    return hotcoco.COCO.from_arrays(
        _images(data), _categories(data), image_ids, category_ids, boxes, area=areas, iscrowd=crowd, segmentation=rles
    )


def _loaded(truth: hotcoco.COCO, data: DetectionSet, found: Found, masks: Masks | None) -> hotcoco.COCOeval:
    """An evaluation of hotcoco, ready to run."""
    rles: list[Any] | None = None if masks is None else _rles(data, found)
    results = truth.load_res(_rows(data, found), segmentation=rles)
    if rles:
        # As pycocotools does for results that are masks: one too many is small or large by its mask, not its box.
        results.update_anns(ids=np.arange(1, len(rles) + 1), area=hotcoco.mask.area(rles).astype(np.float64))
    return hotcoco.COCOeval(truth, results, _overlap(masks))


def _overlap(masks: Masks | None) -> str:
    return "bbox" if masks is None else "segm"


def _rles(data: DetectionSet, found: Found) -> list[Rle]:
    """The detections' masks; InputError where they have none."""
    if found.masks is None:
        raise InputError(f"detections of {data.name}: have boxes but no masks; choose a model that finds masks")
    sizes = data.sizes[found.images(data)].tolist()
    return [{"size": size, "counts": counts} for size, counts in zip(sizes, found.masks, strict=True)]


def _numbers(ids: NDArray[np.integer]) -> NDArray[np.int64]:
    """1, 2, … for ids as they rise. Evaluators get these: the rows of detections are float64, which holds no id beyond
    2^53, and equal scores are ranked by id."""
    numbers = np.empty(len(ids), np.int64)
    numbers[np.argsort(ids, kind="stable")] = np.arange(1, len(ids) + 1)
    return numbers


def _images(data: DetectionSet) -> list[dict[str, Any]]:
    sizes = zip(_numbers(data.image_ids).tolist(), data.sizes.tolist(), strict=True)
    return [{"id": image, "height": height, "width": width} for image, (height, width) in sizes]


def _categories(data: DetectionSet) -> list[dict[str, Any]]:
    kinds = zip(_numbers(data.category_ids).tolist(), data.classes, strict=True)
    return [{"id": number, "name": name} for number, name in kinds]


def _truth_columns(data: DetectionSet) -> tuple[NDArray[Any], ...]:
    """Numbers of image and category, xywh, area, iscrowd: one row a box."""
    images = np.repeat(_numbers(data.image_ids), np.diff(data.offsets))
    return images, _numbers(data.category_ids)[data.labels], data.xywh, data.areas, data.crowd.astype(np.int64)


def _rows(data: DetectionSet, found: Found) -> NDArray[np.float64]:
    """[D, 7]: number of the image, x, y, w, h, score, number of the category."""
    rows = np.empty((len(found), 7))
    rows[:, 0], rows[:, 1:5] = _numbers(data.image_ids)[found.images(data)], found.xywh
    rows[:, 5], rows[:, 6] = found.scores, _numbers(data.category_ids)[found.labels]
    return rows
