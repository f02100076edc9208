"""Precision: the switches in force while something trains, predicts or is timed, and what is recorded of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchsuite.data.batch import ImageBatch
from benchsuite.engine.job import Context, Execution
from benchsuite.loops.device import Precision, arithmetic, autocast, autotuner, fetch, peak_memory, tuned

Switches = tuple[bool, bool, str, str]


def switches() -> Switches:
    """TF32 in matrix products and in cuDNN, by both sets of names that torch has for them."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return matmul.allow_tf32, cudnn.allow_tf32, matmul.fp32_precision, cudnn.conv.fp32_precision  # type: ignore[attr-defined]


@pytest.fixture(params=[False, True], ids=["off before", "on before"])
def before(request: pytest.FixtureRequest) -> Iterator[Switches]:
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = request.param
    yield switches()
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("tf32", True), ("bf16", False)])
def test_both_switches_are_set_recorded_and_put_back(
    tmp_path: Path, before: Switches, precision: Precision, tf32: bool
) -> None:
    context = Context(tmp_path, tmp_path, tmp_path)
    with arithmetic(context, precision):
        matmul, cudnn, of_matmul, of_conv = switches()
        assert (matmul, cudnn) == (tf32, tf32)
        assert (of_matmul == "tf32", of_conv == "tf32") == (tf32, tf32)
    assert switches()[:2] == before[:2]
    assert context.ran_under == {"precision": precision, "tf32": {"matmul": tf32, "cudnn": tf32}}


def test_they_are_put_back_after_an_error(tmp_path: Path, before: Switches) -> None:
    with pytest.raises(ValueError, match="no"), arithmetic(Context(tmp_path, tmp_path, tmp_path), "tf32"):
        raise ValueError("no")
    assert switches()[:2] == before[:2]


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("tf32", "float32"), ("bf16", "bfloat16")])
def test_only_bf16_computes_in_another_type(precision: Precision, dtype: str) -> None:
    with autocast("cpu", precision):
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == getattr(torch, dtype)


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_autotuner_is_on_where_a_shape_comes_again(tmp_path: Path, deterministic: bool) -> None:
    context = Context(tmp_path, tmp_path, tmp_path, execution=Execution(deterministic=deterministic))
    sides = [8, 16, 8, 8, 24, 16]
    made = (ImageBatch(torch.zeros(1, 3, side, 8, dtype=torch.uint8)) for side in sides)
    seen = [(batch.images.shape[2], torch.backends.cudnn.benchmark) for batch in tuned(made, context)]
    again = [False, False, True, True, False, True]
    assert seen == [(side, known and not deterministic) for side, known in zip(sides, again, strict=True)]
    assert not torch.backends.cudnn.benchmark
    with autotuner(context):
        assert torch.backends.cudnn.benchmark is not deterministic
    assert not torch.backends.cudnn.benchmark


def test_numbers_are_fetched_in_order_and_as_they_were() -> None:
    moving = torch.tensor(2.0, requires_grad=True)
    read = fetch([1.5, moving, torch.tensor(3), 4, torch.tensor(0.1, dtype=torch.bfloat16)])
    with torch.no_grad():
        moving += 1
    assert read() == [1.5, 2.0, 3.0, 4.0, pytest.approx(0.1, rel=0.01)]
    assert fetch([])() == []


def test_peak_memory_never_falls() -> None:
    before = peak_memory("cpu")
    held: Tensor | None = torch.ones(50_000_000)
    most = peak_memory("cpu")
    assert held is not None and most >= before > 10_000_000
    held = None
    assert peak_memory("cpu") >= most
