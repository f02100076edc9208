"""Arrays of ASSD's attention maps and their picture; figure 3."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from probe_cases import arrays_of
from safetensors.torch import load_file

from benchsuite.data.batch import Batch
from benchsuite.errors import InputError
from benchsuite.models.postprocess import Hard, PostProcess
from benchsuite.papers.assd import AttentionUnit
from benchsuite.papers.assd_maps import AttentionMaps, behind
from benchsuite.pipelines.detection import Detection
from benchsuite.pipelines.probe import probe_for
from benchsuite.report.probed import assd_attention

POST = PostProcess(score_threshold=0.0, per_level=None, per_class=50, nms=Hard(iou=0.45), per_image=20)
SMALL: dict[str, Any] = {
    "kind": "detection.Detection",
    "data": {
        "train": {"kind": "generated.Generated", "images": 2},
        "val": {"kind": "generated.Generated", "images": 2, "split": "val"},
    },
    "input": {"kind": "transforms.Fixed", "height": 97, "width": 97},
    "model": {
        "kind": "ssd.SSD",
        "backbone": {"kind": "resnet.ResNet", "depth": 18},
        "neck": {
            "kind": "assd.Neck",
            "of": {"kind": "ssd.Extras", "blocks": [{"squeeze": 8, "channels": 16}] * 2},
            "fusion": {},
            "attention": {},
        },
        "anchors": {
            "kind": "default_boxes.DefaultBoxes",
            "scales": [0.1, 0.2, 0.4, 0.6, 0.8, 1],
            "ratios": [[2], [2, 3], [2, 3], [2], [2]],
        },
    },
    "post": POST.model_dump(mode="json"),
    "solver": {"lr": 0.01, "iterations": 1, "batch": 2},
    "metric": {"kind": "coco.Coco"},
}
SIZES = {1: 13, 2: 7, 3: 4, 4: 2}  # the fifth level is one cell


def pipeline(**neck: Any) -> Detection:
    settings = SMALL | {"post": {"score_threshold": 0.0}}
    changed = settings["model"] | {"neck": settings["model"]["neck"] | neck}
    return Detection.model_validate(settings | {"model": changed})


def arrays(folder: Path, **neck: Any) -> dict[str, torch.Tensor]:
    return load_file(arrays_of(AttentionMaps, pipeline(**neck), folder, 1))


def test_the_probe_is_found_by_its_picture() -> None:
    assert probe_for("assd-attention") is AttentionMaps


def test_arrays(tmp_path: Path) -> None:
    found = arrays(tmp_path)
    shapes = {"boxes": (5, 4), "scores": (5,), "labels": (5,), "levels": (5,), "image": (97, 97, 3)}
    for level, side in SIZES.items():
        shapes |= {f"cells_{level}": (5, 2), f"attention_{level}": (5, side, side), f"mean_{level}": (side, side)}
    assert {name: tuple(value.shape) for name, value in found.items()} == shapes
    for level in SIZES:
        torch.testing.assert_close(found[f"attention_{level}"].sum((1, 2)), torch.ones(5))
        torch.testing.assert_close(found[f"mean_{level}"].sum(), torch.tensor(1.0))
    assert (found["scores"].diff() <= 0).all()


def built() -> tuple[Any, Batch]:
    torch.manual_seed(3)
    detector = pipeline().model.build(4).eval()
    sizes = torch.tensor([[97, 97]])
    pixels = torch.randint(0, 256, (1, 3, 97, 97), dtype=torch.uint8)
    return detector, Batch(pixels, sizes, sizes, torch.tensor([1]), torch.zeros(1, 1, 4), torch.tensor([[-1]]))


def probing(post: PostProcess) -> AttentionMaps:
    settings = pipeline()
    fit = settings.fit(0)
    return AttentionMaps(train=fit, data=settings.data.val, input=settings.input, post=post, detections=3)


def test_the_anchor_behind_each_detection() -> None:
    """Its box, decoded with the prediction of the cell told, is the detection."""
    detector, batch = built()
    with torch.inference_mode():
        best = detector.detect(batch, POST)
        origins = behind(detector, batch, best.boxes[0], best.scores[0], best.labels[0])
        logits, offsets, maps = detector(detector.images(batch))
    anchors = detector.settings.anchors.grid(maps, detector.neck.strides, (97, 97), torch.device("cpu"))
    boxes = detector.settings.coder.decode(offsets, anchors)[0].clamp(0, 97)
    scores = logits.softmax(-1)[0, :, 1:]
    firsts = [0]
    for (height, width), per_cell in zip(maps, detector.per_cell, strict=True):
        firsts.append(firsts[-1] + height * width * per_cell)
    for place in range(20):
        level, cell = int(origins.levels[place]), int(origins.cells[place])
        per_cell = detector.per_cell[level - 1]
        candidates = range(firsts[level - 1] + cell * per_cell, firsts[level - 1] + (cell + 1) * per_cell)
        label = int(best.labels[0, place])
        assert any(
            torch.allclose(boxes[n], best.boxes[0, place], atol=1e-3)
            and torch.allclose(scores[n, label], best.scores[0, place], atol=1e-5)
            for n in candidates
        )


def test_arrays_are_rows_of_the_units_attention() -> None:
    detector, batch = built()
    probe = probing(POST)
    kept: dict[str, torch.Tensor] = {}
    for name, module in detector.named_modules():
        if isinstance(module, AttentionUnit):
            module.register_forward_hook(lambda _, inputs, __, name=name: kept.update({name: inputs[0]}))
    with torch.inference_mode():
        found = probe.look(detector, batch)
        for level, side in SIZES.items():
            name = f"neck.attention.{level - 1}"
            full = detector.get_submodule(name).attention_rows(kept[name], torch.arange(side * side))[0]
            at = found[f"cells_{level}"] @ torch.tensor([side, 1])
            torch.testing.assert_close(found[f"attention_{level}"].flatten(1), full[at])
            torch.testing.assert_close(found[f"mean_{level}"].flatten(), full.mean(0))


def test_refuses_what_has_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no attention units to look at; choose a row that has") as raised:
        arrays(tmp_path, attention=None)
    assert "\n" not in str(raised.value)


def test_nothing_found_is_one_line() -> None:
    detector, batch = built()
    probe = probing(POST.model_copy(update={"score_threshold": 1.0}))
    with torch.inference_mode(), pytest.raises(InputError, match="finds nothing in this image; choose another"):
        probe.look(detector, batch)


def test_picture(tmp_path: Path) -> None:
    found = {name: value.numpy() for name, value in arrays(tmp_path).items()}
    figure = assd_attention.draw(found, "assd-table3/assd513, smoke")
    figure.savefig(tmp_path / "picture.png", dpi=30)
    titles = [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes]
    assert len(titles) == 6 * 5
    assert titles[25] == "mean over all cells"
    assert titles[0] == f"score {found['scores'][0]:.2f}, level {found['levels'][0]}"
    shown = figure.axes[1].images[1].get_array()
    assert np.array_equal(np.asarray(shown), found["attention_1"][0])
    assert figure.get_suptitle().startswith("assd-table3/assd513, smoke: ")


def test_arrays_of_something_else_are_one_line() -> None:
    with pytest.raises(InputError, match="no attention units to draw; choose a row that has"):
        assd_attention.draw({"image": np.zeros((4, 4, 3), np.uint8), "mask_P3": np.zeros((1, 1))}, "t")
