"""Nothing makes the host wait for a GPU within a training step of a dense detector: every shape is known beforehand,
and numbers are read one step late. What would wait is recognised on a CPU by the operations that it takes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_models_retinanet import a_batch, small, summed
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchsuite.engine.job import Context
from benchsuite.loops import train as training
from benchsuite.loops.solver import Solver
from benchsuite.loops.train import Run
from benchsuite.models import dense
from benchsuite.models.losses import FocalLoss, Softmax
from benchsuite.papers.harnet import Head
from benchsuite.papers.pod import GslConv

WAITING = ("nonzero", "_local_scalar_dense", "masked_select", "unique", "bincount", "equal")


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the operations whose result's shape or value the host must know."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
        )
        if by_mask or name.lstrip("_").startswith(tuple(each.lstrip("_") for each in WAITING)):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(dense, "worth", lambda foreground: slice(None))
    monkeypatch.setattr(training, "lag", lambda device: 1)
    yield


def test_waits_are_recognised() -> None:
    x = torch.arange(4.0)
    with Waits() as waits:
        x[x > 1].sum().item()
        x.nonzero()
        torch.zeros(4).masked_fill_(x > 1, 1)
    assert waits.found == ["index", "_local_scalar_dense", "nonzero"]


@pytest.mark.parametrize("head", ["plain", "attention"])
def test_a_step_of_a_dense_detector_waits_for_nothing(tmp_path: Path, as_on_a_gpu: None, head: str) -> None:
    detector = small()
    if head == "attention":
        settings = Head.model_validate(
            {
                "channels": 24,
                "depth": 2,
                "clgn": {"groups": 4},
                "spatial": {"dilations": (1, 2), "channels": 4},
                "channel": {"kind": "harnet.CLSE"},
            }
        )
        detector.head = settings.build(detector.neck.channels, detector.neck.strides, detector.per_cell, 3)
    run = Run(detector, Solver(lr=0.01, iterations=9, batch=2, clip_norm=1.0), Context(tmp_path, tmp_path, tmp_path))
    run.step(a_batch(), 0)  # makes anchors, which are kept
    with Waits() as waits:
        run.step(a_batch(), 0)
    assert waits.found == []


LOSSES = [FocalLoss(), Softmax(mining=3.0), Softmax()]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_no_class_loss_waits(loss: FocalLoss | Softmax) -> None:
    logits, targets = torch.randn(2, 9, 3 + loss.background, requires_grad=True), torch.randint(-2, 3, (2, 9))
    with Waits() as waits:
        torch.autograd.backward(loss.sum(logits, targets))
    assert waits.found == []


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("boxes", [0, 1, 6])
def test_foreground_picked_out_or_masked_is_the_same(
    monkeypatch: pytest.MonkeyPatch, boxes: int, loss: FocalLoss | Softmax
) -> None:
    detector = small()
    detector.settings = detector.settings.model_copy(update={"classification": loss})
    generator = torch.Generator().manual_seed(2)
    anchors = torch.rand(50, 4, generator=generator) * 40
    anchors[:, 2:] += anchors[:, :2] + 1
    corners = anchors[: 2 * boxes].reshape(2, boxes, 4) + 1
    labels = torch.randint(-1, 3, (2, boxes), generator=generator)
    found = []
    for pick in (dense.worth, lambda foreground: slice(None)):
        monkeypatch.setattr(dense, "worth", pick)
        logits = torch.randn(2, 50, 3 + loss.background, generator=torch.Generator().manual_seed(3)).requires_grad_()
        offsets = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(4)).requires_grad_()
        losses = detector.losses_of(logits, offsets, anchors, corners, labels)
        found.append((*losses.values(), *torch.autograd.grad(summed(losses), (logits, offsets))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
        assert one.isfinite().all()


def test_scales_are_not_counted_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """POD's sampling by cells has to know them; deformable sampling has not."""
    conv = GslConv(torch.nn.Conv2d(4, 4, 3, padding=1, bias=False), "R31")
    x: Tensor = torch.rand(2, 4, 8, 8)
    monkeypatch.setattr("benchsuite.papers.pod.counts_cheaply", lambda x: False)
    with Waits() as waits:
        conv(x)
    assert waits.found == [] and conv.used == "deform"
