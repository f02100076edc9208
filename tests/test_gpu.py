"""What a GPU alone can show, and no CPU has: `make test-gpu` runs it, and says what it skips. Points as in "What no GPU
has shown yet" of docs/benchmarks.md.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_cli import bench
from test_ddp import MODELS, SIZE, a_row, frozen, lines, place, same_lines, training
from test_execution import LARGER
from test_models_retinanet import a_batch, small

from benchsuite.data.batches import Batches
from benchsuite.engine.environment import determinism, tidy
from benchsuite.engine.job import Context, Execution
from benchsuite.errors import BenchError
from benchsuite.loops.device import Precision, arithmetic
from benchsuite.loops.solver import Solver
from benchsuite.loops.train import Run
from benchsuite.models.matcher import Matcher, OneToOne, OverlapAssignment
from benchsuite.pipelines.pipeline import Pipeline

GPU = "cuda:0"
FEW: dict[str, Any] = {"iterations": 6, "warmup_iterations": 2, "drops": [4]}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)
    tidy(GPU)


def on_gpu(job: Any, folder: Path, processes: int = 1, **execution: Any) -> Path:
    context = place(folder, processes, device=GPU)
    job.do(Context(**{**vars(context), "execution": Execution(per_job=processes, **execution)}))
    return folder


@pytest.mark.parametrize(("precision", "low", "high"), [("fp32", 0.0, 2e-6), ("tf32", 1e-5, 2e-3), ("bf16", 0.0, 2e-6)])
@pytest.mark.parametrize("conv", [False, True])
def test_products_have_the_digits_asked_for(
    tmp_path: Path, precision: Precision, low: float, high: float, conv: bool
) -> None:
    x, y = (torch.randn(64, 64, 32, 32, device=GPU) if conv else torch.randn(512, 512, device=GPU) for _ in range(2))
    product = (lambda a, b: torch.nn.functional.conv2d(a, b[:, :, :3, :3])) if conv else torch.matmul
    with arithmetic(Context(tmp_path, tmp_path, tmp_path), precision):
        found = product(x, y).double()
    right = product(x.double(), y.double())
    assert low <= float((found - right).norm() / right.norm()) <= high


def test_a_step_of_a_dense_detector_makes_no_host_wait(tmp_path: Path) -> None:
    solver = Solver(lr=0.01, iterations=9, batch=2, clip_norm=1.0)
    run = Run(small(), solver, Context(tmp_path, tmp_path, tmp_path, device=GPU))
    for _ in range(3):  # anchors are made, kernels chosen, pinned memory taken
        run.step(a_batch().pin_memory(), 0)
    batch = a_batch().pin_memory()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.step(batch, 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    run.read()


@pytest.mark.parametrize("settings", [Matcher(), OneToOne()])
def test_matching_at_full_size_holds_little(settings: OverlapAssignment) -> None:
    """16 images of 60 boxes, 201,600 anchors: 800×1333."""
    corners = torch.rand(201_600, 2, device=GPU) * 1000
    anchors = torch.cat((corners, corners + 8 + 200 * torch.rand_like(corners)), 1)
    corners = torch.rand(16, 60, 2, device=GPU) * 1000
    boxes = torch.cat((corners, corners + 8 + 100 * torch.rand_like(corners)), 2)
    tidy(GPU)
    before = torch.cuda.memory_allocated(GPU)
    settings.match(anchors, boxes, torch.zeros(16, 60, dtype=torch.long, device=GPU))
    assert torch.cuda.max_memory_allocated(GPU) - before <= 0.4 * 2**30


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("recompute", [False, True])
def test_memory_is_as_estimated(tmp_path: Path, model: str, recompute: bool) -> None:
    """Of what torch's allocator gave out."""
    row = a_row(model, batch=4).changed(input=LARGER, augment=[])
    job: Any = training(row)
    tidy(GPU)
    run = Run(job.blank(24), job.solver, Context(tmp_path, tmp_path, tmp_path, device=GPU,
                                                 execution=Execution(recompute=recompute)))  # fmt: skip
    batch = Batches(row.data.cut("train").open(), job.input, job.augment, 4, 0, 2, None, job.model.masks)[0]
    for _ in range(2):
        run.step(batch, 0)
    found = job.footprint(Execution(recompute=recompute))
    assert found.peak == pytest.approx(torch.cuda.max_memory_allocated(GPU), rel=0.2)


def test_too_large_a_batch_is_told_before_the_first_step(tmp_path: Path) -> None:
    job: Any = training(a_row("retinanet", batch=4).changed(input=LARGER))
    done = list[int]()
    context = place(tmp_path / "1", 1, device=GPU, report=lambda progress: done.append(progress.done))
    total = torch.cuda.get_device_properties(GPU).total_memory
    tidy(GPU)
    torch.cuda.set_per_process_memory_fraction(max(torch.cuda.memory_reserved(GPU), 60 << 20) / total, GPU)
    try:
        with pytest.raises(BenchError, match=r"^training on cuda:0: out of memory; lower solver\.micro_batch"):
            job.do(context)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, GPU)
    assert done == []


def test_memory_is_given_back_after_a_job(tmp_path: Path) -> None:
    on_gpu(training(a_row("ssd", **FEW)), tmp_path / "1")
    tidy(GPU)
    assert torch.cuda.memory_reserved(GPU) < 256 << 20


@pytest.mark.parametrize("model", MODELS)
def test_every_kind_of_detector_trains_as_on_a_cpu(tmp_path: Path, model: str) -> None:
    """The first losses, whatever rounding makes of the later ones."""
    job: Any = training(frozen(model, tmp_path, **FEW) if model in ("mask", "c4") else a_row(model, **FEW))
    job.do(place(tmp_path / "cpu", 1))
    on_gpu(job, tmp_path / "gpu")
    one, other = lines(tmp_path / "cpu"), lines(tmp_path / "gpu")
    assert len(one) == len(other) == FEW["iterations"]
    if model not in ("mask", "c4"):  # which draw on their device
        assert one[0]["loss"] == pytest.approx(other[0]["loss"], rel=1e-3)


@pytest.mark.parametrize("model", ["retinanet", "padet"])
def test_compiled_parts_give_the_same_numbers(tmp_path: Path, model: str) -> None:
    row: Pipeline = a_row(model, **FEW)
    if model == "retinanet":
        row = row.changed(input={"kind": "transforms.Fixed", **SIZE}, augment=[])
    job: Any = training(row)
    assert job.one_frame
    plain, compiled = (lines(on_gpu(job, tmp_path / str(each), compiled=each)) for each in (False, True))
    assert plain[0]["loss"] == pytest.approx(compiled[0]["loss"], rel=1e-3)


def test_determinism_that_is_asked_for_gives_equal_bits(tmp_path: Path) -> None:
    determinism(GPU, True)
    job = training(a_row("ssd", **FEW))
    found = [on_gpu(job, tmp_path / each, deterministic=True) / "artifact" for each in "ab"]
    one, other = (load_file(each / "weights.safetensors") for each in found)
    assert all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize("table", ["har-table1", "cat-table6", "padet-table2", "assd-table3", "pod-table1"])
def test_a_table_at_smoke(table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench("run", table, "--tier", "smoke", "--device", "cuda") == 0


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one training on two GPUs needs two")
def test_two_gpus_are_as_one(tmp_path: Path) -> None:
    job = training(a_row("ssd"))
    for processes in (1, 2):
        on_gpu(job, tmp_path / str(processes), processes)
    same_lines(tmp_path / "1", tmp_path / "2", rel=1e-4)
