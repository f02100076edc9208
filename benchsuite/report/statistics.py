"""Statistics of ablation tables: paired differences, verdicts, agreement with the paper.

Differences are paired over common seeds and assumed normal: few seeds allow no weaker assumption. A seed is a block:
rows under it share start, order of images and augmentation, so that all rows of a table tell of each row's own spread
(`contrast`). Verdicts of one table share one error rate by Holm's step-down procedure (S. Holm, Scand. J. Statistics
6, 1979). `benchmarks/claims.py` simulates how often verdicts are false, and how often they come.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
"""Error rate of an interval, and of all the verdicts of one table together."""

PRIOR, GAINED = 0.25, 0.5
"""Degrees of freedom by which a row's variance is drawn towards its table's, and those that a contrast has of the other
rows: as many as keep false verdicts at 5 % where one row is 2.4 times as noisy (`benchmarks/claims.py`)."""

Verdict = Literal["holds", "fails", "not settled"]


def t_tail(t: float, df: float) -> float:
    """P(|T| > |t|) of Student's T with `df` > 0 degrees of freedom."""
    from scipy.special import stdtr  # here, for it takes longer to import than a table to print

    return float(2 * stdtr(df, -abs(t)))


def t_quantile(level: float, df: float) -> float:
    """The t with P(|T| > t) = `level`, 0 < level < 1: 12.706 for level 0.05 and df 1, 1.960 for infinite df."""
    from scipy.special import ndtri, stdtrit

    return float(-ndtri(level / 2) if math.isinf(df) else -stdtrit(df, level / 2))


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


def contrast(
    table: Mapping[str, Mapping[int, float]], first: str, second: str, trained: Mapping[str, str] | None = None
) -> tuple[Summary, float] | None:
    """`first` minus `second` of a table's column (row -> seed -> value), and its degrees of freedom; None where they
    have no seed in common.

    The deviation is that of one seed's difference, from the variances of both rows (`variances`) among all that were
    measured under their seeds; with two rows that of the paired t test. So are rows of one training, which `trained`
    names: they have most of their noise in common, and of each other training one row speaks.
    """
    trained = trained or {}
    pairs = differences(table[first], table[second])
    summary = summarise(list(pairs.values()))
    if summary is None:
        return None
    if summary.n == 1 or not any(pairs.values()):
        return summary, summary.n - 1.0
    training = {row: trained.get(row) or row for row in table}
    speaking: dict[str, str] = {}
    for row in (first, second, *table) if training[first] != training[second] else ():
        if pairs.keys() <= table[row].keys():
            speaking.setdefault(training[row], row)
    others = [table[row] for row in speaking.values()]
    # A row that is another's twin tells nothing new.
    rows = dict.fromkeys(tuple(each[seed] for seed in pairs) for each in (table[first], table[second], *others))
    values = np.array(list(rows))
    deviation = math.sqrt(float(variances(values)[:2].sum()))
    df = degrees(len(values), summary.n)
    reach = t_quantile(LEVEL, df) * deviation / math.sqrt(summary.n)
    return Summary(summary.n, summary.mean, deviation, summary.mean - reach, summary.mean + reach), df


def unpaired(first: Sequence[float], second: Sequence[float]) -> tuple[Summary, float] | None:
    """The mean of `first` minus that of `second`, whose seeds share nothing, and its degrees of freedom (B. Welch,
    Biometrika 34, 1947); None where a side is empty. The deviation is scaled to the fewer seeds of the two."""
    sides = [summarise(values) for values in (first, second)]
    if sides[0] is None or sides[1] is None:
        return None
    mean, n = sides[0].mean - sides[1].mean, min(side.n for side in sides if side)
    if n == 1:
        return Summary(1, mean), 0.0
    shares = [((side.error or 0.0) ** 2, side.n - 1) for side in sides if side]
    error = math.sqrt(sum(share for share, _ in shares))
    df = error**4 / sum(share**2 / own for share, own in shares) if error else float(n - 1)
    reach = t_quantile(LEVEL, df) * error
    return Summary(n, mean, error * math.sqrt(n), mean - reach, mean + reach), df


def variances(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance over seeds of each row by itself, [..., R], of tables [..., R, n] in which a seed moves all rows alike.

    What is left of a value without its row's and its seed's mean has the row's own share of the noise (F. Grubbs, J.
    Am. Statistical Association 43, 1948). That is drawn towards the mean of all rows as if by `PRIOR` more degrees of
    freedom (G. Smyth, Statistical Applications in Genetics 3, 2004): own estimates of few seeds are too rough to use,
    and the mean alone would settle too much where one row is noisier than the others.
    """
    rows, seeds = values.shape[-2:]
    left = (
        values - values.mean(-1, keepdims=True) - values.mean(-2, keepdims=True) + values.mean((-2, -1), keepdims=True)
    )
    left[np.abs(left) < 1e-9 * max(1.0, float(np.abs(values).max()))] = 0  # what floats leave of equal differences
    squares = (left**2).sum(-1) / (seeds - 1)
    common = squares.sum(-1, keepdims=True) / (rows - 1)
    if rows == 2:
        return np.repeat(common, 2, -1)
    own = np.maximum((squares - common / rows) * rows / (rows - 2), 0)
    shrunk: NDArray[np.float64] = ((seeds - 1) * own + PRIOR * common) / (seeds - 1 + PRIOR)
    return shrunk


def degrees(rows: int, seeds: int) -> float:
    """Degrees of freedom of a contrast: those of its seeds, and what other rows add."""
    return seeds - 1 + (GAINED if rows > 2 else 0.0)


def p_value(margin: float, error: float, df: float) -> float:
    """The smallest level at which an interval of that standard error, `margin` away from a bound, excludes it. Equal
    differences of two seeds exclude nothing: on few images they come by chance."""
    if error == 0:
        return 1.0 if margin == 0 or df < 2 else 0.0
    return t_tail(margin / error, df)


def two_levels(
    seeds: Summary, df: float, images: tuple[float, float], each: Sequence[tuple[float, float, float]] = ()
) -> tuple[float, float]:
    """The 95 % interval of a mean difference as other seeds and other images would have it, from its summary over
    `seeds` and its interval over `images` (bounds of a bootstrap of the same mean).

    Variances add up, side by side, and so do degrees of freedom (F. Satterthwaite, Biometrics Bulletin 2, 1946), of
    which the images have many; but the interval is never narrower than either alone. What seeds disagree about on
    single images is in both variances; it is taken off once where `each` seed's difference and its bounds over images,
    (difference, low, high), are given. A bootstrap over so few seeds would be too narrow.
    """
    assert seeds.error is not None and seeds.low is not None and seeds.high is not None
    z, own, bounds = t_quantile(LEVEL, math.inf), seeds.error**2, []
    for side, sign in ((0, -1), (1, 1)):
        other = (max(sign * (images[side] - seeds.mean), 0) / z) ** 2
        single = [(max(sign * (one[1 + side] - one[0]), 0) / z) ** 2 for one in each]
        twice = max(math.fsum(single) / len(single) - other, 0) / (len(single) - 1) if len(single) > 1 else 0.0
        whole = max(own + other - twice, own, other)
        together = df * (whole / own) ** 2 if own else math.inf
        bounds.append(seeds.mean + sign * t_quantile(LEVEL, together) * math.sqrt(whole))
    return min(bounds[0], seeds.low, images[0]), max(bounds[1], seeds.high, images[1])


def holm(p_values: Sequence[float | None], level: float = LEVEL) -> list[float]:
    """The level each of several tests is held to: in order of p it rises with every one that passes, and stays for all
    others where one does not.

    None stands for a claim that cannot be tested (one seed); it takes no part, but counts: it would have been
    tested had there been seeds, and leaving it out would make verdicts depend on which rows were run.
    """
    total = len(p_values)
    levels = [level / total if total else level] * total
    passed = 0
    for p, index in sorted((p, index) for index, p in enumerate(p_values) if p is not None):
        levels[index] = level / (total - passed)
        passed += p <= levels[index]
    return levels


def seeds_needed(margin: float, deviation: float, level: float, gained: float = 0.0, most: int = 100) -> int | None:
    """How many seeds would settle a claim if mean and deviation stayed as they are, and the degrees of freedom that
    other rows add; None beyond `most`."""
    for n in range(2, most + 1):
        if p_value(margin, deviation / math.sqrt(n), n - 1 + gained) < level:
            return n
    return None


def power(margin: float, deviation: float, seeds: int, df: float, level: float, within: float = math.inf) -> float:
    """The chance that a test at `level` settles a claim whose difference truly lies `margin` from its bound and varies
    by `deviation` from seed to seed; of a claim that it is `within` so much of 0, `margin` is to the nearer bound.

    Of the normal mean, over quantiles of its estimated error (Student's noncentral t, where there is one bound).
    """
    from scipy.special import gammaincinv, ndtr

    if deviation == 0:
        return float(p_value(margin, 0.0, df) == 0)
    error = deviation / math.sqrt(seeds)
    reach = t_quantile(level, df) * np.sqrt(gammaincinv(df / 2, (np.arange(500) + 0.5) / 500) * 2 / df)
    near = margin / error
    if math.isinf(within):
        return float((ndtr(near - reach) + ndtr(-near - reach)).mean())
    far = 2 * within / error - near
    inside = np.maximum(ndtr(near - reach) - ndtr(reach - far), 0)
    return float((inside + ndtr(-near - reach) + ndtr(-far - reach)).mean())


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
