"""Arrays of CAT's spatial maps and their picture; figures 3 and 4."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from probe_cases import arrays_of
from safetensors.torch import load_file

from benchsuite.errors import InputError
from benchsuite.models.resnet import ResNet
from benchsuite.models.timm_backbone import Timm
from benchsuite.papers.cat import Cat, Factors
from benchsuite.papers.cat_maps import SpatialMaps, spatial_maps
from benchsuite.pipelines.detection import Detection
from benchsuite.pipelines.probe import probe_for
from benchsuite.report.probed import cat_maps

SMALL: dict[str, Any] = {
    "kind": "detection.Detection",
    "data": {
        "train": {"kind": "generated.Generated", "images": 2},
        "val": {"kind": "generated.Generated", "images": 2, "split": "val"},
    },
    "input": {"kind": "transforms.ShortSide", "short": 48, "long": 64, "multiple": 32},
    "model": {
        "kind": "retinanet.RetinaNet",
        "backbone": {"kind": "resnet.ResNet", "depth": 18, "levels": [4, 5], "edits": [{"kind": "cat.Cat"}]},
        "neck": {"kind": "fpn.Fpn", "channels": 8},
        "head": {"kind": "retinanet.Head", "channels": 8, "depth": 1},
    },
    "solver": {"lr": 0.01, "iterations": 1, "batch": 1},
    "metric": {"kind": "coco.Coco"},
}


def arrays(folder: Path, image: int = 1, **backbone: Any) -> Path:
    """Run the job on a model as it starts."""
    model = SMALL["model"] | {"backbone": SMALL["model"]["backbone"] | backbone}
    pipeline = Detection.model_validate(SMALL | {"model": model})
    return arrays_of(SpatialMaps, pipeline, folder, image)


def test_the_probe_is_found_by_its_picture() -> None:
    assert probe_for("cat-maps") is SpatialMaps


def test_arrays_of_the_first_blocks(tmp_path: Path) -> None:
    found = load_file(arrays(tmp_path))
    sizes = {"C2": (16, 16), "C3": (8, 8), "C4": (4, 4), "C5": (2, 2)}  # 48×48 in 64×64
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "image": (48, 48, 3),
        **{f"{kind}_{level}": size for kind in ("avg", "max", "ent", "sum") for level, size in sizes.items()},
    }
    assert all(found[f"ent_{level}"].min() == 0 and found[f"ent_{level}"].max() == 1 for level in sizes)
    assert not any(found[f"sum_{level}"].any() for level in sizes), "the factors start at 0"


@pytest.mark.parametrize(("fuse", "name"), [("sum", "sum"), ("concat", "concat")])
def test_arrays_are_what_the_modules_gave(fuse: Any, name: str) -> None:
    torch.manual_seed(0)
    features = ResNet(depth=18, levels=(5,), edits=(Cat(fuse=fuse),)).build().eval()
    for module in features.modules():
        if isinstance(module, Factors):
            torch.nn.init.normal_(module.raw)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        found = spatial_maps(features, images)
        x = features.stages[0](images)
        block = features.stages[1][0]
        x = block.bn2[0](block.conv2(block.relu(block.bn1(block.conv1(x)))))
        unit = block.bn2[1]
        _, raw = unit.raw(x, unit.maps)
    torch.testing.assert_close(found["avg_C2"], x.mean(1)[0])
    torch.testing.assert_close(found[f"{name}_C2"], raw[0, 0])
    assert not [hook for module in features.modules() for hook in module._forward_hooks]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image": 2}, r"has no image 2, only 0 to 1; choose one of them"),
        ({"edits": []}, "no spatial attention of CAT's to look at; choose a row that has"),
        ({"edits": [{"kind": "cat.Cat", "branch": "c"}]}, "no spatial attention of CAT's"),
        ({"edits": [{"kind": "attention.Cbam"}]}, "no spatial attention of CAT's"),
    ],
)
def test_refuses(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        arrays(tmp_path, **changes)


def test_another_backbone_is_refused() -> None:
    with torch.device("meta"):
        features = Timm(name="mobilenetv3_small_050", out_indices=(1, 2)).build()
    with pytest.raises(InputError, match="no spatial attention of CAT's"):
        spatial_maps(features, torch.empty(1, 3, 32, 32, device="meta"))


@pytest.mark.parametrize(
    ("edit", "columns"),
    [
        ({}, ["", "$S_{Avg}$", "−$S_{Avg}$", "$S_{Max}$", "$S_{Ent}$", "$S'_A$, summed"]),
        ({"fuse": "concat"}, ["", "$S_{Avg}$", "−$S_{Avg}$", "$S_{Max}$", "$S_{Ent}$", "$S'_A$, concatenated"]),
        ({"ops": ["avg", "max"]}, ["", "$S_{Avg}$", "−$S_{Avg}$", "$S_{Max}$", "$S'_A$, summed"]),
    ],
)
def test_picture(edit: dict[str, Any], columns: list[str], tmp_path: Path) -> None:
    found = {
        name: value.numpy() for name, value in load_file(arrays(tmp_path, edits=[{"kind": "cat.Cat", **edit}])).items()
    }
    figure = cat_maps.draw(found, "cat-table6/cat, smoke")
    figure.savefig(tmp_path / "picture.png", dpi=40)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [f"{level} {name}" if name else "" for level in ("C2", "C3", "C4", "C5") for name in columns]
    negative = next(axes for axes in figure.axes if axes.get_title(loc="left") == "C3 −$S_{Avg}$")
    assert np.array_equal(np.asarray(negative.images[0].get_array()), -found["avg_C3"])
    assert figure.get_suptitle().startswith("cat-table6/cat, smoke: ")


def test_arrays_of_something_else_are_one_line() -> None:
    with pytest.raises(InputError, match="no spatial maps of CAT's to draw; choose a row that has"):
        cat_maps.draw({"image": np.zeros((4, 4, 3), np.uint8), "mask_P3": np.zeros((1, 1))}, "t")
