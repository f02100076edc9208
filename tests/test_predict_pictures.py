"""`bench predict`: a trained row on a folder of pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from data_cases import TOY, one_line
from PIL import Image

from benchsuite.data.pictures import Pictures
from benchsuite.engine.store import Store
from benchsuite.errors import InputError
from benchsuite.metrics.metric import Found
from benchsuite.recipe.loading import select
from benchsuite.verbs.plan import make_plan
from benchsuite.verbs.predict import predict, turned, with_boxes
from benchsuite.verbs.run import RunOptions, run_plan

KINDS = ((1, "disc"), (5, "bar"))


def test_a_folder_is_a_split_without_truth(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name, size in (("b.png", (8, 6)), ("a.jpg", (4, 5)), ("sub/c.webp", (7, 7))):
        Image.new("RGB", size, (9, 9, 9)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    data = Pictures(folder=tmp_path, categories=KINDS)
    opened = data.open()
    assert (opened.file_names, opened.sizes.tolist()) == (("a.jpg", "b.png", "sub/c.webp"), [[5, 4], [6, 8], [7, 7]])
    assert (data.classes, opened.category_ids.tolist(), data.annotated) == (("disc", "bar"), [1, 5], False)
    assert opened.read(1).shape == (6, 8, 3) and len(opened.boxes) == 0
    for folder, told in ((tmp_path / "none", "is not a folder"), (TOY / "annotations", "holds no pictures")):
        with pytest.raises(InputError) as error:
            Pictures(folder=folder, categories=KINDS).open()
        one_line(error, told)


def test_boxes_are_drawn_where_they_are() -> None:
    found = Found(np.array([1]), np.array([[10.0, 20, 30, 40]]), np.array([0.5]), np.array([0]))
    image = np.asarray(with_boxes(np.zeros((60, 60, 3), np.uint8), found, np.array([0]), ("a\x1b",)))
    assert image[30, 10].any() and image[40, 20].any() and not image[30, 20].any() and not image[50].any()
    assert not np.asarray(with_boxes(np.zeros((60, 60, 3), np.uint8), found, np.array([], int), ("a",))).any()


def test_pictures_that_are_shown_turned_are_told(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("b.jpg", "a.jpg", "c.jpg"):
        Image.new("RGB", (8, 6)).save(tmp_path / name, exif=Image.Exif() if name == "c.jpg" else exif)
    data = Pictures(folder=tmp_path, categories=KINDS)
    (line,) = turned(data.open(), data.files())
    assert line == "a.jpg and 1 more: EXIF shows it turned; it is read as stored, in whose pixels the boxes are"
    (tmp_path / "a.jpg").unlink()
    (line,) = turned(data.open(), data.files())
    assert line.startswith("b.jpg: EXIF shows it turned")
    (tmp_path / "b.jpg").unlink()
    assert list(turned(data.open(), data.files())) == []


@pytest.mark.slow
def test_a_trained_row_predicts(tmp_path: Path) -> None:
    plan = make_plan(select(["har-table1"]), "smoke", rows=["baseline"], data=TOY, overrides=["solver.iterations=2"])
    store, options = Store(tmp_path / "store"), RunOptions(out=tmp_path / "out")
    with pytest.raises(InputError, match="was not run"):
        predict(plan, store, TOY / "images", tmp_path / "predicted", 0.0)
    assert run_plan(plan, store, options).exit_code == 0
    made = predict(plan, store, TOY / "images", tmp_path / "predicted", 0.0)
    lines = json.loads(Path(made.results).read_text())
    assert len(lines) == made.detections and {line["category_id"] for line in lines} <= {1, 5, 9}
    assert sorted(Path(file).name for file in made.pictures) == sorted(
        f"{file.name}.png" for file in (TOY / "images").iterdir()
    )
    assert all(Image.open(file).size for file in made.pictures)
