"""`--budget`: times from the store, the choice of rows and seeds, and looks between seeds, on invented stores."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from benchsuite.cli.app import app
from benchsuite.engine.job import Job
from benchsuite.engine.schedule import Outcome, Result
from benchsuite.engine.slots import Slots
from benchsuite.engine.store import Store
from benchsuite.engine.times import note, place
from benchsuite.errors import InputError
from benchsuite.recipe.loading import load_recipe
from benchsuite.report.results import Measured, load
from benchsuite.report.statistics import LEVEL, degrees, power, t_quantile
from benchsuite.verbs import budget
from benchsuite.verbs.budget import Stake, choose, run
from benchsuite.verbs.collect import collect
from benchsuite.verbs.plan import Plan, make_plan
from benchsuite.verbs.run import Ran, RunOptions
from benchsuite.verbs.times import Estimates, seconds_of, told_of

HOUR = 3600.0
TOLD = {"train": HOUR, "predict": 0.0}
BEST = ("har-table1/baseline", "har-table1/sa-1-2-5-2-1")


def table(seeds: tuple[int, ...] = tuple(range(6))) -> Plan:
    return make_plan([load_recipe("har-table1")], "mini", seeds=seeds, device="cpu")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.prepare()
    return made


def finish(store: Store, job: Job, seconds: float = 1.0, device: str = "cpu", **metrics: float) -> None:
    with store.lock(job.key), store.scratch(job.key) as folder:
        (folder / "metrics.json").write_text(json.dumps(metrics))
        store.publish(job.key, folder, {
            "label": job.label, "job": job.form, "inputs": {name: each.key for name, each in job.inputs.items()},
            "device": device, "seconds": seconds, "environment": {}, "threads": 1})  # fmt: skip


def remember(store: Store, job: Job, seconds: float) -> None:
    note(store.root, job, place("cpu", Slots.on("cpu").places[0].threads), seconds)


def measure(store: Store, plan: Plan, value: Callable[[str, int], float]) -> None:
    """Finish every row and seed of a plan with invented scores, APs as far apart as AP."""
    for row in plan.rows:
        for seed in row.seeds:
            for job in row.jobs[seed].values():
                if store.artifact(job.key) is None:
                    finish(store, job, AP=value(row.row.id, seed), APs=value(row.row.id, seed) / 2)


@pytest.mark.parametrize(
    ("text", "seconds"), [("24h", 86400), ("1h30m", 5400), ("90s", 90), ("1.5h", 5400), ("2d", 172800)]
)
def test_times_as_people_write_them(text: str, seconds: float) -> None:
    assert seconds_of("--budget", text) == seconds


@pytest.mark.parametrize("text", ["", "24", "h", "1x", "-3h", "3h later", "3 h"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(InputError, match="is no time; for instance 24h, 1h30m or 90s"):
        seconds_of("--budget", text)


def test_a_job_takes_as_long_as_its_like_or_as_told(store: Store) -> None:
    first, other = (table((0,)).rows[index].pipeline.fit(0) for index in (0, 1))  # type: ignore[attr-defined]
    assert Estimates.on(store, "cpu", {}).of(first) is None
    for seconds in (100, 120):
        remember(store, first, seconds)
    remember(store, other, 500)
    note(store.root, first, "cuda", 9000)
    assert Estimates.on(store, "cpu", {}).of(first) == 110
    assert Estimates.on(store, "cpu", {}).of(other) == 500
    steps = first.solver.iterations
    slow = make_plan([load_recipe("har-table1")], "mini", overrides=[f"solver.iterations={3 * steps}"], device="cpu")
    longer = slow.rows[0].pipeline.fit(0)  # type: ignore[attr-defined]
    assert Estimates.on(store, "cpu", {}).of(longer) == pytest.approx(3 * 120), "by the pace of its kind"
    assert [Estimates.on(store, "cpu", {}).guessed(job) for job in (first, longer)] == [False, True]
    assert not Estimates.on(store, "cpu", {"train": 1.0}).guessed(longer)
    assert Estimates.on(store, "cpu", told_of(["Train=20m"], {"train"})).of(first) == 1200


def test_times_with_other_threads_serve_where_there_are_no_better(store: Store) -> None:
    """A table that ran on two slots can be given a budget without."""
    job = table((0,)).rows[0].pipeline.fit(0)  # type: ignore[attr-defined]
    note(store.root, job, "cpu/64", 700)
    note(store.root, job, "cuda", 9000)
    assert Estimates.on(store, "cpu", {}).of(job) == 700
    remember(store, job, 100)
    assert Estimates.on(store, "cpu", {}).of(job) == 100


@pytest.mark.parametrize(("margin", "deviation", "seeds", "rows"), [(1.5, 1.0, 3, 5), (0.5, 1.0, 5, 2), (0, 1, 4, 3)])
def test_power_is_how_often_a_test_settles(margin: float, deviation: float, seeds: int, rows: int) -> None:
    """Of a t statistic made of a normal mean and a chi-squared variance of its own."""
    df, level = degrees(rows, seeds), LEVEL / 3
    drawn = np.random.default_rng(0)
    means = drawn.normal(margin, deviation / math.sqrt(seeds), 200_000)
    errors = deviation * np.sqrt(drawn.chisquare(df, 200_000) / df / seeds)
    often = float((np.abs(means / errors) > t_quantile(level, df)).mean())
    assert power(margin, deviation, seeds, df, level) == pytest.approx(often, abs=0.005)


def test_power_of_what_never_varies() -> None:
    assert power(0.1, 0.0, 3, 2, 0.05) == 1 and power(0, 0.0, 3, 2, 0.05) == 0
    assert power(0.1, 0.0, 2, 1, 0.05) == 0, "two equal differences settle nothing"
    assert power(1000, 0.001, 5, 4, 0.01) == 1


@pytest.mark.parametrize(
    ("margin", "deviation", "seeds", "df", "level"), [(1, 1, 3, 2.6, 0.05), (0.5, 1, 5, 4.6, 0.01)]
)
def test_power_is_of_students_noncentral_t(
    margin: float, deviation: float, seeds: int, df: float, level: float
) -> None:
    reach, shift = t_quantile(level, df), margin * seeds**0.5 / deviation
    expected = stats.nct.sf(reach, df, shift) + stats.nct.cdf(-reach, df, shift)
    assert power(margin, deviation, seeds, df, level) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("difference", [0.0, 0.2, -0.5])
@pytest.mark.parametrize("deviation", [0.1, 0.25, 0.5])
def test_power_of_a_bound_on_both_sides(difference: float, deviation: float) -> None:
    """Simulated: ten seeds, level 1 %, said to be within 0.3."""
    rng = np.random.default_rng(0)
    mean = difference + rng.normal(0, deviation / 10**0.5, 40_000)
    reach = t_quantile(0.01, 9) * deviation * np.sqrt(rng.chisquare(9, 40_000) / 90)
    settled = (np.abs(np.abs(mean) - 0.3) > reach).mean()
    found = power(0.3 - abs(difference), deviation, 10, 9, 0.01, within=0.3)
    assert found == pytest.approx(settled, abs=0.01)


def test_a_claim_on_its_bound_has_no_chance() -> None:
    """Only false alarms would settle it."""
    claim = load_recipe("har-table1").claims[0]
    assert Stake(load_recipe("har-table1"), claim, claim.rows, 0.0, 1.0).power(5, 5) == 0


def test_the_rows_of_the_largest_gains_come_first(store: Store) -> None:
    """Two claims are about the baseline and 1-2-5-2-1, and the paper's gains in them are the largest."""
    found = choose(table(), store, 5 * HOUR, Estimates.on(store, "cpu", TOLD), spread=0.3)
    assert {row for row, _ in found.units} == set(BEST) and len(found.units) == 4
    assert found.estimate == 4 * HOUR
    assert all((BEST[0], seed) in found.units for row, seed in found.units), "seeds are pairs"
    chances = {stake.claim.sentence(): chance for stake, chance in found.chances()}
    likely = [name for name, chance in chances.items() if chance > 0]
    assert likely == [f"sa-1-2-5-2-1 beats baseline on {column}" for column in ("AP", "APs")]


def test_more_time_settles_no_less_and_is_never_exceeded(store: Store) -> None:
    before = 0.0
    for hours in (0.5, 3, 4, 9, 15, 30):
        found = choose(table(), store, hours * HOUR, Estimates.on(store, "cpu", TOLD))
        expected = found.form()["expected"]
        assert found.estimate <= hours * HOUR and expected >= before
        assert found.estimate == HOUR * len(found.units)
        before = expected
    assert before > 0.8


def test_what_is_done_costs_nothing_and_tells_the_spread(store: Store) -> None:
    plan = table()
    done = make_plan([load_recipe("har-table1")], "mini", seeds=(4, 5), device="cpu")
    noise = np.random.default_rng(0).normal(0, 0.01, (5, 10))
    measure(store, done, lambda row, seed: 30 + 5 * seed + noise[[r.row.id for r in plan.rows].index(row), seed])
    found = choose(plan, store, 0.0, Estimates.on(store, "cpu", TOLD))
    assert found.estimate == 0 and found.units == found.done and len(found.done) == 10
    assert all(stake.deviation < 0.1 for stake in found.stakes), (
        "a seed moves all rows alike, and that is not the spread"
    )
    assert found.chances()[0][1] > 0.9


def test_a_spread_of_zero_is_one_and_twins_tell_nothing_new() -> None:
    stored = load(Path(__file__).parent / "fixtures" / "results" / "har-table1.mini.schema1.json")

    def spread(**values: list[float]) -> float:
        rows = [stored.rows[0].model_copy(update={"id": row, "measured": {"AP": Measured.of(its)}})
                for row, its in values.items()]  # fmt: skip
        return budget._spread(stored.model_copy(update={"rows": tuple(rows)}), "AP", 1.0)

    assert spread(a=[30, 31, 30], b=[31, 32, 31]) == 0
    assert spread(a=[30, 31, 30]) == 1
    pair = spread(a=[30, 31, 30], b=[31.0, 32.5, 30.7])
    assert 0 < pair == spread(a=[30, 31, 30], b=[31.0, 32.5, 30.7], c=[31.0, 32.5, 30.7])


def test_what_is_left_out_says_why(store: Store) -> None:
    found = choose(table(), store, 4 * HOUR, Estimates.on(store, "cpu", TOLD), spread=0.5)
    why = {each["claim"]: each["reason"] for each in found.form()["claims"]}
    assert why["sa-1-1-1 beats baseline on AP"].startswith("no time: the next seeds of its rows take 2:00:00")
    assert why["sa-5-2-1 beats sa-1-2-5 on AP"].startswith("too small a difference: 6 seeds would settle it with")


def test_times_nobody_knows_are_asked_for(store: Store) -> None:
    with pytest.raises(InputError, match=r"is like those that \w+, \w+; say --takes \w+=20m --takes \w+=20m"):
        choose(table(), store, HOUR, Estimates.on(store, "cpu", {}))
    assert "score" in choose(table(), store, HOUR, Estimates.on(store, "cpu", TOLD)).unknown
    smoke = make_plan([load_recipe("har-table1")], "smoke", seeds=(0, 1), device="cpu")
    with pytest.raises(InputError, match="smoke tier settle nothing"):
        choose(smoke, store, HOUR, Estimates.on(store, "cpu", TOLD))


def faked(store: Store, value: Callable[[str, int], float], asked: list[Plan], seconds: float) -> Any:
    """`run_plan` without training: invented scores, and jobs that take so long."""

    def run_plan(plan: Plan, store: Store, options: RunOptions) -> Ran:
        asked.append(plan)
        new = [job for each in plan.rows for last in each.jobs.values() for job in last.values()
               if store.artifact(job.key) is None]  # fmt: skip
        measure(store, plan, value)
        recipe = plan.rows[0].recipe
        outcome = Outcome({job.key: Result(job, "done", seconds) for job in new})
        return Ran({recipe.id: collect(plan, recipe, store)}, {}, outcome)

    return run_plan


def test_a_claim_that_is_settled_early_gets_no_more_seeds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the two claims between rows that are alike: their rows go on, the others stop."""
    noise = np.random.default_rng(1).normal(0, 0.01, (6, 5))
    rows = [row.row.id for row in table().rows]
    alike = {"sa-1-2-5": 1.0, "sa-5-2-1": 1.0}

    def value(row: str, seed: int) -> float:
        return 30 + alike.get(row, 20.0 * rows.index(row)) + noise[seed, rows.index(row)] * (50 if row in alike else 1)

    asked: list[Plan] = []
    monkeypatch.setattr(budget, "run_plan", faked(store, value, asked, 1.0))
    chosen = choose(table(), store, 100 * HOUR, Estimates.on(store, "cpu", TOLD), spread=0.1)
    ran, told = run(chosen, store, RunOptions())
    assert ran.results["har-table1"].seeds[:2] == chosen.order[:2]
    early = [line for line in told if line.endswith("settled early")]
    assert any("sa-1-2-5-2-1 beats baseline on APs" in line for line in early)
    seeds = {each.row.id: len(each.seeds) for each in asked[-1].rows}
    assert seeds["baseline"] < seeds["sa-5-2-1"] == max(seeds.values())


def test_all_settled_ends_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row.row.id for row in table().rows]
    asked: list[Plan] = []
    value = lambda row, seed: 30 + 20.0 * rows.index(row) + 0.001 * seed * rows.index(row) ** 2  # noqa: E731
    monkeypatch.setattr(budget, "run_plan", faked(store, value, asked, 1.0))
    _, told = run(choose(table(), store, 100 * HOUR, Estimates.on(store, "cpu", TOLD)), store, RunOptions())
    assert len(asked) < 6 and told[-1].endswith("no claim is left that it could help to settle")


def test_it_ends_where_the_next_seed_would_go_beyond(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Plan] = []
    noise = np.random.default_rng(1).normal(0, 5, (6, 5))
    rows = [row.row.id for row in table().rows]
    monkeypatch.setattr(budget, "run_plan", faked(store, lambda r, s: 30 + noise[s, rows.index(r)], asked, HOUR))
    chosen = choose(table(), store, 20 * HOUR, Estimates.on(store, "cpu", TOLD))
    _, told = run(chosen, store, RunOptions())
    assert len(asked) < len({seed for _, seed in chosen.units}) and told[-1].startswith("stopped before seed")


def test_commands(store: Store) -> None:
    plan = table((0,))
    remember(store, plan.rows[0].pipeline.fit(7), HOUR)  # type: ignore[attr-defined]
    words = ["plan", "har-table1", "--tier", "mini", "--device", "cpu", "--store", str(store.root), "--budget", "8h",
             "--takes", "predict=0s"]  # fmt: skip
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.exception
    form = json.loads(result.output)
    assert form["budget"]["estimate"] <= 8 * HOUR and form["budget"]["expected"] > 0
    assert sum(job["work"] == "Train" for job in form["jobs"]) == sum(map(len, form["budget"]["rows"].values()))
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0 and "claims expected to be settled" in result.output
    assert form["budget"]["guessed"] == ["train"], "of another row"
    assert "times guessed from unlike jobs" in result.output and "--takes train=20m" in result.output
    result = CliRunner().invoke(app, ["run", "har-table1", "--tier", "mini", "--budget", "8h", "--executor", "slurm"])
    assert isinstance(result.exception, InputError) and "--budget" in str(result.exception)
