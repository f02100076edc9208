"""Statistics of ablation tables: paired differences, verdicts, agreement with the paper.

Differences are paired over common seeds and assumed normal: few seeds allow no weaker assumption. Verdicts of one
table share one error rate by Holm's step-down procedure (S. Holm, Scand. J. Statistics 6, 1979). Student's t is
computed here, because none of the project's libraries brings it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

LEVEL = 0.05
"""Error rate of an interval, and of all the verdicts of one table together."""

Verdict = Literal["holds", "fails", "not settled"]


def t_tail(t: float, df: int) -> float:
    """P(|T| > |t|) of Student's T with a whole number `df` >= 1 of degrees of freedom.

    Abramowitz & Stegun 26.7.3 and 26.7.4: a finite sum in theta = arctan(t / sqrt(df)).
    """
    theta = math.atan(abs(t) / math.sqrt(df))
    sine, cosine = math.sin(theta), math.cos(theta)
    term = total = cosine if df % 2 else 1.0
    for k in range(2 if df % 2 else 1, df - 1, 2):
        term *= k / (k + 1) * cosine * cosine
        total += term
    if df == 1:
        inside = 2 / math.pi * theta
    elif df % 2:
        inside = 2 / math.pi * (theta + sine * total)
    else:
        inside = sine * total
    return max(0.0, 1.0 - inside)


def t_quantile(level: float, df: int) -> float:
    """The t with P(|T| > t) = `level`, 0 < level < 1, by bisection: 12.706 for level 0.05 and df 1."""
    low, high = 0.0, 1.0
    while t_tail(high, df) > level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, df) > level else (low, middle)
    return high


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation (n - 1) of a few values, and the t interval of the mean.

    `low` and `high` are None for one value: it has no interval. Equal values have an interval without width.
    """

    n: int
    mean: float
    deviation: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def error(self) -> float | None:
        """Standard error of the mean."""
        return None if self.deviation is None else self.deviation / math.sqrt(self.n)


def summarise(values: Sequence[float], level: float = LEVEL) -> Summary | None:
    """Summary of `values`, None where there are none."""
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(n, mean)
    deviation = 0.0 if len(set(values)) == 1 else math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    reach = t_quantile(level, n - 1) * deviation / math.sqrt(n)
    return Summary(n, mean, deviation, mean - reach, mean + reach)


def differences(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    """`first` minus `second`, seed by seed, over the seeds that both have."""
    return {seed: first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())}


def p_value(margin: float, error: float, n: int) -> float:
    """The smallest level at which an interval of that standard error, `margin` away from a bound, excludes it."""
    if error == 0:
        return 1.0 if margin == 0 else 0.0
    return t_tail(margin / error, n - 1)


def holm(p_values: Sequence[float | None], level: float = LEVEL) -> list[float]:
    """The level each of several tests is held to; 0 for a test after the first that fails, in order of p.

    None stands for a claim that cannot be tested (one seed); it takes no part, but counts: it would have been
    tested had there been seeds, and leaving it out would make verdicts depend on which rows were run.
    """
    total = len(p_values)
    levels = [level / total if total else level] * total
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    settled = True
    for rank, (p, index) in enumerate(order):
        levels[index] = level / (total - rank) if settled else 0.0
        settled = settled and p <= levels[index]
    return levels


def seeds_needed(margin: float, deviation: float, level: float, most: int = 100) -> int | None:
    """How many seeds would settle a claim if mean and deviation stayed as they are; None beyond `most`."""
    for n in range(2, most + 1):
        if abs(margin) > t_quantile(level, n - 1) * deviation / math.sqrt(n):
            return n
    return None


@dataclass(frozen=True)
class Agreement:
    """How measured differences go with published ones, over `rows` rows: how many signs are equal of those that
    the paper prints unequal to zero, and Kendall's tau-b, None where either side is all ties."""

    rows: int
    signs: int
    signed: int
    tau: float | None


def agreement(measured: Sequence[float], published: Sequence[float]) -> Agreement | None:
    """Agreement of pairs of differences, None for fewer than two."""
    if len(measured) < 2:
        return None
    signed = [(m, p) for m, p in zip(measured, published, strict=True) if _sign(p) != 0]
    signs = sum(_sign(m) == _sign(p) for m, p in signed)
    return Agreement(len(measured), signs, len(signed), kendall(measured, published))


def kendall(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b: concordant less discordant pairs, over the geometric mean of the untied ones of each side."""
    signs = [(_sign(first[i] - first[j]), _sign(second[i] - second[j])) for i, j in combinations(range(len(first)), 2)]
    untied = math.sqrt(sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs))
    return sum(a * b for a, b in signs) / untied if untied else None


def _sign(value: float) -> int:
    """Sign of a difference; what floating point leaves of equal decimals (36.4 - 35.1 against 37.7 - 36.4) is 0."""
    return 0 if abs(value) < 1e-9 else (1 if value > 0 else -1)
