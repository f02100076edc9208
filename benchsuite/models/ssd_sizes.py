"""SSD's published sizes beside SSD513, which `ssd.SSD` is by default: the extra levels and anchors of each.

choice: all anchors have the scales that SSD has on COCO: those of ASSD's release at 513 are, on VOC too. SSD's own on
VOC are 0.10, 0.20, 0.37, 0.54, 0.71, 0.88, 1.05 at 300 and 0.07, 0.15, 0.30, 0.45, 0.60, 0.75, 0.90, 1.05 at 512.
"""

from benchsuite.models.default_boxes import DefaultBoxes, Ratios, Scales, Steps
from benchsuite.models.ssd import Boxes513, Extra, Extras


class Extras300(Extras):
    """On VGG-16: 19×19 cells of fc7 become 10, 5, 3 and 1 a side."""

    blocks: tuple[Extra, ...] = (
        Extra(squeeze=256, channels=512),
        Extra(squeeze=128, channels=256),
        Extra(squeeze=128, channels=256, stride=1, padding=0),
        Extra(squeeze=128, channels=256, stride=1, padding=0),
    )
    norm: bool = False


class Boxes300(DefaultBoxes):
    """8,732 anchors."""

    scales: Scales = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
    ratios: tuple[Ratios, ...] = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
    steps: Steps | None = (8, 16, 32, 64, 100, 300)


class Extras321(Extras):
    """On a ResNet: 11×11 cells of C5 become 6, 3 and 1 a side."""

    blocks: tuple[Extra, ...] = (
        Extra(squeeze=512, channels=1024),
        Extra(squeeze=256, channels=512),
        Extra(squeeze=128, channels=256, stride=1, padding=0),
    )


class Boxes321(Boxes300):
    """10,352 anchors; the paper prints 10,325. Steps are the input's sides over the cells, rounded up."""

    steps: Steps | None = (8, 16, 30, 54, 107, 321)


class Extras512(Extras):
    """On VGG-16: 32×32 cells of fc7 become 16, 8, 4, 2 and 1 a side.

    choice: the last convolution is 3×3 of stride 2; Caffe's SSD512 has 4×4, with which ASSD512's parameters would be
    30.4 M, and Table 2 has 30.2 M.
    """

    blocks: tuple[Extra, ...] = (
        Extra(squeeze=256, channels=512),
        Extra(squeeze=128, channels=256),
        Extra(squeeze=128, channels=256),
        Extra(squeeze=128, channels=256),
        Extra(squeeze=128, channels=256),
    )
    norm: bool = False


class Boxes512(Boxes513):
    """24,564 anchors."""

    steps: Steps | None = (8, 16, 32, 64, 128, 256, 512)
