"""Batches and augmentation of classification, its generated set, subsets, and folders given with `--data`."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_cases import KIT, SHARED, TOY, copy, one_line, shared
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from test_data_classification import write_cifar
from torch import Tensor

from benchsuite.data.cifar import Cifar100
from benchsuite.data.class_batches import (
    BatchFlip,
    CentreCrop,
    ClassBatches,
    EvalClassBatches,
    PadCrop,
    RandomResizedCrop,
    View,
    Whole,
)
from benchsuite.data.classification import ClassificationSet, ClassificationSubset
from benchsuite.data.generated_classes import GeneratedClasses
from benchsuite.data.imagenet import Folders
from benchsuite.data.locate import open_any_folder, open_class_folder, open_folder
from benchsuite.data.scenes.catalogue import CLASSES
from benchsuite.data.subset import FirstOnDisk
from benchsuite.data.verify import ClassReport, verify
from benchsuite.errors import InputError, MissingData

GOLDEN = "ab2218ca7608eced2c362a01b98ad522f3de7386077182ada47f24a8acfcc0b4"
AUGMENT = (PadCrop(pad=4), BatchFlip())


class Mixed:
    """Images of several sizes."""

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]:
        height, width = self.sizes[index]
        return np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)


def held(count: int = 11, side: int = 8) -> ClassificationSet:
    pixels = np.random.default_rng(1).integers(0, 256, (count, side, side, 3), np.uint8)
    return ClassificationSet("held", ("a", "b"), pixels, np.arange(count, dtype=np.int64) % 2)


def read(count: int = 5) -> ClassificationSet:
    sizes = [(20 + 3 * index, 34 - 2 * index) for index in range(count)]
    return ClassificationSet("read", ("a", "b"), Mixed(sizes), np.zeros(count, np.int64))


def batches(data: ClassificationSet, view: View, batch: int = 4, seed: int = 0, iterations: int = 9) -> ClassBatches:
    return ClassBatches(data, view, AUGMENT, batch, seed, iterations)


@pytest.mark.parametrize(("data", "view"), [(held(), Whole(side=8)), (read(), RandomResizedCrop(side=16))])
def test_augmentation_is_a_function_of_seed_epoch_and_index(data: ClassificationSet, view: View) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    small, large = batches(data, view, batch=2, iterations=40), batches(data, view, batch=len(data), iterations=8)
    found: dict[tuple[int, int], Tensor] = {}
    for iteration in (7, 0, 3, 1, 6, 2, 5, 4):
        epoch = iteration  # one batch an epoch
        for index, image in zip(large.drawn(epoch)[0], large[iteration].images, strict=True):
            found[epoch, int(index)] = image
    steps = small.per_epoch
    for epoch in (1, 0):
        order = small.drawn(epoch)[0]
        shown = torch.cat([small[epoch * steps + step].images for step in range(steps)])
        assert all(torch.equal(found[epoch, int(index)], image) for index, image in zip(order, shown, strict=True))
    other = batches(data, view, batch=len(data), seed=1)
    unlike = [not torch.equal(found[0, int(i)], x) for i, x in zip(other.drawn(0)[0], other[0].images, strict=True)]
    assert any(unlike) and any(not torch.equal(found[0, i], found[1, i]) for i in range(len(data)))
    assert torch.equal(torch.get_rng_state(), before), "nothing else notices"


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 40), batch=st.integers(1, 17), epoch=st.integers(0, 3))
def test_an_epoch_shows_every_image_once_in_batches_of_about_one_size(count: int, batch: int, epoch: int) -> None:
    data = ClassificationSet("n", ("a",), np.zeros((count, 4, 4, 3), np.uint8), np.arange(count))
    made = ClassBatches(data, Whole(side=4), (), batch, 0, 10_000)
    shown = [made[epoch * made.per_epoch + step].labels.tolist() for step in range(made.per_epoch)]
    assert sorted(label for each in shown for label in each) == list(range(count))
    sizes = [len(each) for each in shown]
    assert max(sizes) <= batch and max(sizes) - min(sizes) <= 1 and len(shown) == -(-count // batch)


def test_labels_follow_their_images() -> None:
    made = batches(held(), Whole(side=8))
    plain = ClassBatches(held(), Whole(side=8), (), 4, 0, 9)
    for iteration in range(9):
        epoch, step = divmod(iteration, made.per_epoch)
        chosen = made.drawn(epoch)[0][step * 11 // 3 : (step + 1) * 11 // 3]
        assert made[iteration].labels.tolist() == (chosen % 2).tolist()
        expected = torch.from_numpy(np.asarray(held().images)[chosen]).permute(0, 3, 1, 2)
        assert torch.equal(plain[iteration].images, expected)
    for wrong in (9, -1):
        with pytest.raises(IndexError):
            made[wrong]


def test_crops_and_flips_by_a_loop() -> None:
    images = torch.randint(0, 256, (6, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    numbers = torch.tensor([[0, 0], [0.999, 0.999], [0.5, 0.5], [0.21, 0.79], [0.3, 0], [0.0, 0.6]])
    found = PadCrop(pad=2).apply(images, numbers)
    for image, (down, right), cropped in zip(images, numbers.tolist(), found, strict=True):
        for y in range(5):
            for x in range(7):
                row, column = y + int(down * 5) - 2, x + int(right * 5) - 2
                inside = 0 <= row < 5 and 0 <= column < 7
                assert torch.equal(cropped[:, y, x], image[:, row, column] if inside else torch.zeros(3))
    assert torch.equal(found[2], images[2]), "the middle one is the image itself"
    flipped = BatchFlip(p=0.3).apply(images, numbers[:, :1])
    for image, (number, _), mirrored in zip(images, numbers.tolist(), flipped, strict=True):
        assert torch.equal(mirrored, image.flip(2) if number < 0.3 else image)


def test_draws_are_even() -> None:
    pixels = np.zeros((4000, 3, 3, 3), np.uint8)
    pixels[:, 1, 1] = 255
    data = ClassificationSet("dots", ("a",), pixels, np.zeros(4000, np.int64))
    shown = ClassBatches(data, Whole(side=3), (PadCrop(pad=1),), 4000, 0, 1)[0].images[:, 0]
    share = (shown == 255).float().mean(0)
    assert torch.allclose(share, torch.full((3, 3), 1 / 9), atol=0.02)


def test_views() -> None:
    data = read()
    whole = EvalClassBatches(data, Whole(side=16), 2)
    assert len(whole) == 3 and [whole[step].images.shape[0] for step in range(3)] == [2, 2, 1]
    centre = EvalClassBatches(data, CentreCrop(side=20, short=20), 5)[0].images
    middle = data.read(0)[:, 7:27]  # 20 × 34: nothing to resize, 7 pixels to cut off on each side
    assert torch.equal(centre[0], torch.from_numpy(middle).permute(2, 0, 1))
    assert centre.shape == (5, 3, 20, 20)
    one_by_one = ClassificationSet("h", ("a", "b"), Mixed([(12, 12)] * 3), np.zeros(3, np.int64))
    together = ClassificationSet("h", ("a", "b"), np.stack([one_by_one.read(i) for i in range(3)]), one_by_one.labels)
    for view in (Whole(side=12), Whole(side=7), CentreCrop(side=8, short=10)):
        shown = [EvalClassBatches(each, view, 3)[0].images for each in (one_by_one, together)]
        assert torch.equal(*shown) and shown[0].dtype == torch.uint8
    with pytest.raises(ValidationError, match="does not fit into the short side of 8"):
        CentreCrop(side=9, short=8)
    with pytest.raises(InputError, match="no images to train on"):
        batches(held(0), Whole(side=8))


def test_generated_bytes_are_frozen() -> None:
    # The difficulty is frozen with this hash: whoever changes it raises GeneratedClasses.version.
    digest = hashlib.sha256()
    for data in (GeneratedClasses(images=12, seed=3), GeneratedClasses(images=5, seed=3, split="val", side=48)):
        opened = data.open()
        digest.update(opened.labels.astype("<i8").tobytes())
        digest.update(np.asarray(opened.images).tobytes())
    assert digest.hexdigest() == GOLDEN


def test_generated_set() -> None:
    few, many = (GeneratedClasses(images=count, seed=4).open() for count in (5, 30))
    pixels = np.asarray(many.images)
    assert np.array_equal(np.asarray(few.images), pixels[:5]) and np.array_equal(few.labels, many.labels[:5])
    assert pixels.shape == (30, 32, 32, 3) and pixels.dtype == np.uint8 and "synthetic" in many.name
    assert many.classes == CLASSES == GeneratedClasses(images=1).classes and len(set(many.labels.tolist())) > 6
    others = [GeneratedClasses(images=5, seed=4, split="val"), GeneratedClasses(images=5, seed=5)]
    assert all(not np.array_equal(np.asarray(other.open().images), pixels[:5]) for other in others)
    prints = {each.fingerprint() for each in (*others, GeneratedClasses(images=5), GeneratedClasses(images=6))}
    assert len(prints) == 4


def test_the_object_is_in_the_middle_with_its_surroundings() -> None:
    data = GeneratedClasses(images=150, seed=0, side=64).open()
    golf = np.asarray(data.images)[data.labels == CLASSES.index("golf ball")].astype(int)
    assert len(golf) > 2
    middle, corners = golf[:, 28:36, 28:36].mean((1, 2)), golf[:, :6, 29:35].mean((1, 2))
    assert (middle.min(1) > 150).all() and (np.ptp(middle, axis=1) < 60).all(), "a pale disc"
    assert (corners[:, 1] > corners[:, 0]).mean() > 0.7 and (corners[:, 1] > corners[:, 2]).mean() > 0.7, "on grass"


def test_subset_is_evenly_spread(tmp_path: Path) -> None:
    whole = GeneratedClasses(images=10)
    data, opened = ClassificationSubset(of=whole, limit=4), ClassificationSubset(of=whole, limit=4).open()
    assert opened.labels.tolist() == whole.open().labels[[0, 2, 5, 7]].tolist()
    assert np.array_equal(np.asarray(opened.images), np.asarray(whole.open().images)[[0, 2, 5, 7]])
    assert data.name == opened.name == "generated classes (synthetic) train (≤ 4 images)"
    assert opened.fingerprint == data.fingerprint() != whole.fingerprint()
    assert len(ClassificationSubset(of=whole, limit=99).open()) == 10 and data.num_classes == len(data.classes) == 24
    folder = class_folders(tmp_path)
    some = ClassificationSubset(of=Folders(split="train", folder=folder), limit=2).open()
    assert (some.labels.tolist(), some.read(1).shape, len(some.images)) == ([0, 1], (48, 32, 3), 2)


def class_folders(path: Path, val: tuple[str, ...] = ("ant", "zebra")) -> Path:
    for split, names in (("train", ("ant", "zebra")), ("val", val)):
        for name in names:
            (path / split / name).mkdir(parents=True)
            for image in ("b", "c") if name == "zebra" else ("a",):
                (path / split / name / f"{image}.png").write_bytes((TOY / "images" / f"{image}.png").read_bytes())
    return path


def test_first_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    choice: dict[str, Any] = {
        "of": [
            {"kind": "cifar.Cifar100", "split": "train"},
            {"kind": "generated_classes.GeneratedClasses", "images": 3},
        ]
    }
    assert isinstance(FirstOnDisk.model_validate(choice), GeneratedClasses)
    write_cifar(tmp_path / "data")
    assert isinstance(FirstOnDisk.model_validate(choice), Cifar100)
    choice["of"] = [{"kind": "imagenet.Folders", "split": "train"}]
    with pytest.raises(MissingData, match="imagenet train"):
        FirstOnDisk.model_validate(choice)


def test_class_counts_without_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for data, count in ((Cifar100(split="train"), 100), (Folders(split="train"), 1000)):
        assert data.num_classes == count
        with pytest.raises(MissingData):
            data.require()
        with pytest.raises(MissingData):
            _ = data.classes
    write_cifar(tmp_path / "data")
    assert Cifar100(split="train").num_classes == 2


def test_folders_given_with_data(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "beasts")
    for train, val in (open_class_folder(folder), open_any_folder(folder)):
        assert (train.name, len(train.open()), val.name) == ("beasts train", 3, "beasts val")  # type: ignore[arg-type]
    cifar = tmp_path / "tiny"
    (write_cifar(cifar) / "test").write_bytes((cifar / "cifar-100-python" / "train").read_bytes())
    for path in (cifar, cifar / "cifar-100-python"):
        names = [split.name for split in open_class_folder(path)]
        assert names == [f"{path.name} train", f"{path.name} test"]
    with pytest.raises(InputError) as error:
        open_folder(folder)
    one_line(error, "beasts", "a class each, and this is about detection")
    for path, told in (
        (TOY, "images with boxes, and this is about classification"),
        (KIT, "images with boxes, and this is about classification"),
        (tmp_path, "holds no such dataset"),
        (tmp_path / "none", "is not a folder"),
    ):
        with pytest.raises(InputError) as error:
            open_class_folder(path)
        one_line(error, told, "train/CLASS/")
    assert open_any_folder(TOY)[0].name == "toy train"
    other = class_folders(tmp_path / "other", val=("ant",))
    with pytest.raises(InputError) as error:
        open_class_folder(other)
    one_line(error, "other train has 2 classes and other val 1")


def test_verify_counts_classes_and_finds_what_cannot_be_read(tmp_path: Path) -> None:
    folder = class_folders(tmp_path)
    report = verify(Folders(split="train", folder=folder))
    assert isinstance(report, ClassReport)
    assert (report.images, report.classes, report.problems) == (3, {"ant": 1, "zebra": 2}, {})
    assert report.facts() == [("images", "3"), ("classes", "2")]
    (folder / "train" / "zebra" / "c.png").write_bytes(b"no image")
    (line,) = verify(Folders(split="train", folder=folder)).problems["undecodable images"]
    assert "c.png" in line and "\n" not in line
    damaged = copy(TOY, tmp_path)
    (damaged / "images" / "a.png").unlink()
    assert "missing images" in verify(open_folder(damaged)[0]).problems, "detection is verified as before"


@shared
def test_groceries() -> None:
    train, val = open_class_folder(SHARED / "grocery32")
    assert (train.num_classes, train.name, val.name) == (81, "grocery32 train", "grocery32 test")
    assert verify(val).problems == {}
