"""Score anybody's detections against anybody's ground truth, in COCO's or VOC's files, by COCO's or VOC's rules."""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import pandas as pd

from benchsuite.data import coco as coco_data
from benchsuite.data.dataset import DetectionSet
from benchsuite.data.files import checked
from benchsuite.data.voc import Voc as VocData
from benchsuite.errors import InputError, nearest
from benchsuite.metrics.coco import Coco, finish, summary
from benchsuite.metrics.metric import Found, Metric
from benchsuite.metrics.voc import Voc
from benchsuite.settings import Json

PROTOCOLS: dict[str, Metric] = {"coco": Coco(), "voc07": Voc(year=2007), "voc12": Voc(year=2012)}
FIELDS = ("image_id", "category_id", "bbox", "score")


def score(ground_truth: Path, detections: Path, protocol: str) -> dict[str, Json]:
    """`{"protocol", "AP", "AP50", …, "per_class"}`, 0–100, None where undefined.

    ground_truth  a COCO JSON, or a VOCdevkit split: `VOCdevkit/VOC2007:test` or its list `…/ImageSets/Main/test.txt`
    detections    a COCO results JSON, or a folder of VOC's `comp4_det_test_CLASS.txt` (`image score xmin ymin xmax
                  ymax`, pixels counted from 1, the last one included)
    protocol      `coco`, `voc07` (11-point) or `voc12` (area)

    Results JSON against a VOCdevkit: `image_id` is the file's name without suffix, or that name's digits as a number;
    `category_id` is 1, 2, … in the order of the classes. InputError, one line, for what cannot be scored.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol '{protocol}' is unknown; {nearest(protocol, PROTOCOLS)}")
    if not detections.exists():
        raise InputError(f"{detections}: no such file or folder; give a COCO results JSON or a folder of comp4 files")
    if protocol == "coco" and ground_truth.suffix == ".json" and detections.is_file():
        return _score_json(ground_truth, detections)
    data, images = _truth(ground_truth)
    found = _comp4(detections, data) if detections.is_dir() else _results(detections, data, images)
    return PROTOCOLS[protocol].score(data, found)


def _score_json(ground_truth: Path, detections: Path) -> dict[str, Json]:
    """COCO files by COCO's rules: read, checked and evaluated in hotcoco; boxes exactly as pycocotools sees them."""
    with _silent():
        try:
            truth = hotcoco.COCO(str(ground_truth))
        except (ValueError, OSError) as error:
            raise InputError(
                f"{ground_truth}: not COCO annotations ({_short(error)}); give an instances JSON"
            ) from None
        health = truth.healthcheck()
        if not health["summary"]["num_images"] or not health["summary"]["num_categories"]:
            raise InputError(f"{ground_truth}: lists no images or no categories; give an instances JSON of COCO's form")
        for mistake in health["errors"]:
            first = mistake["affected_ids"][0]
            raise InputError(f"{ground_truth}: {mistake['message'].rstrip('.')} (first: {first}); correct the file")
        bare = [box for box in truth.load_anns(truth.get_ann_ids()) if "area" not in box]
        truth.update_anns([{"id": box["id"], "area": box["bbox"][2] * box["bbox"][3]} for box in bare])
        try:
            found = truth.load_res(str(detections))
        except (ValueError, OSError) as error:
            raise InputError(f"{detections}: not COCO results ({_short(error)}); correct the file") from None
        _check(truth, found, detections)
        evaluation = finish(hotcoco.COCOeval(truth, found, "bbox"))
    return summary(evaluation, {id_: category["name"] for id_, category in truth.cats.items()})


def _check(truth: hotcoco.COCO, found: hotcoco.COCO, detections: Path) -> None:
    """InputError at the first detection that hotcoco would silently never match, or could not rank."""
    health = truth.healthcheck(found)
    wrong = {"dt_orphan_image_id": "image_id", "dt_orphan_category_id": "category_id", "dt_missing_score": "score"}
    for mistake in (*health["errors"], *health["warnings"]):
        if field := wrong.get(mistake["code"]):
            number = mistake["affected_ids"][0]
            (detection,) = found.load_anns([number])
            has = f"{field} {detection[field]}, unknown to the ground truth" if field != "score" else "no finite score"
            raise InputError(f"{detections}: detection {number} has {has}; correct or leave it out")
    text = detections.read_bytes()
    if text.lstrip()[:1] != b"[":
        raise InputError(f"{detections}: not a list of detections; give a COCO results JSON")
    if len(re.findall(rb'"bbox"\s*:\s*\[', text)) < len(found.get_ann_ids()):
        raise InputError(f"{detections}: a detection has no `bbox`; only boxes are scored")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep hotcoco's warnings off stderr, where they would stand beside our one line: it writes past Python."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _short(error: Exception) -> str:
    return str(error).splitlines()[0].removeprefix("load_res(): ").rstrip(".")


def _truth(path: Path) -> tuple[DetectionSet, Mapping[int | str, int]]:
    """The ground truth, and the index of each image by every name that detections may give it."""
    if path.is_file() and path.suffix == ".json":
        data = checked(coco_data.read(path.stem, path, path.parent))
        return data, {id_: index for index, id_ in enumerate(data.image_ids.tolist())}
    data = _devkit(path).open()
    images: dict[int | str, int] = {}
    for stem, index in _stems(data).items():
        images[stem] = index
        if (digits := stem.replace("_", "")).isdigit():
            images[int(digits)] = index
    return data, images


def _devkit(path: Path) -> VocData:
    if path.is_file() and path.suffix == ".txt" and path.parts[-3:-1] == ("ImageSets", "Main"):
        year, split = path.absolute().parents[2], path.stem
    else:
        folder, _, split = str(path).rpartition(":")
        year = Path(folder).absolute()
        if not folder or not year.is_dir():
            raise InputError(
                f"{path}: neither a COCO JSON nor a VOCdevkit split; give instances.json or VOCdevkit/VOC2007:test"
            )
    return VocData(splits=(f"{year.name.removeprefix('VOC')}/{split}",), folder=year.parent)


def _stems(data: DetectionSet) -> dict[str, int]:
    return {Path(name).stem: index for index, name in enumerate(data.file_names)}


def _results(path: Path, data: DetectionSet, images: Mapping[int | str, int]) -> Found:
    """A COCO results JSON; boxes xywh."""
    try:
        entries = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({_short(error)}); give a COCO results JSON") from None
    if not isinstance(entries, list):
        raise InputError(f"{path}: holds a {type(entries).__name__}; COCO results are a list of detections")
    labels = {id_: label for label, id_ in enumerate(data.category_ids.tolist())}
    rows = [_row(entry, f"{path}: detection {number}", images, labels) for number, entry in enumerate(entries, 1)]
    columns = np.array(rows, dtype=np.float64).reshape(-1, 7)
    boxes = columns[:, 2:6]
    boxes[:, 2:] += boxes[:, :2]
    owners, classes = columns[:, :2].astype(np.int64).T
    return Found(data.image_ids[owners], boxes, columns[:, 6], classes)


def _row(entry: Any, where: str, images: Mapping[int | str, int], labels: Mapping[int, int]) -> tuple[float, ...]:
    """Image index, label, x, y, width, height, score."""
    if not isinstance(entry, dict) or any(field not in entry for field in FIELDS):
        raise InputError(f"{where} lacks one of {', '.join(FIELDS)}; correct or leave it out")
    image, category = entry["image_id"], entry["category_id"]
    for field, known in (("image_id", images), ("category_id", labels)):
        if not isinstance(entry[field], int | str) or entry[field] not in known:
            raise InputError(
                f"{where} has {field} {entry[field]}, unknown to the ground truth; correct or leave it out"
            )
    try:
        x, y, width, height = (float(side) for side in entry["bbox"])
        return images[image], labels[category], x, y, width, height, float(entry["score"])
    except (TypeError, ValueError):
        raise InputError(f"{where} needs a bbox of four numbers and a score; correct or leave it out") from None


def _comp4(folder: Path, data: DetectionSet) -> Found:
    """A folder of VOC's results files, one a class; pixels 1, 1 to w, w become edges 0, 0 to w, w."""
    files = sorted(folder.glob("*_det_*.txt"))
    if not files:
        raise InputError(f"{folder}: holds no results such as comp4_det_test_{data.classes[0]}.txt; give their folder")
    stems = _stems(data)
    tables = [_table(file, stems).assign(label=_label(file, data.classes)) for file in files]
    table = pd.concat(tables, ignore_index=True)
    boxes = table[["xmin", "ymin", "xmax", "ymax"]].to_numpy(np.float64) - [1, 1, 0, 0]
    owners, classes = (table[name].to_numpy(np.int64) for name in ("image", "label"))
    return Found(data.image_ids[owners], boxes, table["score"].to_numpy(np.float64), classes)


def _label(file: Path, classes: tuple[str, ...]) -> int:
    """The class at the end of the file's name; of several (`car`, `toy_car`) the longest."""
    named = [name for name in classes if file.stem.endswith(f"_{name}")]
    if not named:
        raise InputError(f"{file}: names no class of the ground truth; {nearest(file.stem.split('_')[-1], classes)}")
    return classes.index(max(named, key=len))


def _table(file: Path, stems: Mapping[str, int]) -> pd.DataFrame:
    columns = ["image", "score", "xmin", "ymin", "xmax", "ymax"]
    types = {name: str if name == "image" else "float64" for name in columns}
    if not file.stat().st_size:  # a class without detections
        return pd.DataFrame({name: pd.Series(dtype=int if name == "image" else types[name]) for name in columns})
    try:
        table = pd.read_csv(file, sep=r"\s+", header=None, names=columns, dtype=types, index_col=False)
    except (ValueError, OSError) as error:
        raise InputError(f"{file}: not lines of `{' '.join(columns)}` ({_short(error)}); correct the file") from None
    unknown = table.loc[~table["image"].isin(stems), "image"]
    if len(unknown):
        raise InputError(
            f"{file}: line {unknown.index[0] + 1} has image '{unknown.iloc[0]}', not in the split; leave it out"
        )
    broken = ~np.isfinite(table[columns[1:]].to_numpy(np.float64)).all(axis=1)
    if broken.any():
        raise InputError(
            f"{file}: line {broken.argmax() + 1} is not `{' '.join(columns)}` with finite numbers; correct it"
        )
    return table.assign(image=table["image"].map(stems).astype(np.int64))
