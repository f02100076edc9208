"""The schedule, the artifact, and what a step does to each parameter."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from train_cases import Fakes, Tiny, context, outcome, run, same, solver

from benchsuite.data.batch import Batch
from benchsuite.engine.job import Progress
from benchsuite.loops.solver import Solver, steps
from benchsuite.loops.train import train
from benchsuite.models.cross_level import CrossLevelGroupNorm
from benchsuite.settings import canonical


def test_schedule_of_har_net() -> None:
    """har-net.spec 7.14."""
    paper = Solver(lr=0.0125, iterations=72_000, batch=20)
    rates = [paper.lr_at(i) for i in (47_999, 48_000, 63_999, 64_000, 71_999)]
    assert rates == pytest.approx([0.0125, 0.00125, 0.00125, 0.000125, 0.000125], rel=1e-12)
    assert paper.iterations * paper.batch / 118_287 == pytest.approx(12.17, abs=0.005)


def test_warm_up_rises_linearly() -> None:
    paper = Solver(lr=0.0125, iterations=72_000, batch=20)
    assert paper.lr_at(0) == pytest.approx(0.0125 / 3)
    assert paper.lr_at(250) == pytest.approx(0.0125 * 2 / 3)
    assert paper.lr_at(500) == 0.0125
    assert solver(warmup_iterations=0).lr_at(0) == 0.05


@pytest.mark.parametrize("wrong", [{"lr": 0}, {"batch": 0}, {"precision": "fp16"}, {"momentum": 1.0}, {"unknown": 1}])
def test_refuses_wrong_settings(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        solver(**wrong)


def test_leaves_an_artifact(tmp_path: Path) -> None:
    seen: list[Progress] = []
    where = context(tmp_path, report=seen.append)
    run(where, solver())
    weights, lines, metrics = outcome(where)
    assert set(weights) == set(Tiny().state_dict())
    assert [line["iteration"] for line in lines] == list(range(1, 13))
    assert {"loss", "classification", "box", "lr", "grad_norm", "head.bias"} <= lines[0].keys()
    assert lines[0]["loss"] == pytest.approx(lines[0]["classification"] + lines[0]["box"])
    assert metrics == {"iterations": 12, "loss": lines[-1]["loss"]}
    assert [p.done for p in seen] == list(range(1, 13)) and seen[0].loss == lines[0]["loss"]
    assert json.loads((where.folder / "timing.json").read_text())["seconds"] > 0
    assert weights["frozen"].equal(torch.ones(3)) and weights["unused"].equal(torch.ones(3))


def test_learns(tmp_path: Path) -> None:
    where = context(tmp_path)
    run(where, solver(iterations=30, drops=()))
    lines = outcome(where)[1]
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]


def test_step_is_torchs_sgd(tmp_path: Path) -> None:
    """Three iterations against a plain loop with torch's SGD, weight decay and clipping."""
    settings = solver(iterations=3, clip_norm=0.5, channels_last=False)
    where = context(tmp_path)
    torch.manual_seed(0)
    ours, plain = Tiny(norm=False), Tiny(norm=False)
    plain.load_state_dict(ours.state_dict())
    train(ours, Fakes(), settings, where, 1)
    sgd = torch.optim.SGD(plain.parameters(), 1.0, momentum=0.9, weight_decay=1e-4)
    for i in range(3):
        sgd.param_groups[0]["lr"] = settings.lr_at(i)
        sgd.zero_grad()
        torch.stack(list(plain.losses(Fakes()[i]).values())).sum().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        sgd.step()
    for (name, value), expected in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(value, expected, msg=name)


def test_a_module_may_go_without_weight_decay(tmp_path: Path) -> None:
    """With no gradient left, SGD only decays: the stem by lr · decay, the head, whose factor is 0, not at all."""
    torch.manual_seed(0)
    model = Tiny(norm=False)
    model.losses = lambda batch: {"nothing": 0 * (model.stem.weight.sum() + model.head.weight.sum())}  # type: ignore[method-assign]
    model.head.decay_factor = 0.0  # type: ignore[assignment]
    stem, head = model.stem.weight.detach().clone(), model.head.weight.detach().clone()
    settings = solver(iterations=1, warmup_iterations=0, weight_decay=0.1)
    train(model, Fakes(), settings, context(tmp_path), 1)
    torch.testing.assert_close(model.stem.weight.detach(), stem * (1 - 0.05 * 0.1))
    assert torch.equal(model.head.weight, head)


class Normed(Tiny):
    """Norms of every class, beside convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.many = nn.ModuleList(
            (nn.GroupNorm(2, 8), nn.LayerNorm(8), nn.InstanceNorm2d(8, affine=True), CrossLevelGroupNorm(8, 2))
        )
        self.plain = nn.Linear(8, 8)


NORM_WEIGHTS = {"norm.weight", "norm.bias", *(f"many.{n}.{kind}" for n in range(4) for kind in ("weight", "bias"))}


BIASES = {"stem.bias", "head.bias", "plain.bias"}


WEIGHTS = {"stem.weight", "head.weight", "plain.weight", "unused", "frozen"}


def test_norms_and_biases_have_a_decay_of_their_own() -> None:
    found = steps(Normed(), solver(weight_decay=0.1, norm_decay=0.0, bias_decay=0.02, bias_lr_factor=2))
    assert found.keys() == NORM_WEIGHTS | BIASES | WEIGHTS
    assert {name for name, step in found.items() if step == (1, 0.0)} == NORM_WEIGHTS
    assert {name for name, step in found.items() if step == (2, 0.02)} == BIASES
    assert {name for name, step in found.items() if step == (1, 0.1)} == WEIGHTS


def test_unless_they_are_set_all_parameters_decay_alike() -> None:
    assert set(steps(Normed(), solver(weight_decay=0.1)).values()) == {(1.0, 0.1)}
    assert "decay" not in " ".join(set(canonical(solver())) - {"weight_decay"})  # type: ignore[arg-type]


def test_a_modules_own_factors_come_on_top() -> None:
    model = Normed()
    model.stem.lr_factor, model.stem.decay_factor = 0.1, 0.5  # type: ignore[assignment]
    found = steps(model, solver(weight_decay=0.2, bias_decay=0.02, bias_lr_factor=2))
    assert found["stem.weight"] == (0.1, 0.1) and found["stem.bias"] == (0.2, 0.01)


def test_decay_and_rate_of_biases_reach_the_step(tmp_path: Path) -> None:
    """With a gradient of 1 everywhere: weights move by lr · (1 + decay · w), biases by 2 lr, the norm's by lr."""
    torch.manual_seed(0)
    model = Tiny()
    model.losses = lambda batch: {"sum": sum(p.sum() for p in model.parameters() if p.requires_grad)}  # type: ignore[method-assign]
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    settings = solver(
        iterations=1, drops=(), warmup_iterations=0, weight_decay=0.1, norm_decay=0, bias_decay=0, bias_lr_factor=2
    )
    train(model, Fakes(), settings, context(tmp_path), 1)
    moved = {name: before[name] - value.detach() for name, value in model.named_parameters()}
    torch.testing.assert_close(moved["stem.weight"], 0.05 * (1 + 0.1 * before["stem.weight"]))
    torch.testing.assert_close(moved["stem.bias"], torch.full((8,), 0.1))
    for name in ("norm.weight", "norm.bias"):
        torch.testing.assert_close(moved[name], torch.full((8,), 0.05))


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_accumulation_keeps_the_step(tmp_path: Path, micro_batch: int) -> None:
    ends = []
    for size in (None, micro_batch):
        torch.manual_seed(0)
        detector = Tiny(norm=False)
        where = context(tmp_path / str(size))
        train(detector, Fakes(), solver(micro_batch=size), where, 1)
        ends.append((detector.state_dict(), outcome(where)[1]))
    (whole, log), (parts, parts_log) = ends
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-5, atol=1e-6)
    assert [line["loss"] for line in log] == pytest.approx([line["loss"] for line in parts_log], rel=1e-4)


def test_seed_changes_the_draws(tmp_path: Path) -> None:
    one, two = context(tmp_path / "one"), context(tmp_path / "two")
    run(one, solver(), seed=1)
    run(two, solver(), seed=2)
    assert not same(one, two)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_switches_hold_for_the_forward_and_the_backward_pass(tmp_path: Path, precision: str) -> None:
    seen: list[bool] = []

    class Looking(Tiny):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            found = super().losses(batch)
            seen.append(torch.backends.cudnn.allow_tf32)
            for value in found.values():
                value.register_hook(lambda slope: seen.append(torch.backends.cuda.matmul.allow_tf32))  # type: ignore[no-untyped-call]
            return found

    where = context(tmp_path)
    train(Looking(), Fakes(), solver(precision=precision, iterations=2, drops=()), where, 1)
    assert seen == [precision == "tf32"] * 6
    assert where.ran_under["precision"] == precision
