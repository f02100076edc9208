"""What `bench score` is given, by whatever name: images called in quotes, truths of any name, and what is none."""

import gzip
import json
from pathlib import Path

import pytest
from metric_cases import FIXTURES

from benchsuite.errors import InputError
from benchsuite.verbs.score import score

TRUTH, DETECTIONS = FIXTURES / "truth.json", FIXTURES / "detections.json"


@pytest.mark.parametrize(
    ("ids", "files", "called", "right"),
    [
        ([1, 2, 3], ["0.jpg", "1.jpg", "2.jpg"], ["1", "2", "3"], True),  # ids: 3 is no name
        ([0, 1, 2], ["1.jpg", "2.jpg", "3.jpg"], ["1", "2", "3"], True),  # names: 3 is no id
        ([1, 2, 3], ["0.jpg", "1.jpg", "2.jpg"], ["0.jpg", "1", "2.jpg"], "ambiguous"),
        ([1, 2, 3], ["2.jpg", "1.jpg", "3.jpg"], ["1", "2", "3"], "ambiguous"),
        ([1, 2, 3], ["000001.jpg", "000002.jpg", "000003.jpg"], ["000001", "000002", "3"], True),
        ([7, 8, 9], ["a.jpg", "b.jpg", "c.jpg"], ["a", "8", 9], True),
        ([1, 2, 3], ["0.jpg", "1.jpg", "2.jpg"], ["1", "2", "4"], "unknown"),
    ],
)
def test_quoted_numbers_are_ids_or_names_throughout(tmp_path, ids, files, called, right):
    sizes = {"width": 100, "height": 80}
    boxes = [[10 + 20 * place, 10, 30, 30] for place in range(3)]
    truth = {
        "images": [{"id": id_, "file_name": name, **sizes} for id_, name in zip(ids, files, strict=True)],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": [
            {"id": place + 1, "image_id": id_, "category_id": 1, "bbox": boxes[place], "area": 900, "iscrowd": 0}
            for place, id_ in enumerate(ids)
        ],
    }
    found = [
        {"image_id": name, "category_id": 1, "bbox": box, "score": 0.9} for name, box in zip(called, boxes, strict=True)
    ]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(found))
    if right is True:
        assert score(tmp_path / "truth.json", tmp_path / "found.json", "coco")["AP"] == pytest.approx(100)
        return
    told = (
        "is the id of .* and the name of .*; write ids without quotes" if right == "ambiguous" else "has image_id '4'"
    )
    with pytest.raises(InputError, match=told):
        score(tmp_path / "truth.json", tmp_path / "found.json", "coco")


def test_truth_of_any_name_and_what_is_none(tmp_path):
    expected = score(TRUTH, DETECTIONS, "coco")
    for name in ("truth", "TRUTH.JSON", "truth.txt"):
        (tmp_path / name).write_bytes(TRUTH.read_bytes())
        assert score(tmp_path / name, DETECTIONS, "coco") == expected
    (tmp_path / "truth.json.gz").write_bytes(gzip.compress(TRUTH.read_bytes()))
    for path, told in (
        (tmp_path / "truth.json.gz", "is packed by gzip: unpack it first"),
        (tmp_path / "none.json", "there is no such file; give a COCO JSON"),
        (tmp_path, "is a folder; give a COCO JSON"),
        (Path("/dev/zero"), "is not a regular file"),
    ):
        with pytest.raises(InputError, match=told):
            score(path, DETECTIONS, "coco")
