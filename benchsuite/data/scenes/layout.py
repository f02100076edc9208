"""Where everything of a generated scene goes: drawn from (seed, stream, index) by integers alone, before any pixel.

A scene is a list of drafts (a class, a size, how many copies), placed from large to small: what is placed later lies
on top. Each object carries a guard, its box or more, of which at most the share `hidden` may be covered later.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from benchsuite.data.scenes.shapes import CLASSES, CLUTTER, COSINES, DISCS, ON, PALE, SHAPES, TURNS, VARIANTS, area, extent

T = TypeVar("T")
RGB = tuple[int, int, int]
Box = tuple[float, float, float, float]

# Objects wanted per image, equally likely; after those that find no place a mean of 7 and a long tail, as in COCO.
COUNTS = (1, 2, 3, 3, 4, 5, 5, 6, 7, 7, 8, 9, 12, 16, 21, 30)
COPIES = (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 4, 7, 12)
DISC_COPIES = (1, 1, 2, 2)
# Size (square root of the area in a 256-pixel image), low and high of the three groups.
SIZES = ((10.0, 31.0), (33.0, 92.0), (97.0, 150.0))
# Below the first number an object is small, from the second on large; for scenes of few, some and many objects.
FEW, SOME, MANY = (0.10, 0.36), (0.14, 0.46), (0.26, 0.62)
TRIES = 12

PALETTE: tuple[RGB, ...] = (
    (214, 48, 49), (235, 120, 30), (150, 60, 190), (30, 110, 210), (10, 150, 140), (226, 70, 150),
    (60, 150, 50), (130, 80, 40), (70, 60, 160), (170, 30, 80), (240, 180, 30), (40, 60, 90),
)
GROUNDS: tuple[RGB, ...] = (
    (196, 186, 168), (150, 160, 168), (178, 190, 172), (206, 196, 200), (140, 134, 126), (188, 200, 208),
    (168, 150, 140), (126, 140, 132),
)


class Rules(NamedTuple):
    """The settings a layout depends on."""

    seed: int
    stream: int
    height: int
    width: int
    clutter: int
    hidden: float


class Placed(NamedTuple):
    """One thing in the scene: shape and its variant, centre, scale in pixels, box (xyxy), colour, label or -1."""

    shape: str
    variant: int
    turn: int
    scale: float
    x: float
    y: float
    box: Box
    colour: RGB
    label: int

    @property
    def area(self) -> float:
        """Area in square pixels, hidden parts included."""
        return area(self.shape, self.variant) * self.scale * self.scale


class Scene(NamedTuple):
    """The ground's colour, and all things in the order of drawing (the clutter and the hosts first)."""

    ground: RGB
    things: list[Placed]

    @property
    def objects(self) -> list[Placed]:
        """The annotated ones."""
        return [thing for thing in self.things if thing.label >= 0]


def raw_bits(seed: int, stream: int, index: int, purpose: int) -> np.random.PCG64:
    """The source of everything random: raw integers, whose values numpy promises to keep, unlike its distributions."""
    return np.random.PCG64(np.random.SeedSequence((seed, stream, index, purpose)))


class Draws:
    """Random choices from a bit generator's raw integers."""

    def __init__(self, bits: np.random.PCG64):
        self._numbers = self._refill(bits)

    @staticmethod
    def _refill(bits: np.random.PCG64) -> Iterator[int]:
        while True:
            yield from np.asarray(bits.random_raw(128)).tolist()

    def below(self, limit: int) -> int:
        """An integer in 0..limit-1."""
        return next(self._numbers) % limit

    def unit(self) -> float:
        """A number in [0, 1), a multiple of 2^-16."""
        return (next(self._numbers) >> 48) / 65536

    def between(self, low: float, high: float) -> float:
        """A number from low to high."""
        return low + (high - low) * self.unit()

    def pick(self, choices: Sequence[T]) -> T:
        """One of the choices, all equally likely."""
        return choices[next(self._numbers) % len(choices)]


class Draft(NamedTuple):
    """What shall be placed: a class, its size in pixels, how many."""

    name: str
    size: float
    copies: int


class Guard:
    """A box of which at most the share `room` may still be covered."""

    __slots__ = ("area", "box", "room")

    def __init__(self, box: Box, room: float):
        self.box, self.room = box, room
        self.area = (box[2] - box[0]) * (box[3] - box[1])


def compose(rules: Rules, index: int) -> Scene:
    """The layout of scene `index`: a pure function of the rules and the index."""
    composer = Composer(rules, Draws(raw_bits(rules.seed, rules.stream, index, 0)))
    drafts = sorted(composer.drafts(), key=lambda draft: -draft.size)
    lying, hosted = [[draft for draft in drafts if (draft.name in DISCS) == disc] for disc in (False, True)]
    large = [draft for draft in lying if draft.size > composer.unit * SIZES[2][0]]
    for draft in large:
        composer.add_group(draft)
    for draft in hosted:
        composer.add_hosted(draft)
    for draft in lying[len(large) :]:
        composer.add_group(draft)
    composer.add_clutter()
    return Scene(composer.ground, composer.hosts + composer.clutter + composer.objects)


class Composer:
    """A scene being laid out."""

    def __init__(self, rules: Rules, draws: Draws):
        self.rules, self.draws = rules, draws
        self.unit = math.sqrt(rules.height * rules.width) / 256
        self.ground = draws.pick(GROUNDS)
        self.hosts: list[Placed] = []
        self.clutter: list[Placed] = []
        self.objects: list[Placed] = []
        self.guards: list[Guard] = []

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
        """Discs with what makes them what they are: lamps on poles, the others on a patch; both in plain view."""
        if draft.name == "lamp":
            for _ in range(draft.copies):
                self._add_lamp(draft.size)
            return
        for _ in range(TRIES):
            patch = self._place(ON[draft.name], self.unit * self.draws.between(75, 125), 1.0)
            if patch is not None and self._add_discs(draft, patch):
                self.hosts.append(patch)
                return

    def _add_discs(self, draft: Draft, patch: Placed) -> int:
        reach = patch.scale * 0.52
        found = 0
        for _ in range(2 * draft.copies):
            x, y = patch.x + self.draws.between(-reach, reach), patch.y + self.draws.between(-reach, reach)
            size = draft.size * self.draws.between(0.85, 1.15)
            found += self._keep_in_view(self._thing(draft.name, size, x, y), 0.7, 0.7)
            if found == draft.copies:
                break
        return found

    def _add_lamp(self, size: float) -> None:
        for _ in range(TRIES):
            pole = self._place("pole", size * self.draws.between(1.0, 1.25), 1.0)
            if pole is not None and self._keep_in_view(self._thing("lamp", size, pole.x, pole.box[1]), 0.4, 1.6):
                self.hosts.append(pole)
                return

    def add_group(self, draft: Draft) -> None:
        """One object, or copies of it crowding around the first."""
        first: Placed | None = None
        for _ in range(draft.copies):
            size = draft.size * (self.draws.between(0.8, 1.2) if draft.copies > 1 else 1.0)
            size = max(size, self.unit * SHAPES[draft.name].smallest)
            spread = draft.size * (0.6 + 0.45 * math.sqrt(draft.copies))
            around = first and (first.x - spread, first.y - spread, first.x + spread, first.y + spread)
            thing = self._place(draft.name, size, self.rules.hidden if first else 0.0, around)
            if thing is None:
                continue
            first = first or thing
            self._keep(thing)
            if thing.shape == "face":
                self._add_eyes(thing)

    def _add_eyes(self, face: Placed) -> None:
        cos, sin = COSINES[face.turn % TURNS], COSINES[(face.turn - TURNS // 4) % TURNS]
        for side in (-0.36, 0.36):
            x, y = side * cos + 0.16 * sin, side * sin - 0.16 * cos
            size = face.scale * 0.36
            self._keep(self._thing("eye", size, face.x + face.scale * x, face.y + face.scale * y))

    def add_clutter(self) -> None:
        """Parts of objects, and discs that lie on nothing: drawn below the objects, annotated nowhere."""
        for _ in range(self.draws.below(2 * self.rules.clutter + 1)):
            name = self.draws.pick(PARTS)
            stray = name == "stray disc"
            nearness = self.draws.unit()
            size = self.unit * (self.draws.between(9, 21) if stray else 10 + 50 * nearness * nearness)
            thing = self._place(name, size, 0.0 if stray else 0.6)
            if thing is not None and not (stray and any(_overlap(thing.box, host.box) for host in self.hosts)):
                self.clutter.append(thing)

    def _place(self, name: str, size: float, tolerance: float, around: Box | None = None) -> Placed | None:
        """Somewhere in the image (its centre in `around`) where nothing is hidden too far; None if no try fits.

        What it may overlap grows from `tolerance` (share of the smaller box) to anything the guards allow.
        """
        draws, height, width = self.draws, self.rules.height, self.rules.width
        variant = draws.below(VARIANTS)
        turn = draws.below(2 * SHAPES[name].sway + 1) - SHAPES[name].sway
        colour = self._colour()
        left, top, right, bottom = extent(name, variant, turn)
        room = 0.86 * min(width / (right - left), height / (bottom - top))
        scale = min(size / math.sqrt(area(name, variant)), room)
        low_x, high_x = 1 - left * scale, width - 1 - right * scale
        low_y, high_y = 1 - top * scale, height - 1 - bottom * scale
        if around is not None:
            low_x, high_x = max(low_x, around[0]), min(high_x, around[2])
            low_y, high_y = max(low_y, around[1]), min(high_y, around[3])
            if low_x > high_x or low_y > high_y:
                return None
        strict = name == "stray disc"
        for attempt in range(TRIES):
            x, y = draws.between(low_x, high_x), draws.between(low_y, high_y)
            box = (x + left * scale, y + top * scale, x + right * scale, y + bottom * scale)
            grown = tolerance if strict else tolerance + (1 - tolerance) * attempt / TRIES
            if self._fits(box, grown):
                return Placed(name, variant, turn, scale, x, y, box, colour, LABELS.get(name, -1))
        return None

    def _thing(self, name: str, size: float, x: float, y: float) -> Placed:
        """An upright pale disc at (x, y)."""
        left, top, right, bottom = extent(name, 0, 0)
        scale = size / math.sqrt(area(name, 0))
        box = (x + left * scale, y + top * scale, x + right * scale, y + bottom * scale)
        return Placed(name, 0, 0, scale, x, y, box, PALE, LABELS[name])

    def _colour(self) -> RGB:
        """Of the palette, and not too near the ground."""
        for _ in range(6):
            colour = self.draws.pick(PALETTE)
            if sum(abs(a - b) for a, b in zip(colour, self.ground, strict=True)) > 170:
                break
        return colour

    def _fits(self, box: Box, tolerance: float) -> bool:
        own = (box[2] - box[0]) * (box[3] - box[1])
        for guard in self.guards:
            overlap = _overlap(box, guard.box)
            if overlap > tolerance * min(own, guard.area) or overlap > guard.room * guard.area:
                return False
        return True

    def _keep(self, thing: Placed) -> None:
        for guard in self.guards:
            guard.room -= _overlap(thing.box, guard.box) / guard.area
        self.objects.append(thing)
        self.guards.append(Guard(thing.box, self.rules.hidden))

    def _keep_in_view(self, disc: Placed, beside: float, below: float) -> bool:
        """Keeps the disc and most of its surroundings (`beside` and `below`, in diameters) visible, if they are now."""
        left, top, right, bottom = disc.box
        size = right - left
        around = (left - beside * size, top - 0.4 * size, right + beside * size, bottom + below * size)
        inside = left >= 1 and top >= 1 and right <= self.rules.width - 1 and bottom <= self.rules.height - 1
        if not inside or not self._fits(around, 0.04):
            return False
        self._keep(disc)
        self.guards.append(Guard(around, 0.2))
        return True


def _overlap(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


LABELS = {name: label for label, name in enumerate(CLASSES)}
# A face brings two eyes; long shapes find a place less often.
SHARES = {"eye": 0, "face": 2, "arrow": 5, "snake": 5, "banana": 4, "fish": 5, "magnet": 4, "bolt": 4}
DRAWN = tuple(name for name in CLASSES for _ in range(SHARES.get(name, 3)))
PARTS = (*CLUTTER, "stray disc", "stray disc")
