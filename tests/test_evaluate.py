"""The loop over a split that prediction, classification and POD's scales share."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchsuite.data.batch import ImageBatch
from benchsuite.engine.job import Context, Progress
from benchsuite.errors import BenchError, Interrupted
from benchsuite.loops.evaluate import Pass, evaluate


class Grey(Dataset[ImageBatch]):
    """Three batches of 2, 2 and 1 images, as grey as their number."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> ImageBatch:
        return ImageBatch(torch.full((2 if number < 2 else 1, 3, 4, 4), number, dtype=torch.uint8))


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(tmp_path, tmp_path / "partial", tmp_path / "cache")


def test_every_batch_is_run_in_order_and_what_is_kept_comes_back(context: Context) -> None:
    network, reports = nn.Linear(4, 4), list[Progress]()
    seen: list[tuple[bool, bool]] = []

    def run(batch: ImageBatch) -> Tensor:
        seen.append((network.training, torch.is_inference_mode_enabled()))
        found: Tensor = network(batch.images.float())
        return found

    def keep(batch: ImageBatch, found: Tensor) -> tuple[int, torch.dtype, torch.dtype]:
        return int(batch.images[0, 0, 0, 0]), found.dtype, (found.float() @ found.float()).dtype

    kept = evaluate(
        network, Grey(), run, keep, replace(context, report=reports.append), "a look", "nothing", Pass("bf16")
    )
    assert kept == [(n, torch.bfloat16, torch.float32) for n in range(3)], "the run alone is in low precision"
    assert seen == [(False, True)] * 3
    assert [(each.done, each.total, each.unit) for each in reports] == [(n, 3, "batches") for n in (1, 2, 3)]
    timing = json.loads((context.folder / "timing.json").read_text())
    assert timing["images_per_second"] == pytest.approx(5 / timing["seconds"])


def test_it_stops_between_batches(context: Context) -> None:
    answers = iter([False, True])
    with pytest.raises(Interrupted, match="a look stopped after batch 1 of 3; run it again"):
        evaluate(nn.Identity(), Grey(), lambda batch: batch, lambda batch, found: None,
                 replace(context, stop=lambda: next(answers)), "a look", "nothing", Pass())  # fmt: skip


def test_out_of_memory_says_what_to_lower(context: Context) -> None:
    def run(batch: ImageBatch) -> None:
        raise MemoryError

    with pytest.raises(BenchError, match="a look on cpu: out of memory; lower something"):
        evaluate(nn.Identity(), Grey(), run, lambda batch, found: None, context, "a look", "lower something", Pass())
