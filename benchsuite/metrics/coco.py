"""COCO average precision and recall (Lin et al., ECCV 2014; pycocotools) of boxes and masks."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

import hotcoco
import numpy as np
from numpy.typing import NDArray
from pycocotools import coco as reference
from pycocotools import cocoeval as reference_eval
from pycocotools import mask as reference_mask
from pydantic import Field, model_validator
from typing_extensions import override

from benchsuite.data.dataset import DetectionSet, Masks
from benchsuite.metrics import tide
from benchsuite.metrics.coco_matching import THRESHOLDS, judged, rles
from benchsuite.metrics.judged import Floats, average_precisions, mean, recalls
from benchsuite.metrics.metric import Found, Metric, parts_of, per_class, percent
from benchsuite.settings import Json

COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
SIZES = ("", "s", "m", "l")
SIZE_NAMES = ("small", "medium", "large")
LIMITS = (1, 10, 100)
POINTS = 101  # recalls

MOST_AREA = 1e10
Limit = Annotated[int, Field(ge=1)]

# Both evaluators offer pycocotools' interface: `eval["precision"]` [T, R, K, A, M], `eval["recall"]` [T, K, A, M].
Evaluation: TypeAlias = Any


@dataclass(frozen=True)
class Cut:
    """What a column is the mean of: precision or recall at one IoU threshold (index; None: at all), for objects of one
    size (index into `SIZES`) and at most one of the limits of detections (index)."""

    threshold: int | None = None
    size: int = 0
    limit: int = -1
    recall: bool = False

    @property
    def thresholds(self) -> slice:
        """The threshold, or all."""
        return slice(None) if self.threshold is None else slice(self.threshold, self.threshold + 1)


def cuts(limits: Sequence[int]) -> dict[str, Cut]:
    """The columns: pycocotools' 12 numbers in its order, then AP at each threshold for each size."""
    sizes = {size: at for at, size in enumerate(SIZES)}
    found = {"AP": Cut(), "AP50": Cut(0), "AP75": Cut(5)}
    found |= {f"AP{size}": Cut(size=at) for size, at in sizes.items() if size}
    found |= {f"AR{limit}": Cut(limit=at, recall=True) for at, limit in enumerate(limits)}
    found |= {f"AR{size}": Cut(size=at, recall=True) for size, at in sizes.items() if size}
    return found | {f"AP{50 + 5 * t}{size}": Cut(t, at) for t in range(len(THRESHOLDS)) for size, at in sizes.items()}


class Coco(Metric):
    """The 12 COCO numbers. `evaluator` chooses who counts; both give the same bits, hotcoco about 90 times faster.

    With them come AP at each of the ten IoU thresholds, of all sizes and of each: AP60, AP60s, AP85l. COCO knows crowd
    regions but nothing difficult: VOC's difficult boxes count like any other. AP is 0–100, None where no class has
    ground truth of that size.

    small, large  sides in pixels: objects of at most small² are small, of at least large² large
    limits        the best detections of each image and class that count: in ARs of these names; the last for all else
    """

    evaluator: Literal["hotcoco", "pycocotools"] = "hotcoco"
    small: float = Field(32, gt=0)
    large: float = Field(96, gt=0)
    limits: tuple[Limit, Limit, Limit] = LIMITS

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.large < self.small:
            raise ValueError(f"large {self.large:g} is less than small {self.small:g}; swap them")
        if sorted(set(self.limits)) != list(self.limits):
            raise ValueError(f"limits {list(self.limits)} do not rise; give the smallest first")
        return self

    @property
    def protocol(self) -> str:
        """`coco`, whoever evaluates, and what is set otherwise than COCO has it: `coco-sizes16,64-limits1,10,300`."""
        sizes = "" if (self.small, self.large) == (32, 96) else f"-sizes{self.small:g},{self.large:g}"
        limits = "" if self.limits == LIMITS else f"-limits{','.join(map(str, self.limits))}"
        return self.overlap + sizes + limits

    @property
    def overlap(self) -> str:
        """The protocol's name without its settings."""
        return "coco"

    @property
    def columns(self) -> tuple[str, ...]:
        """pycocotools' 12 numbers in its order, then the others."""
        return tuple(cuts(self.limits))

    @property
    @override
    def paired_columns(self) -> tuple[str, ...]:
        return self.columns

    @property
    def areas(self) -> list[list[float]]:
        """Least and greatest area of each of `SIZES`."""
        small, large = self.small**2, self.large**2
        return [[0.0, MOST_AREA], [0.0, small], [small, large], [large, MOST_AREA]]

    def score(self, data: DetectionSet, found: Found) -> dict[str, Json]:
        """Score `found`; `per_class` holds AP."""
        found.check(data)
        return {"protocol": self.protocol, **summary(self.evaluated(data, found), data)}

    def evaluated(self, data: DetectionSet, found: Found) -> Evaluation:
        """By the chosen evaluator."""
        evaluate = with_hotcoco if self.evaluator == "hotcoco" else with_pycocotools
        return evaluate(data, found, self.truth(data), self.areas, self.limits)

    @override
    def resampled(self, data: DetectionSet, found: Found, column: str, weights: Floats) -> Floats | None:
        cut = cuts(self.limits).get(column)
        if cut is None:
            return None
        found.check(data)
        low, high = self.areas[cut.size]
        limit, most = self.limits[cut.limit], self.limits[-1]
        seen = judged(data, found, (low, high), limit, most, self.truth(data)).at(cut.thresholds)
        return 100 * mean(recalls(seen, weights) if cut.recall else average_precisions(seen, weights, POINTS))

    @override
    def parts(self, data: DetectionSet, found: Found, weights: Floats) -> dict[str, Floats]:
        found.check(data)
        most, masks = self.limits[-1], self.truth(data)

        def each(area: list[float]) -> Floats:
            told = judged(data, found, (area[0], area[1]), most, most, masks)
            return average_precisions(told, weights, POINTS)

        whole, *sizes = self.areas
        errors, seen = tide.costs(data, found, most, POINTS, weights, masks), each(whole)
        strict = {f"overlap/IoU {THRESHOLDS[t]:.1f}": 100 * mean(seen[t]) for t in range(0, len(THRESHOLDS), 2)}
        return (
            parts_of(self.of_classes, seen, data, errors)
            | strict
            | {f"size/{name}": 100 * mean(each(area)) for name, area in zip(SIZE_NAMES, sizes, strict=True)}
        )

    def truth(self, data: DetectionSet) -> Masks | None:
        """The true masks, where it is masks that overlap; None for boxes."""
        return None


class CocoMasks(Coco):
    """The same numbers, of masks: IoU counts pixels, and sizes are areas of masks (pycocotools' `segm`).

    InputError where the data or the detections have boxes only.
    """

    masks: ClassVar[bool] = True

    @property
    @override
    def overlap(self) -> str:
        return "coco-mask"

    def truth(self, data: DetectionSet) -> Masks:
        """The data's masks."""
        return data.open_masks()


def summary(evaluation: Evaluation, data: DetectionSet) -> dict[str, Json]:
    """All columns, 0–100, and the AP of each class."""
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]

    def value(cut: Cut) -> float:
        if cut.recall:
            return _mean(recall[cut.thresholds, :, cut.size, cut.limit])
        return _mean(precision[cut.thresholds, :, :, cut.size, cut.limit])

    each = (_mean(precision[:, :, number - 1, 0, -1]) for number in _numbers(data.category_ids))
    return {
        **{name: percent(value(cut)) for name, cut in cuts(evaluation.params.maxDets).items()},
        "per_class": per_class(data, "AP", map(percent, each)),
    }


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else np.nan


def with_hotcoco(
    data: DetectionSet,
    found: Found,
    masks: Masks | None = None,
    areas: list[list[float]] | None = None,
    limits: Sequence[int] = LIMITS,
) -> Evaluation:
    """Evaluate and accumulate in hotcoco; with the true `masks`, by masks. `areas` and `limits` as `Coco` has them."""
    truth = hotcoco_truth(data, masks)
    held: list[Any] | None = None if masks is None else rles(data, found)
    results = truth.load_res(_rows(data, found), segmentation=held)
    if held:
        # As pycocotools does for results that are masks: one too many is small or large by its mask, not its box.
        results.update_anns(ids=np.arange(1, len(held) + 1), area=hotcoco.mask.area(held).astype(np.float64))
    return finish(_set(hotcoco.COCOeval(truth, results, _overlap(masks)), areas, limits))


def finish(evaluation: hotcoco.COCOeval) -> Evaluation:
    """Run an evaluation of hotcoco, printing nothing."""
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def _set(evaluation: Evaluation, areas: list[list[float]] | None, limits: Sequence[int]) -> Evaluation:
    if areas is not None:
        evaluation.params.areaRng = areas
    evaluation.params.maxDets = list(limits)
    return evaluation


def with_pycocotools(
    data: DetectionSet,
    found: Found,
    masks: Masks | None = None,
    areas: list[list[float]] | None = None,
    limits: Sequence[int] = LIMITS,
) -> Evaluation:
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
        held = zip(results, rles(data, found), strict=True)
        results = [box | {"segmentation": rle, "area": float(reference_mask.area(rle))} for box, rle in held]
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for annotations in (truth, results):
            side = reference.COCO()
            side.dataset = {"images": images, "categories": categories, "annotations": annotations}
            side.createIndex()
            sides.append(side)
        evaluation = _set(reference_eval.COCOeval(*sides, _overlap(masks)), areas, limits)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def hotcoco_truth(data: DetectionSet, masks: Masks | None = None) -> hotcoco.COCO:
    """The ground truth as hotcoco holds it."""
    image_ids, category_ids, boxes, areas, crowd = _truth_columns(data)
    held: list[Any] | None = None if masks is None else [masks.rle(row) for row in range(len(boxes))]
    return hotcoco.COCO.from_arrays(
        _images(data), _categories(data), image_ids, category_ids, boxes, area=areas, iscrowd=crowd, segmentation=held
    )


def _overlap(masks: Masks | None) -> str:
    return "bbox" if masks is None else "segm"


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
