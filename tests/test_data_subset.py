from pathlib import Path

import numpy as np
import pytest
from data_cases import KIT
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import toy

from benchsuite.data.batches import Batches
from benchsuite.data.dataset import DetectionData
from benchsuite.data.generated import Generated
from benchsuite.data.subset import DetectionSplits, DetectionSubset, DifficultToo, take
from benchsuite.data.transforms import Fixed
from benchsuite.data.voc import Voc
from benchsuite.errors import MissingData
from benchsuite.settings import Settings as Base
from benchsuite.settings import canonical, content_key


class Holder(Base):
    data: DetectionData


FALLBACK = {
    "kind": "subset.FirstOnDisk",
    "of": [{"kind": "coco.Coco", "split": "train2017"}, {"kind": "generated.Generated", "images": 3}],
}


@settings(max_examples=20, deadline=None)
@given(limit=st.integers(1, 12))
def test_a_subset_keeps_each_images_boxes(limit: int) -> None:
    whole = Generated(images=9).open()
    part = take(whole, limit)
    assert len(part) == min(limit, 9)
    for index, image_id in enumerate(part.image_ids):
        (source,) = np.flatnonzero(whole.image_ids == image_id)
        assert np.array_equal(part.boxes[part.rows(index)], whole.boxes[whole.rows(int(source))])
        assert np.array_equal(part.labels[part.rows(index)], whole.labels[whole.rows(int(source))])
        assert part.file_names[index] == whole.file_names[source]
    assert np.array_equal(
        part.read(len(part) - 1), whole.read(int(np.flatnonzero(whole.image_ids == part.image_ids[-1])[0]))
    )


def test_images_are_spread_evenly() -> None:
    assert take(Generated(images=10).open(), 5).image_ids.tolist() == [1, 3, 5, 7, 9]


def test_a_subset_has_a_key_and_name_of_its_own() -> None:
    whole = Generated(images=9)
    part = DetectionSubset(of=whole, limit=4)
    assert part.fingerprint() != whole.fingerprint()
    assert part.fingerprint() == part.open().fingerprint
    assert part.name == part.open().name == f"{whole.name} (≤ 4 images)"


def test_difficult_boxes_are_trained_on_where_asked_for(tmp_path: Path) -> None:
    """The kit's train split: a dog, a difficult person; a person, a car."""
    whole = Voc(splits=("2007/train",), folder=KIT)
    left_out, kept = (DetectionSplits(train=whole, val=whole, train_difficult=switch) for switch in (False, True))
    assert left_out.cut("train") == left_out.cut("val") == kept.cut("val") == whole, "only training is concerned"
    found = {}
    for splits in (left_out, kept):
        data = splits.cut("train").open()
        batch = Batches(data, Fixed(height=32, width=32), (), 2, seed=0, iterations=1, cache=tmp_path)[0]
        found[splits.train_difficult] = sorted(batch.labels[batch.labels >= 0].tolist())
    person, dog, car = (whole.classes.index(name) for name in ("person", "dog", "car"))
    assert found == {None: sorted([dog, person, car]), True: sorted([dog, person, person, car])}


def test_difficult_boxes_make_another_training(tmp_path: Path) -> None:
    whole = Generated(images=9)
    splits = DetectionSplits(train=whole, val=whole, train_limit=4, train_difficult=True)
    assert splits.cut("train") == DifficultToo(of=DetectionSubset(of=whole, limit=4))
    assert content_key(canonical(splits.cut("train"))) != content_key(canonical(DetectionSubset(of=whole, limit=4)))
    assert splits.cut("train").name == DetectionSubset(of=whole, limit=4).name
    assert splits.cut("train").has_masks() is whole.has_masks() is True
    assert canonical(DetectionSplits(train=whole, val=whole)) == canonical(
        DetectionSplits(train=whole, val=whole, train_difficult=False)
    )


def test_the_first_dataset_on_disk_is_taken_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    absent = Holder.model_validate({"data": FALLBACK})
    assert absent.data == Generated(images=3)
    assert content_key(canonical(absent)) == content_key(canonical(Holder(data=Generated(images=3))))
    monkeypatch.setenv("BENCH_DATA", str(toy(tmp_path / "coco")))
    assert Holder.model_validate({"data": FALLBACK}).data.name.startswith("coco")


def test_none_on_disk_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingData, match="train2017"):
        Holder.model_validate({"data": {**FALLBACK, "of": FALLBACK["of"][:1]}})


def test_what_stands_for_a_dataset_of_the_other_family_is_refused() -> None:
    """One FirstOnDisk serves both families, and neither takes the other's."""
    classes = {"kind": "subset.FirstOnDisk", "of": [{"kind": "generated_classes.GeneratedClasses", "images": 2}]}
    with pytest.raises(ValueError, match=r"became a generated_classes.GeneratedClasses, which is none of: .*coco.Coco"):
        Holder.model_validate({"data": classes})
