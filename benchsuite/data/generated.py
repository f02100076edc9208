"""Scenes drawn from a seed: a detection dataset that needs no download. Synthetic, and never shown as anything else.

24 classes chosen for what the papers' ideas feed on: textures on one outline, outlines under one paint, long shapes
rotated and bent, one pale disc that five surroundings turn into five classes, composed objects, crowds of one class,
and unannotated clutter that looks like parts of objects. See `scenes/catalogue.py`.

Sizes. COCO's evaluation splits objects at 32² and 96² square pixels; about 41 % of COCO's objects are small, 34 %
medium, 25 % large. The scenes hold about these shares by the same absolute areas at 256x256 pixels, so that APs, APm
and APl all mean something there; a larger image is the same kind of scene at a higher resolution. Areas are those of
the whole silhouette and boxes its tight boxes, hidden parts included; so are the masks.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import hotcoco
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from benchsuite.data.dataset import GRID, DetectionData, DetectionSet, Masks, Rle
from benchsuite.data.scenes.catalogue import CLASSES
from benchsuite.data.scenes.draw import Look, draw, silhouette, silhouette_in_box
from benchsuite.data.scenes.draws import PICTURE, raw_bits
from benchsuite.data.scenes.grid import Placed
from benchsuite.data.scenes.layout import Rules, annotated, compose


@dataclass(frozen=True)
class Silhouettes(Masks):
    """The masks of things in pictures of height x width pixels, row by row."""

    things: Sequence[Placed]
    height: int
    width: int

    def rle(self, row: int) -> Rle:
        """Every pixel of which the thing covers at least half."""
        rle: Rle = hotcoco.mask.encode(silhouette(self.things[row], self.height, self.width))
        return rle

    def grids(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The outline drawn at the grid's resolution."""
        drawn = [silhouette_in_box(self.things[row], GRID) for row in rows.tolist()]
        return np.array(drawn, np.bool_).reshape(-1, GRID, GRID)


class Generated(DetectionData):
    """`images` scenes of height x width pixels; train and val are different scenes of the same seed.

    noise     grain, standard deviation in grey levels
    contrast  how far the colours of objects and clutter stand from the ground: 1 fully, 0 not at all
    clutter   unannotated parts of objects per image, on average
    hidden    largest share of an object that others may cover, counted on a grid of 64x64 cells
    """

    version: ClassVar[int] = 1

    images: int = Field(ge=1)
    seed: int = Field(default=0, ge=0)
    split: Literal["train", "val"] = "train"
    height: int = Field(default=256, ge=64, le=8192)
    width: int = Field(default=256, ge=64, le=8192)
    noise: float = Field(default=7.0, ge=0, le=64)
    contrast: float = Field(default=0.9, gt=0, le=1)
    clutter: int = Field(default=4, ge=0, le=32)
    hidden: float = Field(default=0.4, ge=0, le=0.7)

    @property
    def name(self) -> str:
        """Always says that the pictures are synthetic."""
        return f"generated (synthetic) {self.split}"

    @property
    def classes(self) -> tuple[str, ...]:
        """The 24 class names."""
        return CLASSES

    def fingerprint(self) -> str:
        """Hash of the settings and the version, which decide every byte; nothing is drawn."""
        settings = json.dumps({"version": self.version, **self.model_dump()}, sort_keys=True)
        return hashlib.sha256(settings.encode()).hexdigest()[:24]

    def has_masks(self) -> bool:
        """Always."""
        return True

    def open(self) -> DetectionSet:
        """Lay out every scene, some 0.4 ms each; `read` draws picture i, from (seed, split, i) alone."""
        rules = self._rules()
        scenes = [annotated(rules, index) for index in range(self.images)]
        things = [thing for scene in scenes for thing in scene]
        count = len(things)
        return DetectionSet(
            name=self.name,
            classes=CLASSES,
            image_ids=np.arange(1, self.images + 1, dtype=np.int64),
            file_names=tuple(f"{self.split}/{index + 1:06d}" for index in range(self.images)),
            sizes=np.tile(np.array([self.height, self.width], np.int32), (self.images, 1)),
            boxes=np.array([thing.box for thing in things], np.float64).reshape(count, 4),
            labels=np.array([thing.label for thing in things], np.int64),
            areas=np.array([thing.area for thing in things], np.float64),
            crowd=np.zeros(count, np.bool_),
            difficult=np.zeros(count, np.bool_),
            offsets=np.cumsum([0, *(len(scene) for scene in scenes)], dtype=np.int64),
            category_ids=np.arange(1, len(CLASSES) + 1, dtype=np.int64),
            read=self.read,
            fingerprint=self.fingerprint(),
            masks=lambda: Silhouettes(things, self.height, self.width),
        )

    def read(self, index: int) -> NDArray[np.uint8]:
        """Scene `index` as uint8 [height, width, 3], RGB."""
        rules = self._rules()
        bits = raw_bits(rules.seed, rules.stream, index, PICTURE)
        return draw(compose(rules, index), Look(self.noise, self.contrast), self.height, self.width, bits)

    def _rules(self) -> Rules:
        stream = ("train", "val").index(self.split)
        return Rules(self.seed, stream, self.height, self.width, self.clutter, self.hidden)
