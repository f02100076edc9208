"""What counts as running out of memory."""

import pytest
import torch

from benchsuite.errors import out_of_memory


def test_the_cpus_allocator_is_known_by_its_text() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")]
)
def test_pythons_and_torchs_are_known_by_their_kind(error: Exception) -> None:
    assert out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("can't allocate a seat"), KeyError("MemoryError")])
def test_others_are_not(error: Exception) -> None:
    assert not out_of_memory(error)
