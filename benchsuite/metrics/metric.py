"""What every detection metric takes, the saved detections of one split, and what it gives back."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from benchsuite.data.dataset import DetectionSet, distinct, index_of
from benchsuite.data.masks import Packed
from benchsuite.errors import BenchError, InputError
from benchsuite.metrics.judged import Floats, draws, mean
from benchsuite.settings import Json, Part

COLUMNS = ("image_ids", "boxes", "scores", "labels")
MASKS = ("mask_bytes", "mask_offsets")
SIDES = "sides"
_SPLIT = "detect on the split that is scored"


@dataclass(frozen=True)
class Interval:
    """A difference of AP points (0–100) and the 95 % interval of its paired bootstrap."""

    low: float
    high: float
    difference: float

    @classmethod
    def of(cls, differences: Floats) -> "Interval | None":
        """Of the difference as it is and then in each draw; None where it is undefined (NaN)."""
        difference, *drawn = differences
        if np.isnan(difference):
            return None
        low, high = np.nanquantile(drawn, (0.025, 0.975))
        return cls(float(low), float(high), float(difference))


@dataclass(frozen=True)
class Found:
    """D detections of one split, in any order.

    image_ids int64 [D]        as in the annotation file; uint64 where one of those needs it
    boxes     floating [D, 4]  xyxy in pixels of the original image
    scores    floating [D]
    labels    int64 [D]        0-based class
    sides     float64 [D, 2]   width, height where these are what was written: x + w - x is not always w; None else
    masks     D strings        COCO's compressed run lengths, each of its whole image; None where there are boxes only
    """

    image_ids: NDArray[np.integer]
    boxes: NDArray[np.floating]
    scores: NDArray[np.floating]
    labels: NDArray[np.int64]
    masks: Packed | None = None
    sides: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        number = len(self.scores)
        if self.masks is not None and len(self.masks) != number:
            raise BenchError(f"detections: {len(self.masks)} masks of {number} detections; save one for each")
        shapes = [getattr(self, name).shape for name in COLUMNS]
        if shapes != [(number,), (number, 4), (number,), (number,)]:
            raise BenchError(f"detections: columns of unlike length {shapes}; save image_ids, boxes, scores and labels")

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def load(cls, path: Path) -> "Found":
        """Read `detections.safetensors`; BenchError where it is absent, truncated or lacks a column."""
        try:
            columns = load_file(path)
            masks = Packed(*(columns[name] for name in MASKS)) if MASKS[0] in columns else None
            return cls(**{name: columns[name] for name in COLUMNS}, masks=masks, sides=columns.get(SIDES))
        except FileNotFoundError:
            raise BenchError(f"{path}: no such file; predict first") from None
        except (SafetensorError, KeyError) as error:
            raise BenchError(f"{path}: not a whole file of detections ({error}); predict again") from None

    def save(self, path: Path) -> None:
        """Write the columns as safetensors, sides as one more and masks as two."""
        names = COLUMNS if self.sides is None else (*COLUMNS, SIDES)
        columns = {name: np.ascontiguousarray(getattr(self, name)) for name in names}
        if self.masks is not None:
            columns |= zip(MASKS, (self.masks.data, self.masks.offsets), strict=True)
        save_file(columns, path)

    @property
    def xywh(self) -> NDArray[np.float64]:
        """The boxes as left, top, width, height, to the bit as written, [D, 4]."""
        boxes = self.boxes.astype(np.float64)
        return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2] if self.sides is None else self.sides], axis=1)

    def images(self, data: DetectionSet) -> NDArray[np.int64]:
        """Place in `data` of each detection's image, [D]; -1 for none of its images."""
        return index_of(self.image_ids, data.image_ids)

    def check(self, data: DetectionSet) -> None:
        """InputError, naming the value, where a detection cannot belong to `data` or cannot be ranked."""
        strange = self.images(data) < 0
        if strange.any():
            raise InputError(f"detections: image id {self.image_ids[strange][0]} is not in {data.name}; {_SPLIT}")
        strange = (self.labels < 0) | (self.labels >= len(data.classes))
        if strange.any():
            known = f"the {len(data.classes)} of {data.name}"
            raise InputError(f"detections: class {self.labels[strange][0]} is none of {known}; {_SPLIT}")
        finite = {"scores": np.isfinite(self.scores), "boxes": np.isfinite(self.boxes).all(axis=1)}
        for name, fine in finite.items():
            if not fine.all():
                row = int(np.flatnonzero(~fine)[0])
                raise InputError(
                    f"detections: {name} of detection {row} (image {self.image_ids[row]}) are not finite; leave it out"
                )


def drawn_weights(images: int) -> Floats:
    """How often each image of a split counts: once, and then as in each of many draws, [N, 1 + draws]."""
    return np.concatenate([np.ones((images, 1)), draws(images)], axis=1)


def percent(value: float) -> float | None:
    """0–1 to 0–100; NaN, for "undefined", to None."""
    return None if np.isnan(value) else 100 * float(value)


def per_class(data: DetectionSet, column: str, numbers: Iterable[float | None]) -> dict[str, Json]:
    """A metric's `per_class` of the numbers of all classes, in label order. By id: names may be equal."""
    kinds = zip(data.category_ids.tolist(), data.classes, numbers, strict=True)
    return {str(id_): {"name": name, column: number} for id_, name, number in kinds}


def columns_of_classes(classes: Mapping[str, Any], column: str) -> dict[str, Json]:
    """`per_class` as columns of a table, `AP50/aeroplane`; classes of one name have their ids with it."""
    names = distinct((each["name"] for each in classes.values()), classes)
    return {f"{column}/{name}": each[column] for name, each in zip(names, classes.values(), strict=True)}


def parts_of(column: str, each: Floats, data: DetectionSet, costs: Mapping[str, Floats]) -> dict[str, Floats]:
    """`Metric.parts` but for sizes, from AP, 0–1, at thresholds and of classes, [T, K, R], and what errors cost."""
    classes = zip(distinct(data.classes, data.category_ids.tolist()), each.mean(axis=0), strict=True)
    named = {f"class/{name}": 100 * ap for name, ap in classes}
    return {column: 100 * mean(each)} | {f"error/{kind}": cost for kind, cost in costs.items()} | named


class Metric(Part):
    """Slot: how detections of a split become numbers.

    Results of unlike `protocol` measure unlike things and are never compared. `masks`: it needs masks, in the data and
    of the model. `of_classes`: the column that `per_class` holds class by class.
    """

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.metrics",)
    masks: ClassVar[bool] = False
    of_classes: ClassVar[str] = "AP"

    @property
    @abstractmethod
    def protocol(self) -> str:
        """Name of the rules, for instance `coco` or `voc07`; part of every result."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The numbers that `score` gives, in a table's order."""

    @property
    def paired_columns(self) -> tuple[str, ...]:
        """Columns that `drawn` can draw; none by default."""
        return ()

    def resampled(self, data: DetectionSet, found: Found, column: str, weights: Floats) -> Floats | None:
        """A column, 0–100, [R], with each image of the split counted as `weights` [N, R] say; NaN where a draw leaves
        it undefined. None for a column that the images cannot be drawn for. InputError as `score`."""
        return None

    def drawn(self, data: DetectionSet, found: Found, column: str) -> Floats | None:
        """A column, 0–100, as it is and then in each of many draws of images, which are the same for whatever is
        scored on this split: [1 + draws]."""
        return self.resampled(data, found, column, drawn_weights(len(data)))

    def parts(self, data: DetectionSet, found: Found, weights: Floats) -> dict[str, Floats]:
        """What the column `of_classes` is made of, each 0–100 and [R], weighted as in `resampled`: itself, `size/…` and
        `overlap/…` where the protocol knows sizes and several thresholds, `class/…` each class by name, `error/…` what
        TIDE's kinds of error cost AP50. Empty where that is not told."""
        return {}

    @abstractmethod
    def score(self, data: DetectionSet, found: Found) -> dict[str, Json]:
        """`protocol`, one number (0–100, None where undefined) a column, and `per_class`: the id
        of each class in the annotation file (as text, for JSON) -> its name and its number.

        InputError where the detections do not fit the data.
        """
