"""Student's t, Holm, verdict arithmetic and agreement, against known values and naive forms."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchsuite.report.statistics import (
    agreement,
    differences,
    holm,
    kendall,
    p_value,
    seeds_needed,
    summarise,
    t_quantile,
    t_tail,
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
    assert p_value(-0.1, 0.0, 3) == 0


@given(st.lists(values, min_size=2, max_size=6), values)
def test_p_and_interval_agree(found: list[float], bound: float) -> None:
    s = summarise(found)
    assert s is not None and s.error is not None and s.low is not None and s.high is not None
    excluded = not s.low <= bound <= s.high
    p = p_value(s.mean - bound, s.error, s.n)
    if abs(p - 0.05) > 1e-6 and abs(s.mean - bound) > 1e-9:
        assert excluded == (p < 0.05)


def test_holm_by_hand() -> None:
    # Sorted: .01 against .05/4, .012 against .05/3, .03 against .05/2 stops; .04 is not looked at any more.
    levels = holm([0.04, 0.01, 0.03, 0.012])
    assert levels == pytest.approx([0.0, 0.05 / 4, 0.05 / 2, 0.05 / 3])


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
