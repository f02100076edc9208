"""HAR-Net's multi-scale testing (Li and Wang, arXiv 1904.11141, section IV-B, figure 6).

The output maps of two sizes, one twice the other, are merged by average where they share their cells and anchors: level
l of the small image and level l + 1 of the large one. Further sizes add detections of their own.

Shapes: B images of one size (one, where images differ), N_l anchors of a level, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor
from torch.nn.functional import pad

from benchsuite.data.batch import Batch
from benchsuite.data.transforms import Input, ShortSide
from benchsuite.errors import InputError
from benchsuite.models.anchors import PyramidAnchors
from benchsuite.models.boxes import clip
from benchsuite.models.dense import DenseDetector, best_pairs
from benchsuite.models.detector import Detector, Testing
from benchsuite.models.postprocess import Candidates, PostProcess


class AsRead(Input):
    """Images in their own size; testing resizes them."""

    @property
    def nominal(self) -> tuple[int, int]:
        """COCO's usual photograph."""
        return 480, 640

    def target(self, height: int, width: int) -> tuple[int, int]:
        """As it is."""
        return height, width


class Doubled(Input):
    """Exactly twice the size that `of` gives, so that the levels of both fit onto each other."""

    of: ShortSide

    @property
    def nominal(self) -> tuple[int, int]:
        """Twice the other's."""
        height, width = self.of.nominal
        return 2 * height, 2 * width

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Twice the other's, in whole numbers."""
        height, width = self.of.target(height, width)
        return 2 * height, 2 * width


class MultiScale(Testing):
    """Tests at several short sides, of which two at least are a pair, the larger twice the smaller (sec. V-D).

    choice: the long side is at most `long` times the short one; the 1200 pixels of single-scale testing would cut the
    largest size. Small images of a pair are padded to `multiple`, large ones to twice that. No flip.
    """

    shorts: Annotated[tuple[PositiveInt, ...], Field(min_length=2)] = (500, 750, 1500)
    long: Annotated[float, Field(ge=1)] = 1.5
    multiple: PositiveInt = 128

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(set(self.shorts)) < len(self.shorts) or not self.pairs:
            raise ValueError(
                f"shorts {list(self.shorts)} need a pair of sizes, one twice the other, and none twice; for instance "
                "[500, 750, 1500]"
            )
        return self

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """(s, 2s), from small to large; a size is in one pair at most."""
        left, found = sorted(self.shorts), []
        while left:
            short = left.pop(0)
            if 2 * short in left:
                left.remove(2 * short)
                found.append((short, 2 * short))
        return tuple(found)

    @property
    def single(self) -> tuple[int, ...]:
        """The sizes outside pairs."""
        paired = {short for pair in self.pairs for short in pair}
        return tuple(short for short in self.shorts if short not in paired)

    def resize(self, short: int) -> ShortSide:
        """How an image gets that short side."""
        return ShortSide(short=short, long=int(self.long * short), multiple=self.multiple)

    def resize_pair(self, short: int) -> tuple[ShortSide, Doubled]:
        """How an image gets that short side and exactly twice its size."""
        small = self.resize(short)
        return small, Doubled(of=small, multiple=2 * small.multiple)

    @property
    def input(self) -> AsRead:
        """Images as read."""
        return AsRead()

    def wrap(self, detector: Detector) -> "MultiScaleDetector":
        """The detector at all sizes. InputError for a detector without a pyramid of levels to merge."""
        if not isinstance(detector, DenseDetector) or not isinstance(detector.settings.anchors, PyramidAnchors):
            raise InputError(
                f"testing: {type(detector).__name__} has no levels to merge; leave multi-scale testing out"
            )
        return MultiScaleDetector(detector, self)


@dataclass(frozen=True)
class OutputMaps:
    """What a detector gives at one size, level by level: probabilities [B, N_l, K], offsets [B, N_l, 4], cells
    (H_l, W_l), and strides in pixels of the resized image, whose height and width without padding is `size`."""

    probabilities: Sequence[Tensor]
    offsets: Sequence[Tensor]
    cells: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    size: tuple[int, int]


def merge(small: OutputMaps, large: OutputMaps) -> OutputMaps:
    """Fig. 6, in the frame of the small image: the large one's finest level, the means of those that both have, the
    small one's coarsest. The large image and its padding are exactly twice the small one's."""
    return OutputMaps(
        probabilities=_averaged(small.probabilities, large.probabilities),
        offsets=_averaged(small.offsets, large.offsets),
        cells=(large.cells[0], *small.cells),
        strides=(small.strides[0] // 2, *small.strides),
        size=small.size,
    )


def _averaged(small: Sequence[Tensor], large: Sequence[Tensor]) -> list[Tensor]:
    shared = [(first + second) / 2 for first, second in zip(small[:-1], large[1:], strict=True)]
    return [large[0], *shared, small[-1]]


class MultiScaleDetector(Detector):
    """A trained detector tested at several sizes; it takes images as read, those of a batch of one size."""

    def __init__(self, detector: DenseDetector, settings: MultiScale) -> None:
        super().__init__()
        self.detector = detector
        self.single = [settings.resize(short) for short in settings.single]
        self.pairs = [settings.resize_pair(short) for short, _ in settings.pairs]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Those of the detector it tests."""
        return self.detector.losses(batch)

    def candidates(self, batch: Batch, post: PostProcess) -> Candidates:
        """Those of all sizes together."""
        sizes = [self._candidates(maps, batch.sizes, post) for maps in self(self.images(batch))]
        return Candidates(
            torch.cat([each.boxes for each in sizes], dim=1),
            torch.cat([each.scores for each in sizes], dim=1),
            torch.cat([each.labels for each in sizes], dim=1),
        )

    def images(self, batch: Batch) -> Tensor:
        """The normalised images, all of one size, without padding."""
        (height, width), *others = batch.sizes.tolist()
        assert all(other == [height, width] for other in others), "images of one size"
        # choice: normalised before, not after they are resized: the same but for the rounding to whole grey levels.
        return self.detector.images(batch)[..., :height, :width]

    def forward(self, images: Tensor) -> list[OutputMaps]:
        """The output maps of normalised images [B, 3, H, W]: of each single size, then of each pair, merged."""
        single = [self._outputs(images, resize) for resize in self.single]
        return [*single, *(merge(self._outputs(images, s), self._outputs(images, large)) for s, large in self.pairs)]

    def anchor_count(self, images: Tensor) -> int:
        """Anchors of all output maps."""
        return sum(level.shape[1] for maps in self(images) for level in maps.offsets)

    def _outputs(self, images: Tensor, resize: Input) -> OutputMaps:
        resized = resize.resize(images)
        height, width = resized.shape[-2:]
        padded = pad(resized, (0, -width % resize.multiple, 0, -height % resize.multiple))
        logits, offsets, cells = self.detector(padded)
        counts = [rows * columns * count for (rows, columns), count in zip(cells, self.detector.per_cell, strict=True)]
        probabilities = self.detector.settings.classification.scores(logits.float()).split_with_sizes(counts, dim=1)
        strides = self.detector.neck.strides
        return OutputMaps(
            probabilities, offsets.float().split_with_sizes(counts, dim=1), cells, strides, (height, width)
        )

    def _candidates(self, maps: OutputMaps, sizes: Tensor, post: PostProcess) -> Candidates:
        """In pixels of images of `sizes` [B, 2]."""
        settings = self.detector.settings
        anchors = settings.anchors.grid(maps.cells, maps.strides, maps.size, sizes.device)
        offsets = torch.cat(list(maps.offsets), dim=1)
        found = best_pairs(maps.probabilities, offsets, anchors, settings.coder, post)
        seen = sizes.new_tensor([maps.size]).expand_as(sizes)
        ratio = (sizes / seen).flip(1).repeat(1, 2).unsqueeze(1)  # x, y, x, y
        return replace(found, boxes=clip(found.boxes, seen) * ratio)
