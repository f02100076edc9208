"""Small detection sets and detections for the tests of the metrics."""

import json
from pathlib import Path

import numpy as np

from benchsuite.data.dataset import DetectionSet
from benchsuite.metrics.metric import Found, Interval

FIXTURES = Path(__file__).parent / "fixtures" / "metrics"


def detection_set(
    images, boxes, labels, classes, *, crowd=None, difficult=None, areas=None, image_ids=None, category_ids=None
):
    """`boxes` xyxy by `images` (index of the image of each box, rising)."""
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    images = np.asarray(images, int)
    number = len(image_ids) if image_ids is not None else int(images.max(initial=0)) + 1
    sides = boxes[:, 2:] - boxes[:, :2]
    return DetectionSet(
        name="case",
        classes=tuple(classes),
        image_ids=np.asarray(image_ids if image_ids is not None else np.arange(number) + 7, np.int64),
        file_names=tuple(f"{i}.jpg" for i in range(number)),
        sizes=np.full((number, 2), 300, np.int32),
        boxes=boxes,
        labels=np.asarray(labels, np.int64),
        areas=np.asarray(areas, float) if areas is not None else sides[:, 0] * sides[:, 1],
        crowd=np.asarray(crowd if crowd is not None else np.zeros(len(boxes)), bool),
        difficult=np.asarray(difficult if difficult is not None else np.zeros(len(boxes)), bool),
        offsets=np.searchsorted(images, np.arange(number + 1)),
        category_ids=np.asarray(category_ids if category_ids is not None else np.arange(len(classes)) * 3 + 1),
        read=lambda index: np.zeros((300, 300, 3), np.uint8),
    )


def random_case(seed: int, classes: int = 3) -> tuple[DetectionSet, Found]:
    """A few images with boxes of integer corners (so that IoUs and scores tie), difficult and crowd ones among them,
    and detections beside them."""
    rng = np.random.default_rng(seed)
    number, total, found = rng.integers(1, 6), rng.integers(0, 20), rng.integers(0, 40)
    low = rng.integers(0, 30, (total, 2)) * 5
    side = rng.integers(1, 30, (total, 2)) * 5
    data = detection_set(
        np.sort(rng.integers(0, number, total)),
        np.concatenate([low, low + side], 1),
        rng.integers(0, classes, total),
        [f"class{k}" for k in range(classes)],
        crowd=rng.random(total) < 0.1,
        difficult=rng.random(total) < 0.2,
        image_ids=rng.permutation(50)[:number],
        category_ids=rng.permutation(20)[:classes],
    )
    if total:
        source = rng.integers(0, total, found)
        boxes = data.boxes[source] + rng.integers(-2, 3, (found, 4)) * 5
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        images = np.repeat(np.arange(number), np.diff(data.offsets))[source]
        labels = np.where(rng.random(found) < 0.8, data.labels[source], rng.integers(0, classes, found))
    else:
        boxes, images = np.tile([0.0, 0, 9, 9], (found, 1)), rng.integers(0, number, found)
        labels = rng.integers(0, classes, found)
    scores = rng.integers(0, 20, found) / 20
    return data, Found(data.image_ids[images], boxes, scores, labels.astype(np.int64))


def by_name(result):
    """`per_class` of a result: the number of each class by its name."""
    return {each["name"]: next(each[name] for name in each if name != "name") for each in result["per_class"].values()}


def replicated(data: DetectionSet, found: Found, times) -> tuple[DetectionSet, Found]:
    """Each image, with its boxes and detections, as often as `times` says, under an id of its own."""
    source = np.repeat(np.arange(len(data)), times)
    boxes = [np.arange(*data.offsets[[i, i + 1]]) for i in source]
    rows = np.concatenate([*boxes, np.zeros(0, int)]).astype(int)
    seen = [np.flatnonzero(found.image_ids == data.image_ids[i]) for i in source]
    detections = np.concatenate([*seen, np.zeros(0, int)]).astype(int)
    whole = detection_set(
        np.repeat(np.arange(len(source)), [len(each) for each in boxes]),
        data.boxes[rows],
        data.labels[rows],
        data.classes,
        crowd=data.crowd[rows],
        difficult=data.difficult[rows],
        areas=data.areas[rows],
        image_ids=np.arange(len(source)),
        category_ids=data.category_ids,
    )
    image_ids = np.repeat(np.arange(len(source)), [len(each) for each in seen])
    return whole, Found(image_ids, found.boxes[detections], found.scores[detections], found.labels[detections])


def paired(metric, data, first, second, column):
    """The interval of `first` minus `second` over images."""
    sides = [metric.drawn(data, found, column) for found in (first, second)]
    return Interval.of(sides[0] - sides[1])


def from_coco(truth: Path, results: Path) -> tuple[DetectionSet, Found]:
    """A COCO JSON and its results, read naively."""
    document, detections = json.loads(truth.read_text()), json.loads(results.read_text())
    image_ids = [image["id"] for image in document["images"]]
    category_ids = [category["id"] for category in document["categories"]]
    boxes = sorted(document["annotations"], key=lambda box: image_ids.index(box["image_id"]))

    def xyxy(rows):
        xywh = np.array([row["bbox"] for row in rows], float).reshape(-1, 4)
        return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)

    data = detection_set(
        [image_ids.index(box["image_id"]) for box in boxes],
        xyxy(boxes),
        [category_ids.index(box["category_id"]) for box in boxes],
        [category["name"] for category in document["categories"]],
        crowd=[box["iscrowd"] for box in boxes],
        areas=[box["area"] for box in boxes],
        image_ids=image_ids,
        category_ids=category_ids,
    )
    found = Found(
        np.array([row["image_id"] for row in detections], np.int64),
        xyxy(detections),
        np.array([row["score"] for row in detections], float),
        np.array([category_ids.index(row["category_id"]) for row in detections], np.int64),
    )
    return data, found


def shaken(data: DetectionSet, seed: int) -> Found:
    """Detections of some skill: the truth, shaken, with a few that meet nothing."""
    drawn = np.random.default_rng(seed)
    owners = np.repeat(data.image_ids, np.diff(data.offsets))
    rows = drawn.permutation(len(owners))[: max(1, 3 * len(owners) // 4)]
    boxes = data.boxes[rows] + drawn.normal(0, 2, (len(rows), 4))
    return Found(owners[rows], boxes.astype(np.float32), drawn.random(len(rows)).astype(np.float32), data.labels[rows])
