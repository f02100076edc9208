"""Prediction: back to original pixels, no padding, weights that fit, one-line errors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchsuite.data.batch import Batch, Detections
from benchsuite.data.batches import EvalBatches
from benchsuite.data.dataset import DetectionSet
from benchsuite.engine.job import Context, Progress
from benchsuite.errors import BenchError, InputError, Interrupted
from benchsuite.loops import checkpoint
from benchsuite.loops.checkpoint import load_weights
from benchsuite.loops.evaluate import Pass
from benchsuite.loops.predict import predict
from benchsuite.metrics.metric import Found
from benchsuite.models.detector import Detector
from benchsuite.models.postprocess import Candidates, PostProcess


class Corner(Detector):
    """Finds one box in image 10, two in 20, none in 30, as the number of its bright pixels tells."""

    def __init__(self, label: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.label = label

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError  # it only detects here

    def candidates(self, batch: Batch, post: PostProcess) -> Candidates:
        raise NotImplementedError  # it finds without choosing here

    def detect(self, batch: Batch, post: PostProcess) -> Detections:
        assert not self.training and torch.is_inference_mode_enabled()
        self.conv(batch.images.float())
        count = (batch.images[:, 0] == 255).flatten(1).sum(1, keepdim=True)
        rows = torch.arange(post.per_image).unsqueeze(0) < count
        boxes = torch.tensor([2.0, 1, 8, 5]).expand(*rows.shape, 4) * rows.unsqueeze(2)
        scores = torch.tensor([0.75, 0.5, 0.25])[: post.per_image] * rows
        return Detections(boxes, scores, torch.where(rows, self.label, -1))


class Fakes:
    """Three images of 6×8 in two batches: 12×32, 6×4 and 6×8 before resizing."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Batch:
        images = torch.zeros(3, 3, 6, 8, dtype=torch.uint8)
        images[0, :, 0, 0] = 255
        images[1, :, 0, :2] = 255
        sizes = torch.tensor([[6, 8]]).repeat(3, 1)
        originals = torch.tensor([[12, 32], [6, 4], [6, 8]])
        whole = Batch(images, sizes, originals, torch.tensor([10, 20, 30]), torch.zeros(3, 1, 4), torch.zeros(3, 1))
        return whole.split(2)[index]


BATCHES = cast(EvalBatches, Fakes())
POST = PostProcess(per_image=3)


def data(images: int = 3) -> DetectionSet:
    none = np.zeros(0)
    return DetectionSet(
        name="fake val",
        classes=("a", "b"),
        image_ids=np.array([10, 20, 30])[:images],
        file_names=("a.jpg", "b.jpg", "c.jpg")[:images],
        sizes=np.array([[12, 32], [6, 4], [6, 8]], np.int32)[:images],
        boxes=none.reshape(0, 4),
        labels=none.astype(np.int64),
        areas=none,
        crowd=none.astype(bool),
        difficult=none.astype(bool),
        offsets=np.zeros(images + 1, np.int64),
        category_ids=np.array([1, 2]),
        read=lambda index: np.zeros((6, 8, 3), np.uint8),
    )


def context(
    folder: Path, report: Callable[[Progress], None] = lambda progress: None, stop: Callable[[], bool] = lambda: False
) -> Context:
    return Context(folder, folder, folder, report=report, stop=stop)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_boxes_are_in_original_pixels(tmp_path: Path, precision: str, channels_last: bool) -> None:
    seen: list[Progress] = []
    where = context(tmp_path, seen.append)
    predict(Corner(), BATCHES, data(), POST, where, Pass(precision, channels_last))  # type: ignore[arg-type]
    assert where.ran_under == {"precision": precision, "tf32": {"matmul": False, "cudnn": False}}
    found = Found.load(tmp_path / "detections.safetensors")
    assert found.image_ids.tolist() == [10, 20, 20]
    assert found.boxes.tolist() == [[8, 2, 32, 10], [1, 1, 4, 5], [1, 1, 4, 5]]
    assert found.scores.tolist() == [0.75, 0.75, 0.5]
    assert found.labels.tolist() == [1, 1, 1]
    assert [found.boxes.dtype, found.scores.dtype, found.labels.dtype] == [np.float32, np.float32, np.int64]
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"images": 3, "detections": 3}
    assert [(p.done, p.total, p.unit) for p in seen] == [(1, 2, "batches"), (2, 2, "batches")]


def test_finding_nothing_is_fine(tmp_path: Path) -> None:
    predict(Corner(label=-1), BATCHES, data(), POST, context(tmp_path), Pass())
    assert len(Found.load(tmp_path / "detections.safetensors")) == 0


def test_stops(tmp_path: Path) -> None:
    count: list[Progress] = []
    with pytest.raises(Interrupted, match="after batch 1 of 2"):
        predict(Corner(), BATCHES, data(), POST, context(tmp_path, count.append, lambda: bool(count)), Pass())
    assert not list(tmp_path.iterdir())


def test_refuses_what_cannot_belong_to_the_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="class 7 is none of the 2 of fake val"):
        predict(Corner(label=7), BATCHES, data(), POST, context(tmp_path), Pass())
    with pytest.raises(InputError, match="fake val: it has no images"):
        predict(Corner(), BATCHES, data(0), POST, context(tmp_path), Pass())


def test_out_of_memory_says_what_to_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(*arguments: object) -> Detections:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Corner, "detect", hungry)
    with pytest.raises(BenchError, match="prediction on cpu: out of memory; lower eval_batch"):
        predict(Corner(), BATCHES, data(), POST, context(tmp_path), Pass())


def test_weights_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second = Corner().to(memory_format=torch.channels_last), Corner()
    checkpoint.save(tmp_path / "weights.safetensors", first.state_dict())
    load_weights(second, tmp_path / "weights.safetensors")
    assert all(value.equal(second.state_dict()[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, r"lacks the tensor 'conv\.bias'"),
        ({"conv.weight": torch.zeros(3, 3, 1, 1)}, r"lacks the tensor 'conv\.bias'"),
        ({"conv.weight": torch.zeros(3, 3, 1, 1), "conv.bias": torch.zeros(2)}, r"'conv\.bias' has shape \[2\].*\[3\]"),
        (dict.fromkeys(["conv.weight", "conv.bias", "x"], torch.zeros(1)), "unknown tensor 'x'"),
    ],
)
def test_weights_of_another_model(tmp_path: Path, tensors: dict[str, Tensor], message: str) -> None:
    checkpoint.save(tmp_path / "weights.safetensors", tensors)
    with pytest.raises(InputError, match=rf"weights\.safetensors: .*{message}.* and run again") as error:
        load_weights(Corner(), tmp_path / "weights.safetensors")
    assert "\n" not in str(error.value)


def test_unreadable_weights(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"not tensors")
    for path in (tmp_path / "weights.safetensors", tmp_path / "absent.safetensors"):
        with pytest.raises(InputError, match=f"{path.name}: truncated or not a safetensors file"):
            load_weights(Corner(), path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, {"a": torch.zeros(2)}, {"iteration": 1})

    def full(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(path, {"a": torch.ones(2)}, {"iteration": 2})
    assert checkpoint.load(path, "")[1] == {"iteration": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.safetensors"]
