"""Data that do not do are told before the first job: annotations with a mistake, no box to train on, too few images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_cases import TOY, copy, one_line

from benchsuite.engine.store import RECORD, Store
from benchsuite.errors import InputError
from benchsuite.recipe.loading import select
from benchsuite.verbs.plan import make_plan, require_all


def crowds(content: dict[str, Any]) -> None:
    for box in content["annotations"]:
        box["iscrowd"] = 1


@pytest.mark.parametrize(
    ("split", "change", "told"),
    [
        ("train", crowds, "none of its 5 images has a box to train on"),
        ("train", lambda content: content.update(annotations=[]), "none of its 5 images has a box to train on"),
        (
            "train",
            lambda content: content["annotations"][0].update(category_id=77),
            "annotation 1 (category_id 77): its class",
        ),
        ("val", lambda content: content["annotations"][0].update(area=-1), "area -1.0"),
        ("val", lambda content: content.update(annotations=[]), "none of its 3 images has a box to score"),
        ("val", crowds, "none of its 3 images has a box to score"),
        ("val", lambda content: content["images"][0].update(width=0), "is annotated as 0x"),
        ("val", lambda content: content["images"].append(content["images"][0]), "is given 2 times"),
    ],
)
def test_annotations(tmp_path: Path, split: str, change: Callable[[dict[str, Any]], object], told: str) -> None:
    folder = copy(TOY, tmp_path)
    file = folder / "annotations" / f"instances_{split}.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    plan = make_plan(select(["har-table1"]), "smoke", rows=["baseline"], data=folder)
    with pytest.raises(InputError) as error:
        require_all(plan, Store(tmp_path / "store"))
    one_line(error, told)


def test_more_images_than_there_are(tmp_path: Path) -> None:
    measured = make_plan(select(["pod-table2"]), "smoke", data=TOY, overrides=["measure.images=9"])
    with pytest.raises(InputError) as error:
        require_all(measured, Store(tmp_path / "store"))
    one_line(error, "scales of 9 are asked for", "lower measure.images")
    timed = make_plan(select(["pod-table4"]), "smoke", data=TOY, overrides=["timing.batch=4"])
    with pytest.raises(InputError) as error:
        require_all(timed, Store(tmp_path / "store"))
    one_line(error, "has 3 images", "lower timing.batch")


def test_what_is_done_needs_no_look(tmp_path: Path) -> None:
    plan, store = make_plan(select(["har-table1"]), "smoke", rows=["baseline"], data=TOY), Store(tmp_path / "store")
    require_all(plan, store)
    bad = make_plan(select(["har-table1"]), "smoke", rows=["baseline"], data=copy(TOY, tmp_path))
    file = tmp_path / "toy" / "annotations" / "instances_train.json"
    file.write_text(file.read_text().replace('"category_id": 1', '"category_id": 77'))
    for key in bad.jobs:
        store.folder(key).mkdir(parents=True)
        (store.folder(key) / RECORD).write_text("{}")
    require_all(bad, store)
