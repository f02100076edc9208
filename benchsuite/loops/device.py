"""What training and prediction share: placing model and batches, precision, and running out of memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, TypeAlias, TypeVar

import torch
from torch import nn

from benchsuite.data.batch import ImageBatch
from benchsuite.errors import BenchError

Precision: TypeAlias = Literal["fp32", "bf16"]
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


def autocast(device: str, precision: Precision) -> torch.autocast:
    """Mixed precision where asked for; bf16 needs no loss scaling."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def memory(doing: str, cure: str) -> Iterator[None]:
    """Turn running out of memory, on the CPU or a GPU, into a BenchError of one line that says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # The CPU's allocator raises a plain RuntimeError, known by its text alone.
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)
        if not known:
            raise
        raise BenchError(f"{doing}: out of memory; {cure}") from error
