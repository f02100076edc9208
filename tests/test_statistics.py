"""Student's t, Holm, verdict arithmetic and agreement, against known values and naive forms."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchsuite.metrics.metric import Interval, drawn_weights
from benchsuite.report.statistics import (
    PRIOR,
    Summary,
    agreement,
    contrast,
    degrees,
    differences,
    holm,
    kendall,
    p_value,
    seeds_needed,
    summarise,
    t_quantile,
    t_tail,
    two_levels,
    unpaired,
    variances,
)

values = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3))


@pytest.mark.parametrize(("df", "expected"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042)])
def test_quantiles_of_the_tables(df: int, expected: float) -> None:
    assert t_quantile(0.05, df) == pytest.approx(expected, abs=5e-4)


def test_quantile_of_another_level() -> None:
    assert t_quantile(0.01, 7) == pytest.approx(3.499, abs=5e-4)


@given(st.floats(0, 50), st.integers(1, 40))
def test_tail_is_the_integral_of_the_density(t: float, df: int) -> None:
    constant = math.gamma((df + 1) / 2) / math.sqrt(df * math.pi) / math.gamma(df / 2)
    x = np.linspace(0, t, 20001)
    inside = 2 * np.trapezoid(constant * (1 + x**2 / df) ** (-(df + 1) / 2), x)
    assert t_tail(t, df) == pytest.approx(1 - inside, abs=1e-4)


@given(st.floats(1e-6, 0.999), st.integers(1, 60))
def test_quantile_inverts_tail(level: float, df: int) -> None:
    assert t_tail(t_quantile(level, df), df) == pytest.approx(level, rel=1e-6)


def test_interval_covers_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(3, 2, (4000, 3))
    covered = [s.low <= 3 <= s.high for row in draws if (s := summarise(row.tolist())) and s.low is not None and s.high]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)


def test_summary_of_none_one_and_equal_values() -> None:
    assert summarise([]) is None
    one = summarise([3.0])
    assert one is not None and one.mean == 3 and one.low is None and one.error is None
    equal = summarise([0.1, 0.1, 0.1])
    assert equal is not None and equal.deviation == 0 and equal.low == equal.high == equal.mean


def test_differences_are_paired_by_seed() -> None:
    assert differences({0: 5.0, 1: 6.0, 3: 1.0}, {1: 1.0, 0: 2.0, 2: 9.0}) == {0: 3.0, 1: 5.0}


def test_p_value_without_spread() -> None:
    assert p_value(0.0, 0.0, 3) == 1
    assert p_value(-0.1, 0.0, 3) == 0 and p_value(-0.1, 0.0, 1.6) == 1


@given(st.lists(values, min_size=2, max_size=6), values)
def test_p_and_interval_agree(found: list[float], bound: float) -> None:
    s = summarise(found)
    assert s is not None and s.error is not None and s.low is not None and s.high is not None
    excluded = not s.low <= bound <= s.high
    p = p_value(s.mean - bound, s.error, s.n - 1)
    if s.error == 0 and s.n == 2:
        assert p == 1, "two seeds alike are no evidence"
    elif abs(p - 0.05) > 1e-6 and abs(s.mean - bound) > 1e-9:
        assert excluded == (p < 0.05)


@given(st.lists(st.lists(values, min_size=3, max_size=3), min_size=2, max_size=2))
def test_of_two_rows_it_is_the_paired_t(rows: list[list[float]]) -> None:
    first, second = (dict(enumerate(row)) for row in rows)
    found, paired = (
        contrast({"a": first, "b": second}, "a", "b"),
        summarise([x - y for x, y in zip(*rows, strict=True)]),
    )
    assert found is not None and paired is not None and paired.deviation is not None
    assert found[1] == 2
    assert found[0].mean == pytest.approx(paired.mean)
    assert found[0].deviation == pytest.approx(paired.deviation, abs=1e-6)


def naive_variances(values: np.ndarray) -> np.ndarray:
    """Grubbs' estimates from the variances of all pairs of rows: var(a - b) = v_a + v_b, solved by least squares."""
    rows, seeds = values.shape
    pairs = list(combinations(range(rows), 2))
    system = np.array([[row in pair for row in range(rows)] for pair in pairs], float)
    own = np.linalg.lstsq(system, [np.var(values[a] - values[b], ddof=1) for a, b in pairs], rcond=None)[0]
    common = own.mean()
    return (np.maximum(own, 0) * (seeds - 1) + PRIOR * common) / (seeds - 1 + PRIOR)


@given(st.integers(0, 2**32), st.integers(3, 7), st.integers(2, 6))
def test_variances_of_rows_from_those_of_their_differences(seed: int, rows: int, seeds: int) -> None:
    found = np.random.default_rng(seed).normal(0, 1, (rows, seeds))
    assert variances(found) == pytest.approx(naive_variances(found))


@given(st.integers(0, 2**32))
def test_what_moves_all_rows_alike_is_no_spread(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = rng.normal(0, 1, (5, 3))
    assert variances(found + rng.normal(0, 30, 3) + rng.normal(0, 30, (5, 1))) == pytest.approx(variances(found))


def test_a_noisy_row_is_told_from_the_others() -> None:
    rng = np.random.default_rng(0)
    spread = np.array([2.4, 1, 1, 1, 1])[:, None]
    found = np.mean([variances(spread * rng.normal(0, 1, (5, 3))) for _ in range(4000)], axis=0)
    assert found[0] > 1.5 * found[1:].max()
    assert found[1:] == pytest.approx(np.full(4, found[1:].mean()), rel=0.1)


def test_other_rows_add_degrees() -> None:
    assert [degrees(2, 3), degrees(3, 2), degrees(5, 3), degrees(5, 5)] == [2, 1.5, 2.5, 4.5]


def test_a_contrast_takes_the_seeds_of_both_and_the_rows_that_have_them() -> None:
    table = {"a": {0: 1.0, 1: 2.0, 2: 4.0}, "b": {0: 0.0, 1: 0.5, 3: 9.0}, "c": {0: 5.0, 1: 7.0}, "d": {0: 3.0}}
    found = contrast(table, "a", "b")
    assert found is not None
    summary, df = found
    assert (summary.n, summary.mean, df) == (2, 1.25, 1.5)
    expected = variances(np.array([[1.0, 2.0], [0.0, 0.5], [5.0, 7.0]]))
    assert summary.deviation == pytest.approx(math.sqrt(expected[0] + expected[1]))
    assert contrast(table | {"e": table["c"]}, "a", "b") == found, "a twin tells nothing new"
    assert contrast(table, "a", "d") == (Summary(1, -2.0), 0.0)
    assert contrast({"a": {0: 1.0}, "b": {1: 1.0}}, "a", "b") is None


def test_of_each_other_training_one_row_speaks() -> None:
    rng = np.random.default_rng(0)
    table = {row: dict(enumerate(rng.normal(size=4).tolist())) for row in "abcde"}
    trained = {"a": "x", "b": "x", "c": "y", "d": "y"}
    pair = contrast(table, "a", "b", trained)
    assert pair == contrast({row: table[row] for row in "ab"}, "a", "b")
    assert contrast(table, "b", "d", trained) == contrast({row: table[row] for row in "bde"}, "b", "d")
    assert contrast(table, "a", "e", trained) == contrast({row: table[row] for row in "ace"}, "a", "e")


def test_equal_differences_have_no_spread() -> None:
    rows = {"a": {0: 30.1, 1: 31.2, 2: 29.7}, "b": {0: 31.1, 1: 32.2, 2: 30.7}, "c": {0: 29.1, 1: 30.2, 2: 28.7}}
    found = contrast(rows, "b", "a")
    assert found is not None and found[0].deviation == 0 and found[0].low == found[0].high == found[0].mean
    same = contrast({"a": rows["a"], "b": rows["a"], "c": rows["c"]}, "a", "b")
    assert same is not None and (same[0].mean, same[0].deviation) == (0, 0)


@pytest.mark.parametrize("noisy", [None, 0, 4])
def test_intervals_of_a_table_cover_as_often_as_they_say(noisy: int | None) -> None:
    """Of all differences of five rows and three seeds together; `benchmarks/claims.py` has the long run."""
    rng = np.random.default_rng(1)
    spread = np.array([2.4 if row == noisy else 1.0 for row in range(5)])[:, None]
    covered = []
    for _ in range(400):
        found = spread * rng.normal(0, 1, (5, 3)) + rng.normal(0, 5, 3)
        table = {str(row): dict(enumerate(each)) for row, each in enumerate(found.tolist())}
        for a, b in combinations(table, 2):
            tested = contrast(table, a, b)
            assert tested is not None and tested[0].low is not None and tested[0].high is not None
            covered.append(tested[0].low <= 0 <= tested[0].high)
    assert 0.93 <= np.mean(covered) <= 0.985


def test_seeds_and_images_add_up() -> None:
    seeds = summarise([0.2, 1.0, 1.8])
    assert seeds is not None and seeds.low is not None and seeds.high is not None and seeds.error is not None
    assert two_levels(seeds, 2, (1.0, 1.0)) == pytest.approx((seeds.low, seeds.high))
    low, high = two_levels(seeds, 2, (1 - 3.92 * seeds.error, 1.0))
    assert high == pytest.approx(seeds.high), "side by side"
    assert low == pytest.approx(1 - t_quantile(0.05, 2 * 5**2) * seeds.error * math.sqrt(5), abs=1e-4)
    assert two_levels(seeds, 2, (1 - 1.96 * seeds.error, 1.0)) == (seeds.low, seeds.high), "not narrower than of seeds"
    wide = two_levels(seeds, 2, (-99.0, 101.0))
    assert wide == pytest.approx((-99, 101), rel=1e-3)
    same = summarise([1.0, 1.0])
    assert same is not None and two_levels(same, 1, (0.5, 1.5)) == pytest.approx((0.5, 1.5))


@pytest.mark.parametrize("images", [0.3, 1.0, 3.0])
def test_intervals_of_seeds_and_images_cover_both(images: float) -> None:
    """Differences of five rows whose seeds have spread 1, on images whose draw moves a difference by `images`."""
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(600):
        moved = images * rng.normal(size=5) / math.sqrt(2)
        found = rng.normal(0, 1, (5, 3)) + rng.normal(0, 5, 3) + moved[:, None]
        tested = contrast({str(row): dict(enumerate(each)) for row, each in enumerate(found.tolist())}, "0", "1")
        assert tested is not None
        mean = tested[0].mean
        low, high = two_levels(*tested, (mean - 1.96 * images, mean + 1.96 * images))
        covered.append(low <= 0 <= high)
    assert np.mean(covered) == pytest.approx(0.955, abs=0.025)


@pytest.mark.parametrize(("first", "second"), [([1.0, 2.0, 4.0], [0.5, 0.7]), ([3.0, 1.0], [5.0, 9.0, 7.0, 8.0])])
def test_unpaired_means_are_welchs(first: list[float], second: list[float]) -> None:
    expected = stats.ttest_ind(first, second, equal_var=False)
    low, high = expected.confidence_interval(0.95)
    found = unpaired(first, second)
    assert found is not None
    assert found[1] == pytest.approx(expected.df)
    assert (found[0].low, found[0].high) == pytest.approx((low, high))
    assert found[0].error == pytest.approx((high - found[0].mean) / stats.t.ppf(0.975, expected.df))


def test_unpaired_means_of_few() -> None:
    one = unpaired([1.0], [2.0, 3.0])
    assert one is not None and one[0].mean == -1.5 and one[0].error is None
    assert unpaired([], [1.0]) is None
    same = unpaired([1.0, 1.0], [2.0, 2.0])
    assert same is not None and (same[0].low, same[0].high) == (-1, -1)


@pytest.mark.parametrize(("moved", "seeded"), [(0.1, 0.3), (0.5, 0.2), (1.0, 0.05)])
def test_intervals_cover_where_images_are_really_drawn(moved: float, seeded: float) -> None:
    """Top-1 of five rows of equal skill on 200 images under three seeds: rows are moved on single images by `moved`, as
    a whole by `seeded` under each seed. Intervals over seeds or over images alone cover in 47 to 97 %."""
    rng, weights, covered = np.random.default_rng(0), drawn_weights(200) / 200, []
    for _ in range(600):
        skill = rng.normal(size=(1, 200, 1)) + moved * rng.normal(size=(5, 200, 1))
        skill = skill + seeded * rng.normal(size=(5, 1, 3)) + 0.3 * rng.normal(size=(1, 1, 3))
        right = skill + rng.normal(size=(5, 200, 3)) > 0
        first, second = (100 * right[row].T @ weights for row in (0, 1))
        table = {str(row): dict(enumerate(100 * right[row].mean(axis=0))) for row in range(5)}
        tested, together = contrast(table, "0", "1"), Interval.of((first - second).mean(axis=0))
        each = [(one.difference, one.low, one.high) for one in map(Interval.of, first - second) if one]
        assert tested is not None and together is not None
        low, high = two_levels(*tested, (together.low, together.high), each)
        covered.append(low <= 0 <= high)
    assert np.mean(covered) == pytest.approx(0.965, abs=0.02)


def test_holm_by_hand() -> None:
    # Sorted: .01 against .05/4, .012 against .05/3, .03 against .05/2 stops; .04 would have had to pass that as well.
    levels = holm([0.04, 0.01, 0.03, 0.012])
    assert levels == pytest.approx([0.05 / 2, 0.05 / 4, 0.05 / 2, 0.05 / 3])


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=8))
def test_holm_against_its_definition(p_values: list[float | None]) -> None:
    """A test passes if it and all of smaller p are below 5 % over the number of tests that are left."""
    order = sorted(p for p in p_values if p is not None)
    passing = 0
    while passing < len(order) and order[passing] <= 0.05 / (len(p_values) - passing):
        passing += 1
    levels = holm(p_values)
    assert sum(p is not None and p <= level for p, level in zip(p_values, levels, strict=True)) == passing
    assert all(level >= 0.05 / len(p_values) for level in levels)


def test_holm_counts_what_could_not_be_tested() -> None:
    assert holm([None, 0.02]) == pytest.approx([0.025, 0.025])
    assert holm([]) == []


def test_seeds_needed_settles_and_fewer_do_not() -> None:
    n = seeds_needed(0.5, 0.6, 0.05)
    assert n is not None
    for seeds, enough in ((n, True), (n - 1, False)):
        assert (t_quantile(0.05, seeds - 1) * 0.6 / math.sqrt(seeds) < 0.5) == enough
    assert seeds_needed(0.001, 5, 0.05) is None


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=8))
def test_kendall_against_its_definition(pairs: list[tuple[int, int]]) -> None:
    first, second = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    concordant = discordant = ties_first = ties_second = 0
    for i, j in combinations(range(len(pairs)), 2):
        a, b = first[i] - first[j], second[i] - second[j]
        concordant += a * b > 0
        discordant += a * b < 0
        ties_first += a == 0
        ties_second += b == 0
    total = len(pairs) * (len(pairs) - 1) / 2
    below = math.sqrt((total - ties_first) * (total - ties_second))
    tau = kendall(first, second)
    assert tau is None if below == 0 else tau == pytest.approx((concordant - discordant) / below)


def test_agreement_leaves_out_what_the_paper_prints_as_equal() -> None:
    found = agreement([0.4, -0.2, 0.3], [1.3, 1.1, 36.4 - 36.4])
    assert found is not None
    assert (found.rows, found.signs, found.signed) == (3, 1, 2)
    assert agreement([1.0], [1.0]) is None
