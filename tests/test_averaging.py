"""The running mean of weights that a training leaves with `averaging`: against a plain loop, and through a kill."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn
from train_cases import Fakes, Killed, Tiny, context, die_at, same, solver

from benchsuite.engine.job import Context, Progress
from benchsuite.errors import InputError
from benchsuite.loops import checkpoint
from benchsuite.loops.looks import Looks
from benchsuite.loops.solver import Solver
from benchsuite.loops.train import Run, train
from benchsuite.settings import canonical


def trained(where: Context, settings: Solver) -> tuple[Tiny, list[dict[str, Tensor]]]:
    """A network after its training, and the state after each step."""
    torch.manual_seed(0)
    network, states = Tiny(), list[dict[str, Tensor]]()

    def keep(_: Progress) -> None:
        states.append({name: value.clone() for name, value in network.state_dict().items()})

    train(network, Fakes(), settings, replace(where, report=keep), 1)
    return network, states


def test_what_is_left_is_the_running_mean(tmp_path: Path) -> None:
    where = context(tmp_path)
    network, states = trained(where, solver(averaging=0.8))
    expected = states[0]
    for state in states[1:]:
        expected = {
            name: 0.8 * mean + 0.2 * state[name] if mean.is_floating_point() else mean
            for name, mean in expected.items()
        }
    left = load_file(where.folder / "weights.safetensors")
    for name, mean in expected.items():
        if mean.is_floating_point():
            torch.testing.assert_close(left[name], mean, msg=name)
            assert torch.equal(left[name], network.state_dict()[name]), name
    assert not torch.allclose(left["head.weight"], states[-1]["head.weight"], rtol=1e-3)
    assert not torch.allclose(left["norm.running_mean"], states[-1]["norm.running_mean"], rtol=1e-3)


def test_the_steps_are_those_without(tmp_path: Path) -> None:
    _, plain = trained(context(tmp_path / "plain"), solver())
    _, averaged = trained(context(tmp_path / "averaged"), solver(averaging=0.8))
    for ours, theirs in zip(averaged, plain, strict=True):
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("killed_at", [2, 7])
def test_resumes_bit_for_bit(tmp_path: Path, killed_at: int) -> None:
    straight, killed = context(tmp_path / "straight"), context(tmp_path / "killed")
    trained(straight, solver(averaging=0.8))
    torch.manual_seed(0)
    with pytest.raises(Killed):
        train(Tiny(), Fakes(), solver(averaging=0.8), replace(killed, report=die_at(killed_at)), 1)
    trained(killed, solver(averaging=0.8))
    assert same(straight, killed)


def test_a_checkpoint_without_a_mean_does_not_fit(tmp_path: Path) -> None:
    """It is of another training, and would begin the mean in the middle."""
    where = context(tmp_path)
    Run(Tiny(), solver(), where).save()
    run = Run(Tiny(), solver(averaging=0.8), where)
    assert run.done == 0
    assert run.checkpoint.with_name("checkpoint.safetensors.aside").exists()
    with pytest.raises(InputError, match="lacks the tensor"):
        run.restore(*checkpoint.load(run.checkpoint.with_name("checkpoint.safetensors.aside"), ""), "cure")


def test_evaluations_on_the_way_look_at_the_mean(tmp_path: Path) -> None:
    where, seen = context(tmp_path), list[nn.Module]()
    run = Run(Tiny(), solver(averaging=0.8), where)
    run.watch(Looks(2, lambda network, _: {"images": len(seen.append(network) or [])}, "AP", where))
    for i in range(2):
        run.step(Fakes()[i], 1)
        run.look()
    assert run.average is not None
    assert seen == [run.average.module]


def test_only_a_share_is_taken_and_none_changes_no_key() -> None:
    for wrong in (0.0, 1.0, -0.1, True, "0.9"):
        with pytest.raises(ValidationError, match="averaging"):
            solver(averaging=wrong)
    assert "averaging" not in str(canonical(solver()))
