"""PADet small enough for tests: ResNet-18, 8 channels, maps of 8, 4, 2 and 1 cells of 64 pixels."""

from typing import Any

import torch
from torch import Tensor, nn

from benchsuite.data.batch import Batch
from benchsuite.papers.padet import PADet, PADetDetector

SIDE, CLASSES = 64, 3
ROWS: dict[str, dict[str, Any]] = {
    "base": {},
    "c": {"scoring": {}},
    "r": {"adjustment": {}},
    "cr": {"scoring": {}, "adjustment": {}},
    "implicit": {"scoring": {}, "adjustment": {}, "alignment": {"kind": "padet.Implicit"}},
    "xl": {"scoring": {}, "adjustment": {}, "alignment": {"kind": "padet.Explicit", "of": "location"}},
    "xs": {"scoring": {}, "adjustment": {}, "alignment": {"kind": "padet.Explicit", "of": "shape"}},
    "xlxs": {"scoring": {}, "adjustment": {}, "alignment": {"kind": "padet.Explicit"}},
    "full": {"scoring": {}, "adjustment": {}, "alignment": {"kind": "padet.Disentangled"}},
    "r-fa": {"adjustment": {}, "alignment": {"kind": "padet.Disentangled"}},
}
"""The ten trainings of Tables 1 to 4."""
TINY: dict[str, Any] = {
    "kind": "padet.PADet",
    "backbone": {"kind": "resnet.ResNet", "depth": 18},
    "neck": {"kind": "padet_decoder.EncoderDecoder", "levels": 3, "channels": 8},
    "anchors": {
        "kind": "default_boxes.DefaultBoxes",
        "scales": [0.15, 0.3, 0.55, 0.8, 1.0],
        "ratios": [[2, 3], [2, 3], [2], [2]],
    },
}


def settings(row: str = "full", **changes: Any) -> PADet:
    return PADet.model_validate({**TINY, **ROWS[row], **changes})


def detector(row: str = "full", seed: int = 0, **changes: Any) -> PADetDetector:
    torch.manual_seed(seed)
    return settings(row, **changes).build(CLASSES)


def batch(images: int = 2, boxes: int = 3, seed: int = 1, side: int = SIDE) -> Batch:
    """Noise with boxes of 8 pixels and more."""
    draw = torch.Generator().manual_seed(seed)
    corners = torch.rand(images, boxes, 2, generator=draw) * side / 2
    sides = 8 + torch.rand(images, boxes, 2, generator=draw) * (side / 2 - 8)
    return Batch(
        images=torch.randint(0, 256, (images, 3, side, side), generator=draw, dtype=torch.uint8),
        sizes=torch.full((images, 2), side),
        originals=torch.full((images, 2), side),
        image_ids=torch.arange(images),
        boxes=torch.cat((corners, corners + sides), dim=-1),
        labels=torch.randint(0, CLASSES, (images, boxes), generator=draw),
    )


def around(*boxes: tuple[float, float, float, float]) -> Tensor:
    """xyxy [n, 4] of boxes (centre x, centre y, width, height)."""
    x, y, w, h = torch.tensor(boxes).unbind(-1)
    return torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), dim=-1)


def squares(sides: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((side, side) for side in sides)


def grid(anchors: Any, sides: tuple[int, ...], frame: int) -> Tensor:
    found: Tensor = anchors.grid(squares(sides), (), (frame, frame), torch.device("cpu"))
    return found


def randomised(module: nn.Module) -> Any:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module
