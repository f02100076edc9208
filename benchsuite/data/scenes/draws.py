"""The randomness of the scenes: raw integers, whose values numpy promises to keep, unlike its distributions."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
LAYOUT, PICTURE = 0, 1


def raw_bits(seed: int, stream: int, index: int, purpose: int) -> np.random.PCG64:
    """The source of everything random in scene `index`; `purpose` is `LAYOUT` or `PICTURE`."""
    return np.random.PCG64(np.random.SeedSequence((seed, stream, index, purpose)))


class Draws:
    """Random choices, one raw integer each."""

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
