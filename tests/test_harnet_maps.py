"""Arrays of what a run pays attention to, and their pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.quiver import Quiver
from probe_cases import arrays_of
from safetensors.torch import load_file
from test_harnet_training import SMALL

from benchsuite.errors import InputError
from benchsuite.loops import checkpoint
from benchsuite.models import retinanet
from benchsuite.models.fpn import Fpn
from benchsuite.models.retinanet import RetinaNet
from benchsuite.papers.harnet import AlignedAttention, HarHead
from benchsuite.papers.harnet_maps import AttentionMaps, attention_maps
from benchsuite.pipelines.detection import Detection
from benchsuite.report import probed
from benchsuite.report.probed import offsets as offsets_picture
from benchsuite.report.probed import weights as weights_picture

HEAD = SMALL["model"]["head"]


def maps(folder: Path, image: int = 1, **changes: Any) -> Path:
    """Run the job on a model as it starts."""
    model = SMALL["model"] | changes
    rest = {name: value for name, value in SMALL.items() if name not in ("kind", "attach_at")}
    pipeline = Detection.model_validate({"kind": "detection.Detection", **rest, "model": model})
    return arrays_of(AttentionMaps, pipeline, folder, image)


def test_arrays_of_a_hybrid(tmp_path: Path) -> None:
    found = load_file(maps(tmp_path))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "image": (64, 64, 3), "mask_P3": (8, 8), "mask_P4": (4, 4), "mask_P5": (2, 2), "mask_P6": (1, 1),
        "mask_P7": (1, 1), "weights_cls": (8,), "weights_box": (8,), "offsets_C5": (2, 2, 4, 9, 2),
    }  # fmt: skip
    assert all(value.min() > 0 and value.max() < 1 for n, value in found.items() if n.startswith(("mask", "weights")))
    assert not found["offsets_C5"].any(), "offsets start at 0"


def test_arrays_are_what_the_modules_gave() -> None:
    torch.manual_seed(0)
    model = RetinaNet.model_validate({n: v for n, v in SMALL["model"].items() if n != "kind"}).build(3).eval()
    assert isinstance(model.head, HarHead) and model.head.spatial is not None
    unit = model.neck.get_submodule("units.C5")
    assert isinstance(unit, AlignedAttention)
    with torch.no_grad():
        unit.offsets.get_parameter("bias").copy_(torch.arange(72.0))
        images = torch.randn(1, 3, 64, 64)
        found = attention_maps(model, images)
        levels = model.neck(model.backbone(images))
        for name, mask in zip(("P3", "P4", "P5", "P6", "P7"), model.head.spatial(levels), strict=True):
            assert torch.equal(found[f"mask_{name}"], mask[0, 0])
    # as deform_conv2d reads them: group by group, tap by tap, dy before dx
    assert found["offsets_C5"][0, 0, 2, 5].tolist() == [2 * (9 * 2 + 5), 2 * (9 * 2 + 5) + 1]
    assert not [hook for module in model.modules() for hook in module._forward_hooks]


def test_separate_blocks_give_weights_of_each_level(tmp_path: Path) -> None:
    found = load_file(maps(tmp_path, head=HEAD | {"channel": {"kind": "harnet.SE", "reduction": 2}}))
    assert found["weights_cls"].shape == (5, 8)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image": 2}, r"has no image 2, only 0 to 1; choose one of them"),
        ({"head": retinanet.Head(channels=8), "neck": Fpn(channels=8)}, "no attention to look at"),
    ],
)
def test_refuses(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        maps(tmp_path, **changes)


@pytest.mark.parametrize("name", AttentionMaps.pictures)
def test_pictures(name: str, tmp_path: Path) -> None:
    figure = probed.draw(name, maps(tmp_path), "har-table4/resnet-50-ha, smoke")
    figure.savefig(tmp_path / "picture.png", dpi=50)
    heading = figure.get_suptitle()
    assert heading.startswith("har-table4/resnet-50-ha, smoke: ")
    assert len(figure.axes) >= {"masks": 6, "weights": 1, "offsets": 1}[name]


def test_offsets_are_drawn_in_pixels_of_the_image(tmp_path: Path) -> None:
    field = np.zeros((2, 2, 4, 9, 2), np.float32)
    field[..., 0], field[..., 1] = 0.5, -0.25
    figure = offsets_picture.draw({"image": np.zeros((64, 64, 3), np.uint8), "offsets_C5": field}, "t")
    (arrows,) = (artist for artist in figure.axes[0].collections if isinstance(artist, Quiver))
    assert np.allclose(arrows.U, -8) and np.allclose(arrows.V, 16)


def test_weights_of_separate_blocks_are_drawn_level_by_level() -> None:
    weights = np.random.default_rng(0).random((5, 8), np.float32)
    figure = weights_picture.draw({"weights_cls": weights, "weights_box": weights}, "t")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [f"P{level}" for level in range(3, 8)]


@pytest.mark.parametrize("name", AttentionMaps.pictures)
def test_what_is_not_there_is_said(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the run has no .* attention to draw; choose a row that has"):
        checkpoint.save(tmp_path / "arrays.safetensors", {"image": torch.zeros(4, 4, 3, dtype=torch.uint8)})
        probed.draw(name, tmp_path / "arrays.safetensors", "t")
    with pytest.raises(InputError, match="cannot be read"):
        probed.draw(name, tmp_path / "absent.safetensors", "t")
