"""A whole detector that starts from the user's own weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_models_retinanet import Tiny

from benchsuite.engine.job import Context
from benchsuite.errors import InputError, MissingData
from benchsuite.loops import checkpoint
from benchsuite.models.fpn import Fpn
from benchsuite.models.retinanet import Head, RetinaNet
from benchsuite.models.ssd import SSD
from benchsuite.pipelines.detection import Train
from benchsuite.recipe.loading import load_recipe
from benchsuite.settings import canonical, content_key
from benchsuite.verbs.plan import make_plan, require_all

MODEL = RetinaNet(backbone=Tiny(), neck=Fpn(channels=24), head=Head(channels=24, depth=2))


def trained(file: Path, model: RetinaNet = MODEL, classes: int = 3) -> dict[str, torch.Tensor]:
    """Weights as a training leaves them, in a file of any kind."""
    torch.manual_seed(7)
    state = model.build(classes).state_dict()
    if file.suffix == ".safetensors":
        checkpoint.save(file, state)
    else:
        torch.save(state, file)
    return dict(state)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_it_starts_from_ones_own_weights(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"mine{suffix}"
    state = trained(file)
    model = MODEL.changed(weights_file=file)
    detector = model.build(3)
    assert not torch.equal(detector.state_dict()["head.cls_logits.weight"], state["head.cls_logits.weight"])
    model.start(detector)
    for name, tensor in detector.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert model.deviations() == (f"detector from the user's own weights, SHA-256 {model.identity()}",)


def test_its_key_hangs_on_the_content_alone(tmp_path: Path) -> None:
    trained(tmp_path / "mine.safetensors")
    model = MODEL.changed(weights_file=tmp_path / "mine.safetensors")
    key = content_key(canonical(model))
    (tmp_path / "mine.safetensors").rename(tmp_path / "moved.safetensors")
    assert content_key(canonical(MODEL.changed(weights_file=tmp_path / "moved.safetensors"))) == key
    assert key != content_key(canonical(MODEL))
    assert "weights_file" not in str(canonical(MODEL)) and "identity" not in canonical(MODEL)  # type: ignore[operator]
    trained(tmp_path / "mine.safetensors", classes=4)
    assert content_key(canonical(MODEL.changed(weights_file=tmp_path / "mine.safetensors"))) != key


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda file: trained(file, classes=8), "does not fit DenseDetector (another shape of head.cls_logits."),
        (lambda file: trained(file, MODEL.changed(neck=Fpn(channels=16))), "(another shape of "),
        (lambda file: save_file({"stem.weight": torch.zeros(1)}, file), "does not fit DenseDetector (no "),
        (lambda file: torch.save({"weights": "text"}, file), "cannot be read as weights"),
        (lambda file: file.write_bytes(b""), "cannot be read as weights"),
    ],
)
def test_what_does_not_fit_is_one_line(write: object, told: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    assert callable(write)
    write(file)
    model = MODEL.changed(weights_file=file)
    with pytest.raises(InputError) as raised:
        model.start(model.build(3))
    assert str(file) in str(raised.value) and told in str(raised.value) and "\n" not in str(raised.value)


def test_shapes_that_do_not_fit_are_told(tmp_path: Path) -> None:
    trained(tmp_path / "eight.safetensors", classes=8)
    model = MODEL.changed(weights_file=tmp_path / "eight.safetensors")
    with pytest.raises(InputError, match=r"another shape of head\.cls_logits\.\w+, \d+.* for \d+.*; choose weights"):
        model.start(model.build(3))


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return (Path.mkdir, (tmp_path / "ran",))  # type: ignore[return-value]

    torch.save({"head.cls_logits.weight": Runs()}, tmp_path / "mine.pth")
    model = MODEL.changed(weights_file=tmp_path / "mine.pth")
    with pytest.raises(InputError, match="cannot be read as weights"):
        model.start(model.build(3))
    assert not (tmp_path / "ran").exists()


def test_a_training_starts_from_them(tmp_path: Path) -> None:
    """As `--set model.weights_file=FILE` says: in the training, not in what it leaves."""
    recipe = load_recipe("har-table1")
    plain = make_plan([recipe], "smoke", rows=["baseline"], device="cpu").rows[0].pipeline
    torch.manual_seed(3)
    classes = plain.data.val.num_classes
    state = plain.model.build(classes).state_dict()  # type: ignore[attr-defined]
    file = tmp_path / "mine.safetensors"
    checkpoint.save(file, state)
    plan = make_plan([recipe], "smoke", rows=["baseline"], device="cpu", overrides=[f"model.weights_file={file}"])
    fit = plan.rows[0].pipeline.fit(0)  # type: ignore[attr-defined]
    assert isinstance(fit, Train) and fit.key != plain.fit(0).key  # type: ignore[attr-defined]
    detector = fit.build(classes, Context(tmp_path, tmp_path, tmp_path))
    assert all(torch.equal(tensor, state[name]) for name, tensor in detector.state_dict().items())
    file.unlink()
    with pytest.raises(MissingData, match=r"mine\.safetensors: no such file of weights"):
        require_all(plan)


def test_every_kind_of_detector_takes_them(tmp_path: Path) -> None:
    assert all("weights_file" in kind.model_fields for kind in (RetinaNet, SSD))
