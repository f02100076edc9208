"""Two processes that train together are one, beyond rounding: in double, at full rates, where in float32 PADet's and
two-stage detectors' choices by their own predictions let a last bit grow (docs/decisions.md)."""

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from test_ddp import STILL, a_row, frozen, place, same_lines, training
from torch import Tensor

from benchsuite.engine.job import Context
from benchsuite.loops.ranks import Alone
from benchsuite.models.detector import Detector
from benchsuite.pipelines.detection import Train

pytestmark = pytest.mark.slow


class InDouble(Train):
    """A training in which what is float32 elsewhere is double."""

    def build(self, num_classes: int, context: Context) -> Detector:
        return super().build(num_classes, context).double()

    def take_part(self, context: Context, team: Alone) -> None:
        with patch.object(Tensor, "float", Tensor.double):
            super().take_part(context, team)


@pytest.mark.parametrize("model", STILL)
def test_two_processes_are_as_one_at_full_rates(tmp_path: Path, model: str) -> None:
    row = frozen(model, tmp_path, lr=0.002) if model in ("mask", "c4") else a_row(model, lr=0.002)
    job = InDouble(**{name: getattr(training(row), name) for name in Train.model_fields})
    for processes in (1, 2):
        job.do(place(tmp_path / str(processes), processes))
    same_lines(tmp_path / "1", tmp_path / "2", rel=1e-6)  # torch adds up some of them in the targets' float32
    one, other = (load_file(tmp_path / each / "artifact" / "weights.safetensors") for each in "12")
    assert any(value.dtype is torch.double for value in one.values())
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
