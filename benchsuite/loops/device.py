"""What training and prediction share: placing model and batches, precision, reading numbers, and memory."""

import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from benchsuite.data.batch import ImageBatch
from benchsuite.engine.job import Context
from benchsuite.errors import BenchError, InputError, out_of_memory

Precision: TypeAlias = Literal["fp32", "tf32", "bf16"]
B = TypeVar("B", bound=ImageBatch)


def place_model(model: nn.Module, device: str, channels_last: bool) -> None:
    """Move `model` to `device`, in place, its 4-D tensors in channels_last if asked for."""
    model.to(device)
    model.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def place(batch: B, device: str, channels_last: bool) -> B:
    """The batch on `device`, its images in the memory format of the model."""
    moved = batch.to(device)
    if not channels_last:
        return moved
    return replace(moved, images=moved.images.contiguous(memory_format=torch.channels_last))


def compile_parts(parts: Iterable[nn.Module], device: str) -> None:
    """Let torch compile modules for frames of one size, in place, when they first see one.

    Raises InputError where a CPU's code is asked for and torch finds no C++ compiler.
    """
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # as torch looks for one
    if torch.device(device).type == "cpu" and shutil.which(compiler) is None:
        raise InputError(
            f"--compile: there is no C++ compiler {compiler}; install one, name it in $CXX, or leave it out"
        )
    for part in parts:
        part.compile(dynamic=False)


@contextmanager
def arithmetic(context: Context, precision: Precision) -> Iterator[None]:
    """What a GPU makes of products of float32, matrices' and convolutions', and a record of it in `context.ran_under`.

    fp32  float32
    tf32  10 bits of mantissa, several times as fast; left to itself, PyTorch does so in convolutions alone
    bf16  float32 too, where `autocast` leaves it
    """
    with _tf32(precision == "tf32"):
        context.ran_under["precision"] = precision
        context.ran_under["tf32"] = {
            "matmul": torch.backends.cuda.matmul.allow_tf32,
            "cudnn": torch.backends.cudnn.allow_tf32,
        }
        yield


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    # By these names: whoever asks torch by one set of names after another set was used gets an error.
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextmanager
def autotuner(context: Context) -> Iterator[None]:
    """Let cuDNN try its algorithms on each new shape and keep the fastest; not where equal bits are asked for, as it
    chooses by the clock."""
    torch.backends.cudnn.benchmark = not context.execution.deterministic
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False


def tuned(batches: Iterable[B], context: Context) -> Iterator[B]:
    """The batches, with `autotuner` for those as large as one before: trying pays only where a shape comes again."""
    seen = set[torch.Size]()
    for batch in batches:
        shape = batch.images.shape
        with autotuner(context) if shape in seen else nullcontext():
            yield batch
        seen.add(shape)


def autocast(device: str, precision: Precision) -> torch.autocast:
    """Mixed precision where asked for; bf16 needs no loss scaling. A forward pass goes here, a whole loop in
    `arithmetic`."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


def fetch(values: Sequence[Tensor | float]) -> Callable[[], list[float]]:
    """Start bringing scalars to the host, those on the device in one transfer; what is returned waits for them."""
    held = [value.detach().float() for value in values if isinstance(value, Tensor)]
    there = torch.stack(held) if held else torch.empty(0)
    ready = None
    if there.is_cuda:
        there = torch.empty(there.shape, pin_memory=True).copy_(there, non_blocking=True)
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record()

    def read() -> list[float]:
        if ready is not None:
            ready.synchronize()
        numbers = iter(there.tolist())
        return [next(numbers) if isinstance(value, Tensor) else float(value) for value in values]

    return read


def lag(device: str) -> int:
    """After how many more steps a step's numbers are read: one on a GPU, which has something to do meanwhile."""
    return 0 if torch.device(device).type == "cpu" else 1


def limited(device: str) -> bool:
    """Whether an error tells of memory that runs out, so that one can try: a GPU's does, a CPU's process is killed."""
    return torch.device(device).type != "cpu"


def peak_memory(device: str) -> int:
    """Bytes held at most so far: of the GPU by tensors, else of the computer by this process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


@contextmanager
def memory(doing: str, cure: str) -> Iterator[None]:
    """Turn running out of memory, on the CPU or a GPU, into a BenchError of one line that says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise BenchError(f"{doing}: out of memory; {cure}") from error
