"""Where everything of a generated scene goes: drawn from (seed, stream, index) by integers alone, before any pixel.

A scene is a list of drafts (a class, a size, how many copies). The large ones are placed first, then the pale discs
with their surroundings, then the others, from large to small; what is placed later lies on top. Guards see to it that
nothing loses more than the share `hidden` of its silhouette, and no disc the surroundings that name it.
"""

import math
from typing import NamedTuple

from benchsuite.data.scenes.catalogue import CLASSES, CLUTTER, DISCS, GROUNDS, ON, PALE, PALETTE, SHAPES, area, extent
from benchsuite.data.scenes.draws import LAYOUT, Draws, raw_bits
from benchsuite.data.scenes.grid import Box, Guard, Placed, Raster
from benchsuite.data.scenes.shapes import COSINES, RGB, TURNS, VARIANTS

# Objects wanted per image, equally likely; after those that find no place a mean of 7 and a long tail, as in COCO.
COUNTS = (1, 2, 3, 3, 4, 5, 6, 7, 7, 8, 9, 11, 13, 17, 23, 32)
COPIES = (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 4, 7, 12)
DISC_COPIES = (1, 1, 2, 2)
# Size (square root of the area in a 256-pixel image), low and high of the three groups.
SIZES = ((10.0, 31.0), (33.0, 92.0), (97.0, 150.0))
# Below the first number an object is small, from the second on large; for scenes of few, some and many objects.
FEW, SOME, MANY = (0.08, 0.31), (0.12, 0.38), (0.2, 0.48)
TRIES = 16


class Rules(NamedTuple):
    """The settings a layout depends on."""

    seed: int
    stream: int
    height: int
    width: int
    clutter: int
    hidden: float


class Scene(NamedTuple):
    """The ground's colour, and all things in the order of drawing (hosts and clutter first)."""

    ground: RGB
    things: list[Placed]


class Draft(NamedTuple):
    """What shall be placed: a class, its size (square root of the area) in pixels, how many."""

    name: str
    size: float
    copies: int


def compose(rules: Rules, index: int) -> Scene:
    """The layout of scene `index`: a pure function of the rules and the index."""
    composer = composed(rules, index)
    composer.add_clutter()
    return Scene(composer.ground, composer.hosts + composer.clutter + composer.objects)


def annotated(rules: Rules, index: int) -> list[Placed]:
    """The objects of scene `index`, in the order of drawing; the clutter, which they do not depend on, is left out."""
    return composed(rules, index).objects


def composed(rules: Rules, index: int) -> "Composer":
    """Scene `index` but for its clutter."""
    composer = Composer(rules, Draws(raw_bits(rules.seed, rules.stream, index, LAYOUT)))
    drafts = sorted(composer.drafts(), key=lambda draft: -draft.size)
    lying, hosted = [[draft for draft in drafts if (draft.name in DISCS) == disc] for disc in (False, True)]
    large = [draft for draft in lying if draft.size > composer.unit * SIZES[2][0]]
    for draft in large:
        composer.add_group(draft)
    for draft in hosted:
        composer.add_hosted(draft)
    for draft in lying[len(large) :]:
        composer.add_group(draft)
    return composer


class Composer:
    """A scene being laid out."""

    def __init__(self, rules: Rules, draws: Draws):
        self.rules, self.draws = rules, draws
        self.unit = math.sqrt(rules.height * rules.width) / 256
        self.grid = Raster(rules.height, rules.width, 4 * self.unit)
        self.ground = draws.pick(GROUNDS)
        self.hosts: list[Placed] = []
        self.clutter: list[Placed] = []
        self.objects: list[Placed] = []
        self.guards: list[Guard] = []
        self.hosted = self.covered = 0

    def drafts(self) -> list[Draft]:
        """Classes, sizes and copies of the scene's objects; full scenes hold smaller ones."""
        count = left = self.draws.pick(COUNTS)
        drafts = []
        while left > 0:
            name = self.draws.pick(DRAWN)
            copies = min(left, self.draws.pick(DISC_COPIES if name in DISCS else COPIES))
            drafts.append(Draft(name, self._size(name, count, copies), copies))
            left -= 3 * copies if name == "face" else copies
        return drafts

    def _size(self, name: str, count: int, copies: int) -> float:
        if name in DISCS:
            return self.unit * self.draws.between(9, 21)
        small, large = FEW if count <= 5 else SOME if count <= 9 else MANY
        drawn = self.draws.unit()
        group = 0 if drawn < small else 2 if drawn >= large and copies < 5 else 1
        low, high = SIZES[group]
        nearness = self.draws.unit()
        return self.unit * max(low + (high - low) * nearness * nearness, SHAPES[name].smallest)

    def add_hosted(self, draft: Draft) -> None:
        """Discs with what makes them what they are, in plain view: lamps on poles, the others on a patch."""
        if draft.name == "lamp":
            for _ in range(draft.copies):
                self._add_lamp(draft.size)
            return
        size = self.unit * self.draws.between(75, 125)
        margin = 0.35 * size
        first = self._view(draft, 0.6, 0.6, (margin, margin, self.rules.width - margin, self.rules.height - margin))
        if first is None:
            return
        x, y = first[0].x, first[0].y
        for _ in range(TRIES):
            found = self._place(ON[draft.name], size, around=(x - size / 3, y - size / 3, x + size / 3, y + size / 3))
            if found is None or (first[1] & ~found[1]).bit_count() > 0.1 * first[1].bit_count():
                continue
            patch, mask = found
            self._keep_in_view(*first)
            near = (patch.x - size / 2, patch.y - size / 2, patch.x + size / 2, patch.y + size / 2)
            for _ in range(draft.copies - 1):
                more = self._view(draft, 0.6, 0.6, near, mask)
                if more is not None:
                    self._keep_in_view(*more)
            self.hosts.insert(0, patch)
            self.hosted |= mask
            return

    def _add_lamp(self, size: float) -> None:
        length = size * self.draws.between(3.5, 5)
        scale = length / (extent("pole", 0, 0)[3] - extent("pole", 0, 0)[1])
        found = self._view(Draft("lamp", size, 1), 0.3, 1.6, (0, 0, self.rules.width, self.rules.height - length))
        if found is not None:
            lamp = found[0]
            pole = Placed("pole", 0, 0, scale, lamp.x, lamp.y - scale * extent("pole", 0, 0)[1], PALE)
            self._keep_in_view(*found)
            self.hosts.append(pole)
            self.hosted |= self.grid.mask(pole)

    def _view(
        self, draft: Draft, beside: float, below: float, within: Box, patch: int | None = None
    ) -> tuple[Placed, int] | None:
        """A disc in plain view, and the cells around it, `beside` and `below` in its diameters; its centre `within`."""
        left, top = max(within[0], draft.size), max(within[1], draft.size)
        right, bottom = min(within[2], self.rules.width - draft.size), min(within[3], self.rules.height - draft.size)
        if left > right or top > bottom:
            return None
        size = draft.size * self.draws.between(0.85, 1.15)
        for _ in range(TRIES):
            x, y = self.draws.between(left, right), self.draws.between(top, bottom)
            side, low = size * (0.5 + beside), size * (0.5 + below)
            around = self.grid.rectangle((x - side, y - side, x + side, y + low))
            allowed = 0.06 * around.bit_count()
            if around & self.hosted or (around & self.covered).bit_count() > allowed:
                continue
            if patch is None or (around & ~patch).bit_count() <= allowed:
                return self._disc(draft.name, size, x, y), around
        return None

    def _keep_in_view(self, disc: Placed, around: int) -> None:
        """Keeps the disc, and from now on most of the cells around it visible."""
        self._keep(disc, self.grid.mask(disc))
        self.guards.append(Guard(around, 0.25))

    def add_group(self, draft: Draft) -> None:
        """One object, or copies of it crowding around the first."""
        first: Placed | None = None
        for _ in range(draft.copies):
            size = draft.size * (self.draws.between(0.8, 1.2) if draft.copies > 1 else 1.0)
            size = max(size, self.unit * SHAPES[draft.name].smallest)
            spread = draft.size * (0.6 + 0.45 * math.sqrt(draft.copies))
            around = first and (first.x - spread, first.y - spread, first.x + spread, first.y + spread)
            found = self._place(draft.name, size, self.rules.hidden if first else 0.0, around)
            if found is not None:
                first = first or found[0]
                self._keep(*found)
                if draft.name == "face":
                    self._add_eyes(found[0])

    def _add_eyes(self, face: Placed) -> None:
        cos, sin = COSINES[face.turn % TURNS], COSINES[(face.turn - TURNS // 4) % TURNS]
        for side in (-0.36, 0.36):
            x, y = face.scale * (side * cos + 0.16 * sin), face.scale * (side * sin - 0.16 * cos)
            eye = self._disc("eye", face.scale * 0.36, face.x + x, face.y + y)
            self._keep(eye, self.grid.mask(eye))

    def add_clutter(self) -> None:
        """Parts of objects, and discs that lie on nothing: drawn below the objects, annotated nowhere."""
        for _ in range(self.draws.below(2 * self.rules.clutter + 1)):
            name = self.draws.pick(PARTS)
            nearness = self.draws.unit()
            size = self.unit * (self.draws.between(9, 21) if name == STRAY else 10 + 50 * nearness * nearness)
            found = self._place(name, size, 0.5)
            if found is not None and not (name == STRAY and found[1] & (self.hosted | self.covered)):
                self.clutter.append(found[0])

    def _place(
        self, name: str, size: float, tolerance: float | None = None, around: Box | None = None
    ) -> tuple[Placed, int] | None:
        """Somewhere in the image (its centre in `around`) where nothing is hidden too far; None if no try fits.

        What it may overlap grows from `tolerance` (share of the smaller) to all that the guards allow; None for what
        lies below everything, and fits anywhere.
        """
        draws, cell = self.draws, self.grid.cell
        variant = draws.below(VARIANTS)
        turn = draws.below(2 * SHAPES[name].sway + 1) - SHAPES[name].sway
        colour = self._colour()
        left, top, right, bottom = extent(name, variant, turn)
        height, width = self.rules.height, self.rules.width
        room = 0.86 * min(width / (right - left), height / (bottom - top))
        scale = min(size / math.sqrt(area(name, variant)), room)
        low_x, high_x = 1 - left * scale, width - 1 - right * scale
        low_y, high_y = 1 - top * scale, height - 1 - bottom * scale
        if around is not None:
            low_x, high_x = max(low_x, around[0]), min(high_x, around[2])
            low_y, high_y = max(low_y, around[1]), min(high_y, around[3])
            if low_x > high_x or low_y > high_y:
                return None
        # Tries differ by whole cells, so that one mask serves them all.
        first_x = low_x + draws.unit() * min(cell, high_x - low_x)
        first_y = low_y + draws.unit() * min(cell, high_y - low_y)
        across, down = int((high_x - first_x) / cell) + 1, int((high_y - first_y) / cell) + 1
        first = self.grid.mask(Placed(name, variant, turn, scale, first_x, first_y, colour))
        for attempt in range(TRIES):
            column, row = draws.below(across), draws.below(down)
            mask = first << (row * self.grid.columns + column)
            if tolerance is None or self._fits(mask, max(tolerance, attempt / TRIES)):
                x, y = first_x + column * cell, first_y + row * cell
                return Placed(name, variant, turn, scale, x, y, colour), mask
        return None

    def _disc(self, name: str, size: float, x: float, y: float) -> Placed:
        return Placed(name, 0, 0, size / math.sqrt(area(name, 0)), x, y, PALE)

    def _colour(self) -> RGB:
        """Of the palette, and not too near the ground."""
        for _ in range(6):
            colour = self.draws.pick(PALETTE)
            if sum(abs(a - b) for a, b in zip(colour, self.ground, strict=True)) > 170:
                break
        return colour

    def _fits(self, mask: int, tolerance: float) -> bool:
        own = mask.bit_count()
        if (mask & self.covered).bit_count() > tolerance * own:
            return False
        for guard in self.guards:
            hit = mask & guard.visible
            if hit and (guard.visible ^ hit).bit_count() < guard.needed:
                return False
        return True

    def _keep(self, thing: Placed, mask: int) -> None:
        for guard in self.guards:
            guard.visible &= ~mask
        self.covered |= mask
        self.objects.append(thing)
        self.guards.append(Guard(mask, self.rules.hidden))


STRAY = "stray disc"
# A face brings two eyes; discs on patches find a place less often.
SHARES = {"eye": 0, "face": 2, "buoy": 5, "golf ball": 5, "moon": 5, "lamp": 4}
DRAWN = tuple(name for name in CLASSES for _ in range(SHARES.get(name, 3)))
PARTS = (*CLUTTER, STRAY, STRAY)
