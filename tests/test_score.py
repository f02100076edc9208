import json
from pathlib import Path

import numpy as np
import pycocotools.coco
import pycocotools.cocoeval
import pytest
from metric_cases import FIXTURES, by_name, from_coco

from benchsuite.data.coco import File
from benchsuite.errors import InputError
from benchsuite.metrics.coco import COLUMNS
from benchsuite.metrics.metric import Found
from benchsuite.metrics.voc import Voc
from benchsuite.verbs.score import PROTOCOLS, score

SHARED = Path(__file__).parents[2] / "shared" / "data"
FAKE100 = SHARED / "evalvec" / "coco_fake100"
TRUTH, DETECTIONS = FIXTURES / "truth.json", FIXTURES / "detections.json"
shared = pytest.mark.skipif(not SHARED.exists(), reason="shared/data is not here")

BOXES = {
    "000012": [("cat", (11, 21, 110, 220), 0)],
    "2008_000007": [("cat", (1, 1, 50, 50), 0), ("dog", (60, 60, 99, 99), 1)],
}


def devkit(folder):
    """A VOCdevkit of two images: pixels counted from 1, the last one included."""
    year = folder / "VOCdevkit" / "VOC2007"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (year / name).mkdir(parents=True)
    for image, objects in BOXES.items():
        items = "".join(
            f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin>"
            f"<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
            for name, box, difficult in objects
        )
        text = f"<annotation><size><width>300</width><height>300</height></size>{items}</annotation>"
        (year / "Annotations" / f"{image}.xml").write_text(text)
    (year / "ImageSets" / "Main" / "test.txt").write_text("\n".join(BOXES) + "\n")
    return year


def comp4(folder, **classes):
    folder.mkdir(exist_ok=True)
    for name, lines in classes.items():
        (folder / f"comp4_det_test_{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def results(path, *entries, **change):
    whole = {"image_id": 11, "category_id": 2, "bbox": [10, 10, 20, 20], "score": 0.5}
    path.write_text(json.dumps([*entries, {**whole, **change}]))
    return path


def test_coco_files_give_the_stored_numbers():
    expected = json.loads((FIXTURES / "expected.json").read_text())
    result = score(TRUTH, DETECTIONS, "coco")
    assert result["protocol"] == "coco" and by_name(result) == expected["per_class"]
    assert {name: result[name] for name in COLUMNS} == {name: expected[name] for name in COLUMNS}


@shared
def test_fake100_exact():
    expected = json.loads((FAKE100 / "expected.json").read_text())["bbox"]
    result = score(FAKE100 / "gt.json", FAKE100 / "dt_bbox.json", "coco")
    assert {name: result[name] for name in COLUMNS} == {name: 100 * value for name, value in expected.items()}


@pytest.mark.parametrize(("protocol", "year"), [("voc07", 2007), ("voc12", 2012)])
def test_coco_files_by_voc_rules(protocol, year):
    assert score(TRUTH, DETECTIONS, protocol) == Voc(year=year).score(*from_coco(TRUTH, DETECTIONS))


def test_voc_files_by_voc_rules(tmp_path):
    year = devkit(tmp_path)
    found = comp4(
        tmp_path / "results",
        cat=["000012 0.9 11 21 110 220", "2008_000007 0.8 200 200 250 250", "2008_000007 0.7 1 1 50 40"],
        dog=["2008_000007 0.9 60 60 99 99"],
    )
    result = score(Path(f"{year}:test"), found, "voc12")
    # right, wrong, right: recall .5, .5, 1 and precision 1, 1/2, 2/3; the only dog is difficult.
    assert by_name(result)["cat"] == pytest.approx(100 * (1 / 2 + 1 / 2 * 2 / 3))
    assert by_name(result)["dog"] is None
    assert result["AP75"] == result["AP50"] == by_name(result)["cat"]  # IoU 40 / 50
    assert score(year / "ImageSets" / "Main" / "test.txt", found, "voc12") == result


def test_voc_truth_and_coco_results(tmp_path):
    year = devkit(tmp_path)
    cat = 8  # of VOC's 20, counted from 1
    entries = [
        {"image_id": 12, "category_id": cat, "bbox": [10, 20, 100, 200], "score": 0.9},
        {"image_id": "2008_000007", "category_id": cat, "bbox": [0, 0, 50, 50], "score": 0.9},
    ]
    found = results(tmp_path / "results.json", *entries, image_id=2008000007, category_id=cat + 4, bbox=[0, 0, 9, 9])
    for protocol in ("voc07", "voc12"):
        assert score(Path(f"{year}:test"), found, protocol)["AP"] == pytest.approx(100)
    # COCO knows nothing difficult: the missed dog counts.
    assert score(Path(f"{year}:test"), found, "coco")["AP"] == pytest.approx(50)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_boxes_beyond_the_image_are_taken_as_they_are(tmp_path, protocol):
    """The protocols' own evaluators clip neither truth nor detections; clipped truth alone gave 11.1 under VOC's."""
    boxes = [[-60, 10, 100, 50], [80, 40, 200, 100], [10, 10, 40, 40]]  # of an image of 120 × 90
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    objects = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for n, box in enumerate(boxes, 1)
    ]
    images = [{"id": 1, "file_name": "1.jpg", "width": 120, "height": 90}]
    categories = [{"id": 1, "name": "a"}]
    truth.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))
    found.write_text(json.dumps([{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in boxes]))
    assert score(truth, found, protocol)["AP"] == pytest.approx(100)
    data = File(annotations=truth, images=tmp_path).open()  # what `bench run` scores
    corners = np.array(boxes, float) + np.array([0, 0, 1, 1]) * np.tile(np.array(boxes)[:, :2], 2)
    detections = Found(np.ones(3, np.int64), corners, np.full(3, 0.9), np.zeros(3, np.int64))
    assert PROTOCOLS[protocol].score(data, detections)["AP"] == pytest.approx(100)


@shared
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_case_beyond_the_image(protocol):
    case = SHARED / "cases" / "28-beyond-image"
    assert score(case / "gt.json", case / "dt.json", protocol)["AP"] == pytest.approx(100)


def test_no_detections_are_zeros(tmp_path):
    empty = tmp_path / "results.json"
    empty.write_text("[]")
    for protocol in ("coco", "voc07"):
        result = score(TRUTH, empty, protocol)
        assert (result["AP"], result["AP50"]) == (0, 0)
    result = score(Path(f"{devkit(tmp_path)}:test"), comp4(tmp_path / "none", cat=[""]), "voc07")
    assert result["AP"] == 0


def test_truth_without_areas_takes_those_of_the_boxes(tmp_path):
    document = json.loads(TRUTH.read_text())
    for box in document["annotations"]:
        box["area"] = box["bbox"][2] * box["bbox"][3]
    (tmp_path / "with.json").write_text(json.dumps(document))
    for box in document["annotations"]:
        del box["area"]
    (tmp_path / "without.json").write_text(json.dumps(document))
    assert score(tmp_path / "without.json", DETECTIONS, "coco") == score(tmp_path / "with.json", DETECTIONS, "coco")


@pytest.mark.parametrize("protocol", ["coco", "voc07"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 99}, "detection 1 has image_id 99"),
        ({"category_id": 99}, "detection 1 has category_id 99"),
        ({"score": float("nan")}, "score"),
        ({"score": None}, "score"),
        ({"bbox": [1, 2, 3]}, "results.json"),
        ({"bbox": None}, "bbox"),
    ],
)
def test_strange_detections(tmp_path, capfd, protocol, change, message):
    with pytest.raises(InputError, match=message) as caught:
        score(TRUTH, results(tmp_path / "results.json", **change), protocol)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("protocol", ["coco", "voc12"])
@pytest.mark.parametrize("text", ["{", "", '{"annotations": []}', '[{"image_id": 11}]', "[3]", "\x00\xff"])
def test_malformed_results(tmp_path, protocol, text):
    file = tmp_path / "results.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"results\.json: ") as caught:
        score(TRUTH, file, protocol)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", ["coco", "voc12"])
@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}', '{"images": [], "annotations": [], "categories": []}'])
def test_malformed_truth(tmp_path, protocol, text):
    file = tmp_path / "truth.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"truth\.json: ") as caught:
        score(file, DETECTIONS, protocol)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", ["coco", "voc12"])
@pytest.mark.parametrize("side", ["height", "width"])
def test_truth_with_a_side_below_nothing(tmp_path, protocol, side):
    """Sizes may be left out where nothing but scores is wanted; what is said of them is a size."""
    document = json.loads(TRUTH.read_text())
    for value, told in ((None, None), (-1, r"truth\.json: image .* is annotated as .*-1.*; correct")):
        document["images"][1][side] = value
        (tmp_path / "truth.json").write_text(json.dumps(document))
        if told is None:
            assert score(tmp_path / "truth.json", DETECTIONS, protocol)["AP"] is not None
        else:
            with pytest.raises(InputError, match=told):
                score(tmp_path / "truth.json", DETECTIONS, protocol)


@pytest.mark.parametrize("protocol", ["coco", "voc12"])
def test_truth_with_an_unknown_class(tmp_path, protocol):
    document = json.loads(TRUTH.read_text())
    document["annotations"][0]["category_id"] = 5
    (tmp_path / "truth.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"truth\.json: .*1"):
        score(tmp_path / "truth.json", DETECTIONS, protocol)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["000013 0.9 1 1 9 9"], "line 1 has image '000013'"),
        (["000012 0.9 1 1 9 9", "000012 x 1 1 9 9"], "not lines of"),
        (["000012 0.9 1 1 9 9", "000012 nan 1 1 9 9"], "line 2"),
        (["000012 0.9 1 1"], "line 1"),
        (["000012 0.9 1 1 9 9", "000012 0.9 1 1 9 9 9"], "line 2 has image '000012 0.9'"),
    ],
)
def test_strange_comp4_files(tmp_path, lines, message):
    year = devkit(tmp_path)
    with pytest.raises(InputError, match=message):
        score(Path(f"{year}:test"), comp4(tmp_path / "results", cat=lines), "voc07")


def test_strange_names(tmp_path):
    year = devkit(tmp_path)
    found = comp4(tmp_path / "results", cat=["000012 0.9 1 1 9 9"])
    truth = Path(f"{year}:test")
    with pytest.raises(InputError, match=r"'voc7' is unknown; did you mean 'voc07'"):
        score(truth, found, "voc7")
    with pytest.raises(InputError, match="2007/val"):
        score(Path(f"{year}:val"), found, "voc07")
    with pytest.raises(InputError, match="is a folder; give a COCO JSON, or"):
        score(year, found, "voc07")
    with pytest.raises(InputError, match="nowhere: no such file"):
        score(truth, tmp_path / "nowhere", "voc07")
    with pytest.raises(InputError, match="holds no results"):
        score(truth, year, "voc07")
    with pytest.raises(InputError, match="did you mean 'cat'"):
        score(truth, comp4(tmp_path / "other", cats=[]), "voc07")


@shared
@pytest.mark.parametrize("protocol", ["coco", "voc07", "voc12"])
def test_the_truth_of_bccd_scores_100_in_both_layouts(tmp_path, protocol):
    bccd = SHARED / "bccd"
    document = json.loads((bccd / "annotations" / "instances_val.json").read_text())
    entries = [{**box, "score": 1.0} for box in document["annotations"]]
    found = tmp_path / "results.json"
    found.write_text(json.dumps(entries))
    assert score(bccd / "annotations" / "instances_val.json", found, protocol)["AP"] == pytest.approx(100, abs=1)
    stems = {image["id"]: Path(image["file_name"]).stem for image in document["images"]}
    names = [kind["name"] for kind in document["categories"]]
    place = {kind["id"]: sorted(names).index(kind["name"]) + 1 for kind in document["categories"]}
    as_voc = [
        {**entry, "image_id": stems[entry["image_id"]], "category_id": place[entry["category_id"]]} for entry in entries
    ]
    found.write_text(json.dumps(as_voc))
    result = score(Path(f"{bccd}/VOCdevkit/VOC2007:val"), found, protocol)
    assert np.isclose(result["AP"], 100, atol=1)


def test_names_with_spaces_in_comp4_files(tmp_path):
    year = devkit(tmp_path)
    for name in ("Annotations/000012.xml", "Annotations/2008_000007.xml"):
        (year / name).rename(year / name.replace("000012", "photo 2").replace("2008_000007", "photo"))
    (year / "ImageSets" / "Main" / "test.txt").write_text("photo 2\nphoto\n")
    found = comp4(tmp_path / "results", cat=["photo 2 0.9 11 21 110 220", "  photo 0.8 1 1 50 50 "])
    (found / "comp4_det_test_dog.txt").write_text("\ufeffphoto 0.5 60 60 99 99\r\n", newline="")
    assert score(Path(f"{year}:test"), found, "voc12")["AP"] == pytest.approx(100)


def test_two_files_of_one_class_are_not_merged(tmp_path):
    year = devkit(tmp_path)
    found = comp4(tmp_path / "results", cat=["000012 0.9 11 21 110 220"])
    (found / "comp3_det_val_cat.txt").write_text("2008_000007 0.8 1 1 50 50\n")
    with pytest.raises(InputError, match=r"is of the same class as comp3_det_val_cat\.txt"):
        score(Path(f"{year}:test"), found, "voc12")


@pytest.mark.parametrize("line", ["000012 0.9 1_1 21 110 220", "000012 1e999 1 1 9 9", "000012 0.9 1 1 9 1e300"])
def test_numbers_that_are_none_in_comp4_files(tmp_path, line):
    year = devkit(tmp_path)
    with pytest.raises(InputError, match=r"comp4_det_test_cat\.txt: .*line 1"):
        score(Path(f"{year}:test"), comp4(tmp_path / "results", cat=[line]), "voc12")
    with pytest.raises(InputError, match=r"comp4_det_test_cat\.txt: cannot be read as UTF-8"):
        found = comp4(tmp_path / "other", cat=[])
        (found / "comp4_det_test_cat.txt").write_bytes(b"\xff\xfe0")
        score(Path(f"{year}:test"), found, "voc12")


def test_ids_that_several_images_may_have(tmp_path):
    year = devkit(tmp_path)
    text = (year / "Annotations" / "000012.xml").read_text()
    for name in ("1_2", "12"):
        (year / "Annotations" / f"{name}.xml").write_text(text)
    (year / "ImageSets" / "Main" / "test.txt").write_text("1_2\n12\n")
    for image, told in ((12, "image_id 12"), ("1_2", None), ("12", None)):
        file = results(tmp_path / "results.json", image_id=image, category_id=8)
        if told:
            with pytest.raises(InputError, match=told):
                score(Path(f"{year}:test"), file, "voc12")
        else:
            assert score(Path(f"{year}:test"), file, "voc12")["AP"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": "eleven"}, "image_id 'eleven'"),
        ({"image_id": 11.5}, "image_id"),
        ({"image_id": 2**64}, "image_id"),
        ({"category_id": "2"}, "category_id"),
        ({"category_id": True}, "category_id"),
        ({"score": "0.5"}, "score"),
        ({"score": True}, "score"),
        ({"score": float("inf")}, "score inf"),
        ({"bbox": [1, 2, 3, "4"]}, "bbox"),
        ({"bbox": [1, 2, 3, 1e308]}, "bbox"),
        ({"bbox": [1, 2, float("nan"), 4]}, "bbox"),
    ],
)
@pytest.mark.parametrize("protocol", ["coco", "voc07"])
def test_values_of_another_kind_are_not_taken_for_something_else(tmp_path, protocol, change, message):
    with pytest.raises(InputError, match=message):
        score(TRUTH, results(tmp_path / "results.json", **change), protocol)


def test_truth_and_detections_to_the_bit_as_pycocotools_sees_them(tmp_path):
    """Sides as written: (x + w) - x is not always w, and that decides an IoU at a threshold."""
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0, 300, (200, 4)).round(2)
    images = [{"id": number} for number in range(10)]
    truth = [
        {"id": row + 1, "image_id": row % 10, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for row, box in enumerate(boxes.tolist())
    ]
    (tmp_path / "gt.json").write_text(
        json.dumps({"images": images, "annotations": truth, "categories": [{"id": 1, "name": "a"}]})
    )
    halved = [{**box, "bbox": [*box["bbox"][:3], box["bbox"][3] / 2], "score": 0.5} for box in truth]
    (tmp_path / "dt.json").write_text(json.dumps(halved))
    side = pycocotools.coco.COCO(tmp_path / "gt.json")
    reference = pycocotools.cocoeval.COCOeval(side, side.loadRes(str(tmp_path / "dt.json")), "bbox")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    result = score(tmp_path / "gt.json", tmp_path / "dt.json", "coco")
    assert [result[name] for name in COLUMNS] == [None if v < 0 else 100 * v for v in reference.stats]


def test_boxes_without_area_are_left_out_and_counted(tmp_path):
    document = json.loads(TRUTH.read_text())
    whole = score(TRUTH, DETECTIONS, "coco")
    thin = {**document["annotations"][0], "bbox": [3.3, 3, 1e-7, 9], "area": 1e-6, "id": 10**6}
    document["annotations"].append(thin)
    (tmp_path / "truth.json").write_text(json.dumps(document))
    assert score(tmp_path / "truth.json", DETECTIONS, "coco") == whole | {"dropped": 1}


@pytest.mark.parametrize("protocol", ["coco", "voc07", "voc12"])
def test_equal_boxes_beyond_the_image_score_100(tmp_path, protocol):
    boxes = [[-60, 10, 100, 50], [80, 40, 200, 100], [10, 10, 40, 40]]
    truth = [
        {"id": row, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for row, box in enumerate(boxes, 1)
    ]
    images = [{"id": 1, "file_name": "1.jpg", "width": 120, "height": 90}]
    document = {"images": images, "annotations": truth, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "gt.json").write_text(json.dumps(document))
    (tmp_path / "dt.json").write_text(json.dumps([{**box, "score": 0.9} for box in truth]))
    assert score(tmp_path / "gt.json", tmp_path / "dt.json", protocol)["AP"] == pytest.approx(100)


@pytest.mark.parametrize("flag", [0, 1, True, False, None, "0", "False"])
@pytest.mark.parametrize("field", ["iscrowd", "ignore"])
def test_the_protocols_agree_on_which_flags_they_take(tmp_path, field, flag):
    document = json.loads(TRUTH.read_text())
    for box in document["annotations"]:
        box[field] = flag
    (tmp_path / "truth.json").write_text(json.dumps(document))
    for protocol in ("coco", "voc12"):
        if isinstance(flag, str):
            with pytest.raises(InputError, match=rf"annotations\[0\]\.{field}"):
                score(tmp_path / "truth.json", DETECTIONS, protocol)
        else:
            ignored = bool(flag) and (field, protocol) != ("ignore", "coco")
            assert (score(tmp_path / "truth.json", DETECTIONS, protocol)["AP"] is None) is ignored


def test_an_object_within_is_no_truth(tmp_path):
    file = results(tmp_path / "results.json", bbox={"x": 1})
    with pytest.raises(InputError, match="bbox"):
        score(TRUTH, file, "coco")


def test_truth_given_for_detections_is_told():
    with pytest.raises(InputError, match="is one object, and COCO's results are a list"):
        score(TRUTH, TRUTH, "coco")
