"""How often verdicts on a table's claims are false, and how often they come: simulated with HAR-Net Table I's claims.

python benchmarks/claims.py [--tables N] [--json]

Normal noise of standard deviation 1 in every row, or 2.4 in one of them (each in turn), a seed that moves all rows, and
APs that goes half with AP. A verdict is false that says *holds* or *fails* of a difference that lies on the claim's
bound, or the wrong one beyond it. Reported is the worst rate of tables with a false verdict over sixteen choices of
which differences there are, large ones elsewhere, since Holm's levels rise with every claim that is settled: in six of
them one claim is left, with all of the level to itself; the same of one claim of 3, 4 and 8 rows; the power at gains of
3 and of 5 standard deviations over the baseline, for claims that beat it; the share of 95 % intervals that cover, also
of seeds and images together, where the images' draw moves a difference by as much as the seeds do, by a third and by
three times as much. Beside it a paired t test a claim. Target: false verdicts in at most 5 % of tables, intervals cover
in 93–97 %.
"""

import argparse
import json
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from benchsuite.recipe.loading import select
from benchsuite.recipe.recipe import Claim
from benchsuite.report.statistics import LEVEL, Summary, degrees, t_quantile, two_levels, variances

Floats = NDArray[np.float64]
Errors = Callable[[Floats, int, int], tuple[Floats, float]]
COLUMNS = ("AP", "APs")
SEEDS, SPREAD, LARGE, TARGET = (2, 3, 5, 8), 2.4, 30.0, LEVEL


def paired(values: Floats, first: int, second: int) -> tuple[Floats, float]:
    """Standard deviation of a seed's difference and degrees of freedom, of each table [T, R, n]."""
    return (values[:, first] - values[:, second]).std(axis=1, ddof=1), values.shape[2] - 1


def blocks(values: Floats, first: int, second: int) -> tuple[Floats, float]:
    """As `bench compare` has it."""
    found = variances(values)
    return np.sqrt(found[:, first] + found[:, second]), degrees(*values.shape[1:])


def simulated(rng: np.random.Generator, tables: int, seeds: int, truth: Floats, spread: Floats) -> Floats:
    """[T, R, n, 2] for true values [R, 2] and standard deviations [R]."""
    noise = rng.normal(size=(tables, len(truth), seeds, 2))
    noise[..., 1] = 0.5 * noise[..., 0] + 0.75**0.5 * noise[..., 1]
    block = rng.normal(0, 3, (tables, 1, seeds, 2))
    return truth[None, :, None, :] + block + noise * spread[None, :, None, None]


def holm(p: Floats) -> NDArray[np.bool_]:
    """Which of the claims [T, G] are settled."""
    order = np.argsort(p, axis=1)
    levels = LEVEL / (p.shape[1] - np.arange(p.shape[1]))
    settled = np.logical_and.accumulate(np.take_along_axis(p, order, 1) <= levels, axis=1)
    result = np.zeros_like(settled)
    np.put_along_axis(result, order, settled, axis=1)
    return result


def verdicts(values: Floats, claims: list[Claim], rows: list[str], errors: Errors) -> tuple[Floats, Floats]:
    """[T, G]: 1 holds, -1 fails, 0 not settled; and whether the 95 % interval of the difference reaches how far."""
    margins, ps, reaches = [], [], []
    for claim in claims:
        first, second = (rows.index(row) for row in claim.rows)
        of = values[..., COLUMNS.index(claim.on)]
        deviation, df = errors(of, first, second)
        error = deviation / np.sqrt(of.shape[2])
        margin = margin_of(claim, (of[:, first] - of[:, second]).mean(axis=1))
        margins.append(margin)
        ps.append(2 * stdtr(df, -np.abs(margin) / error))
        reaches.append(t_quantile(LEVEL, df) * error)
    settled = holm(np.stack(ps, axis=1))
    return np.sign(np.stack(margins, axis=1)) * settled, np.stack(reaches, axis=1)


def margin_of(claim: Claim, difference: Floats) -> Floats:
    return difference - claim.by if claim.within is None else claim.within - np.abs(difference)


def truths() -> Iterator[Floats]:
    """True values of baseline, 1-1-1, 1-2-5, 5-2-1, 1-2-5-2-1, in AP and APs."""
    none, only, far = [0.0] * 5, [0.0, 0, 0, 0, LARGE], LARGE
    for ap, aps in (
        (none, none), (none, only), ([0, far, far, 2 * far, 3 * far], none), ([0, 0, 0, far, 2 * far], only),
        ([0, far, far, far, 2 * far], only), ([0, far, far, 2 * far, 2 * far], only), ([0, far, far, 2 * far, 0], only),
        ([0, far, far, 2 * far, 0], none), ([0, far, far, far, far], only), ([0, far, far, far, far], none),
        # One claim alone is on its bound.
        ([0, 0, far, 2 * far, 3 * far], only), ([0, far, far + 0.3, 2 * far, 3 * far], only),
        ([0, far, 3 * far, 3 * far, 4 * far], only), ([0, far, 3 * far, 4 * far, 4 * far], only),
        ([0, far, 2 * far, 3 * far, 0], only), ([0, far, 3 * far, 4 * far, 5 * far], none),
    ):  # fmt: skip
        yield np.array([ap, aps], dtype=float).T


def alone(errors: Errors, rows: int, seeds: int, tables: int) -> float:
    """Share of false verdicts on the one claim of a table that two rows differ: the worst of three spreads."""
    rng, worst = np.random.default_rng(rows), 0.0
    for noisy in (None, 0, rows - 1):
        spread = np.array([SPREAD if row == noisy else 1.0 for row in range(rows)])
        values = simulated(rng, tables, seeds, np.zeros((rows, 2)), spread)[..., 0]
        deviation, df = errors(values, 0, 1)
        margin = (values[:, 0] - values[:, 1]).mean(axis=1)
        worst = max(worst, float((2 * stdtr(df, -np.abs(margin) / deviation * seeds**0.5) <= LEVEL).mean()))
    return worst


def false(said: Floats, claims: list[Claim], rows: list[str], truth: Floats) -> float:
    """Share of tables with a false verdict."""
    wrong = np.zeros(len(said), bool)
    for place, claim in enumerate(claims):
        first, second = (truth[rows.index(row), COLUMNS.index(claim.on)] for row in claim.rows)
        margin = float(margin_of(claim, np.array(first - second)))
        wrong |= said[:, place] != 0 if margin == 0 else said[:, place] == -np.sign(margin)
    return float(wrong.mean())


def measured(name: str, errors: Errors, seeds: int, tables: int) -> dict[str, object]:
    recipe = select(["har-table1"])[0]
    claims, rows = list(recipe.claims), [row.id for row in recipe.rows]
    beat = [place for place, claim in enumerate(claims) if claim.rows[1] == rows[0]]
    rng = np.random.default_rng(seeds)
    equal = np.ones(len(rows))
    spreads = {
        "equal": [equal],
        "unequal": [np.where(np.arange(len(rows)) == row, SPREAD, 1) for row in range(len(rows))],
    }
    found: dict[str, object] = {"name": name, "seeds": seeds, "tables": tables}
    for kind, choices in spreads.items():
        worst, covered = 0.0, []
        for spread in choices:
            for truth in truths():
                values = simulated(rng, tables, seeds, truth, spread)
                said, reaches = verdicts(values, claims, rows, errors)
                worst = max(worst, false(said, claims, rows, truth))
                for place, claim in enumerate(claims):
                    first, second = (rows.index(row) for row in claim.rows)
                    of = values[..., COLUMNS.index(claim.on)].mean(axis=2) - truth[None, :, COLUMNS.index(claim.on)]
                    covered.append((np.abs(of[:, first] - of[:, second]) <= reaches[:, place]).mean())
        found |= {f"false, {kind}": worst, f"covered, {kind}": float(np.mean(covered))}
        for gain in (3, 5):
            powers = []
            for spread in choices:
                truth = np.zeros((len(rows), 2))
                truth[1:] = gain
                said, _ = verdicts(simulated(rng, tables, seeds, truth, spread), claims, rows, errors)
                powers.append((said[:, beat] == 1).mean())
            found[f"power at {gain}, {kind}"] = float(np.mean(powers))
    found |= {f"false, one claim of {count} rows": alone(errors, count, seeds, tables) for count in (3, 4, 8)}
    return found | {"covered, seeds and images": covered_together(errors, seeds, tables)}


def covered_together(errors: Errors, seeds: int, tables: int) -> float:
    """Share of intervals over seeds and images that cover, of two of five rows: the worst of three spreads."""
    rng, shares = np.random.default_rng(seeds), []
    for images in (1 / 3, 1.0, 3.0):
        values = simulated(rng, tables, seeds, np.zeros((5, 2)), np.ones(5))[..., 0]
        moved = rng.normal(0, images * (2 / seeds) ** 0.5, tables)
        mean = (values[:, 0] - values[:, 1]).mean(axis=1) + moved
        deviation, df = errors(values, 0, 1)
        half, covered = 1.96 * images * (2 / seeds) ** 0.5, 0
        for middle, spread in zip(mean.tolist(), deviation.tolist(), strict=True):
            reach = t_quantile(LEVEL, df) * spread / seeds**0.5
            of_seeds = Summary(seeds, middle, spread, middle - reach, middle + reach)
            low, high = two_levels(of_seeds, df, (middle - half, middle + half))
            covered += low <= 0 <= high
        shares.append(covered / tables)
    return max(shares, key=lambda share: abs(share - 0.95))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=10_000, help="tables of each kind")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ways: dict[str, Errors] = {"paired t": paired, "seeds as blocks": blocks}
    results = [measured(name, errors, seeds, options.tables) for seeds in SEEDS for name, errors in ways.items()]
    if options.json:
        print(json.dumps(results))
        return
    for result in results:
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in result.items() if isinstance(value, float))
        print(f"{result['seeds']} seeds, {result['name']}: {numbers} (target: false <= {TARGET})")


if __name__ == "__main__":
    main()
