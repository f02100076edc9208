"""Objects of the generated scenes, seen close: a classification dataset that needs no download. Synthetic, and never
shown as anything else.

Each image is a square around one object, half as wide again as the object, with whatever else of the scene lies there:
ground, surroundings, neighbours, clutter. It is drawn at its own size from the scene's polygons, not cut from a
picture, so small objects are as sharp as large ones. Classes and the share of each are those of the scenes.
"""

import hashlib
import json
from collections.abc import Iterator
from itertools import count, islice
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from benchsuite.data.classification import ClassificationData, ClassificationSet
from benchsuite.data.generated import Generated
from benchsuite.data.scenes.catalogue import CLASSES
from benchsuite.data.scenes.draw import Look, draw
from benchsuite.data.scenes.draws import PICTURE, raw_bits
from benchsuite.data.scenes.grid import Placed
from benchsuite.data.scenes.layout import Rules, Scene, compose

CONTEXT = 1.5  # width of the square, in widths of the object
SCENE = 256  # pixels, the size that the scenes' mixture of objects is made for
LOOK = Look(noise=7.0, contrast=0.9)  # as `Generated` has them


class GeneratedClasses(ClassificationData):
    """The first `images` objects of a seed's scenes, each `side` pixels wide; train and val are different scenes."""

    version: ClassVar[int] = 1

    images: int = Field(ge=1)
    seed: int = Field(default=0, ge=0)
    split: Literal["train", "val"] = "train"
    side: int = Field(default=32, ge=16, le=512)

    @property
    def name(self) -> str:
        """Always says that the pictures are synthetic."""
        return f"generated classes (synthetic) {self.split}"

    @property
    def classes(self) -> tuple[str, ...]:
        """The 24 class names of the scenes."""
        return CLASSES

    def fingerprint(self) -> str:
        """Hash of the settings, the version and that of the scenes, which decide every byte; nothing is drawn."""
        settings = json.dumps(
            {"version": self.version, "scenes": Generated.version, **self.model_dump()}, sort_keys=True
        )
        return hashlib.sha256(settings.encode()).hexdigest()[:24]

    def open(self) -> ClassificationSet:
        """Draw all images, a few milliseconds each; image i depends on (seed, split, side, i) alone."""
        stream = ("train", "val").index(self.split)
        rules = Rules(self.seed, stream, SCENE, SCENE, clutter=4, hidden=0.4)
        objects = list(islice(_objects(rules), self.images))
        images = np.stack([
            draw(_close(scene, thing, self.side), LOOK, self.side, self.side,
                 raw_bits(self.seed, stream, index, PICTURE))
            for index, (scene, thing) in enumerate(objects)
        ])  # fmt: skip
        labels = np.array([thing.label for _, thing in objects], np.int64)
        return ClassificationSet(self.name, CLASSES, images, labels, self.fingerprint())


def _objects(rules: Rules) -> Iterator[tuple[Scene, Placed]]:
    """Every object with its scene, scene by scene without end."""
    for index in count():
        scene = compose(rules, index)
        yield from ((scene, thing) for thing in scene.things if thing.label >= 0)


def _close(scene: Scene, thing: Placed, side: int) -> Scene:
    """The square around the thing as a scene of its own, `side` pixels wide."""
    left, top, right, bottom = thing.box
    width = CONTEXT * max(right - left, bottom - top)
    zoom = side / width
    x, y = (left + right - width) / 2, (top + bottom - width) / 2
    seen = [
        each._replace(scale=each.scale * zoom, x=(each.x - x) * zoom, y=(each.y - y) * zoom) for each in scene.things
    ]
    return Scene(scene.ground, [each for each in seen if _overlaps(each, side)])


def _overlaps(thing: Placed, side: int) -> bool:
    left, top, right, bottom = thing.box
    return left < side and top < side and right > 0 and bottom > 0
