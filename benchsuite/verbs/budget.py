"""What to run when there is no time for all: the rows and seeds that settle the most claims within a budget.

A unit is a row under a seed; units that the store holds cost nothing, jobs that rows share cost once. A claim is
settled with the power of its test: its margin as the paper prints it, the spread over seeds as measured in the table,
or else as told. Units are chosen greedily, the most expected claims an hour first. While running, a look is taken after
each seed: a claim whose p is at most `EARLY` shared over the table (J. Haybittle 1971; R. Peto et al. 1976) gets no
more seeds; the final verdicts stay those of `bench compare`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from benchsuite.engine.progress import clock
from benchsuite.engine.store import Store
from benchsuite.errors import InputError
from benchsuite.recipe.recipe import Claim, Recipe
from benchsuite.report.compare import compare
from benchsuite.report.results import Results, published_value
from benchsuite.report.statistics import LEVEL, degrees, power, variances
from benchsuite.verbs.collect import collect
from benchsuite.verbs.plan import Plan, PlannedRow
from benchsuite.verbs.run import Ran, RunOptions, run_plan
from benchsuite.verbs.times import Estimates

EARLY = 0.001
"""The p that ends a claim's seeds before the plan does, shared over the table's claims."""
SEEDS = tuple(range(10))
"""Under which rows may be run where the user names none."""
SPREAD = 1.0
"""Standard deviation of a row over seeds where nothing was measured, in the column's unit."""
LEAST = 0.005
"""Expected claims that a further choice must bring."""

Unit = tuple[str, int]
"""`recipe/row` and a seed."""


@dataclass(frozen=True)
class Stake:
    """A claim that may be settled: the two rows, how far the paper's numbers lie from its bound, and the standard
    deviation of one seed's difference. `why` it cannot be weighed, where it cannot."""

    recipe: Recipe
    claim: Claim
    rows: tuple[str, str]
    margin: float
    deviation: float
    within: float = math.inf
    why: str = ""

    @property
    def name(self) -> str:
        """The claim in words, after its table."""
        return _name(self.recipe.id, self.claim)

    def power(self, seeds: int, rows: int) -> float:
        """The chance of a verdict with so many seeds that both rows have, of a table of so many rows."""
        if self.why or seeds < 2 or not self.margin:  # on the bound only false alarms would settle it
            return 0.0
        level = LEVEL / len(self.recipe.claims)
        return power(self.margin, self.deviation, seeds, degrees(max(rows, 2), seeds), level, self.within)


@dataclass(frozen=True)
class Budget:
    """A choice of units. `seconds` is what there is, `estimate` what the choice takes; `unknown` are works whose time
    nobody knows and that were counted as none, `guessed` those timed by the pace of unlike jobs alone."""

    plan: Plan
    units: frozenset[Unit]
    done: frozenset[Unit]
    order: tuple[int, ...]
    stakes: tuple[Stake, ...]
    seconds: float
    estimate: float
    unknown: tuple[str, ...]
    guessed: tuple[str, ...] = ()
    short: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def chosen(self) -> Plan:
        """The plan of the chosen units, and of what is done anyway."""
        return _restricted(self.plan, self.units)

    def chances(self) -> list[tuple[Stake, float]]:
        """Each claim with the chance that it is settled."""
        return [(stake, _power(stake, self.units)) for stake in self.stakes]

    def form(self) -> dict[str, Any]:
        """JSON of `bench plan --budget`."""
        return {
            "seconds": self.seconds,
            "estimate": round(self.estimate, 1),
            "rows": {each.id: sorted(seed for row, seed in self.units if row == each.id) for each in self.plan.rows},
            "claims": [
                {"recipe": stake.recipe.id, "claim": stake.claim.sentence(), "chance": round(chance, 3),
                 "reason": self.reason(stake, chance)}
                for stake, chance in self.chances()
            ],
            "expected": round(sum(chance for _, chance in self.chances()), 2),
            "uncounted": list(self.unknown),
            "guessed": list(self.guessed),
        }  # fmt: skip

    def reason(self, stake: Stake, chance: float) -> str:
        """Why a claim gets no more than it gets; "" where it is likely settled."""
        if stake.why or chance >= 0.8:
            return stake.why
        most = stake.power(len(self.order), len(self.plan.rows))
        if most < max(2 * chance, 0.2):
            return f"too small a difference: {len(self.order)} seeds would settle it with a chance of {most:.0%}"
        left = max(0.0, self.seconds - self.estimate)
        return f"no time: the next seeds of its rows take {clock(self.short[stake.name])}, {clock(left)} are left"


def choose(plan: Plan, store: Store, seconds: float, times: Estimates, spread: float = SPREAD) -> Budget:
    """The units to run within so many seconds of jobs, one after the other. `plan` has every row and seed that may be
    chosen. InputError where nobody knows how long its trainings or evaluations take."""
    if plan.tier == "smoke":
        raise InputError("budget: numbers of the smoke tier settle nothing; use --tier mini or paper")
    needs, unknown, guessed = _needs(plan, store, times)
    done = frozenset(unit for unit, jobs in needs.items() if not jobs)
    order = _order(plan, done)
    stakes = tuple(_stakes(plan, store, spread))
    units, spent = set(done), dict[str, float]()
    short: dict[str, float] = {}
    while True:
        left = seconds - sum(spent.values())
        best: tuple[float, set[Unit]] = (0.0, set())
        for stake in stakes:
            for more in _offers(stake, units, order):
                cost = sum(_cost(needs, more, spent).values())
                if cost > left:
                    short[stake.name] = cost
                    break
                gain = sum(_power(each, units | more) - _power(each, units) for each in stakes)
                rate = gain / max(cost, 1e-9)
                if gain >= LEAST and rate > best[0]:
                    best = rate, more
        if not best[1]:
            break
        spent |= _cost(needs, best[1], spent)
        units |= best[1]
    for stake in stakes:
        offers = _offers(stake, units, order)
        short.setdefault(stake.name, sum(_cost(needs, offers[0], spent).values()) if offers else 0.0)
    return Budget(plan, frozenset(units), done, order, stakes, seconds, sum(spent.values()), unknown, guessed, short)


def run(budget: Budget, store: Store, options: RunOptions) -> tuple[Ran, list[str]]:
    """Run the choice seed by seed; what came of it, and a line on each look. After each seed claims that are settled
    early, and rows that no other claim needs, get no more; it ends where the next seed would go beyond the budget."""
    if not budget.units:
        raise InputError("budget: chooses nothing; `bench plan` with the same options says why")
    told: list[str] = []
    settled, took, ran = set[str](), list[float](), None
    order = [seed for seed in budget.order if any(unit[1] == seed for unit in budget.units)]
    units: set[Unit] = set()
    for seed in order:
        its = {unit for unit in budget.units if unit[1] == seed}
        wanted = its & budget.done | _wanted(its, budget.stakes, settled)
        if not wanted:
            told.append(f"seed {seed}: no claim is left that it could help to settle")
            continue
        next_ = sum(took) / len(took) if took and not wanted <= budget.done else 0.0
        if sum(took) + next_ > budget.seconds:
            told.append(f"stopped before seed {seed}: {clock(sum(took))} are spent, it takes about {clock(next_)} more")
            break
        units |= wanted
        ran = run_plan(_restricted(budget.plan, units), store, options)
        seconds = sum(result.seconds for result in ran.outcome.results.values() if result.status == "done")
        took += [seconds] if seconds else []
        now = _settled(list(ran.results.values()))
        told += [f"seed {seed}: {name}: settled early" for name in sorted(now - settled)]
        settled |= now
    assert ran is not None
    return ran, told


def _settled(results: Sequence[Results]) -> set[str]:
    """Claims whose p ends their seeds."""
    return {
        _name(section.results.recipe, claim.claim)
        for section in compare(results).sections
        for claim in section.claims
        if claim.p is not None and claim.p <= EARLY / len(section.claims)
    }


def _name(recipe: str, claim: Claim) -> str:
    return f"{recipe}: {claim.sentence()}"


def _wanted(units: set[Unit], stakes: Sequence[Stake], settled: set[str]) -> set[Unit]:
    """Those of a seed's units that a claim needs which is not settled yet: it needs both of its rows."""
    rows = {row for row, _ in units}
    needed = {
        row for stake in stakes if stake.name not in settled and rows.issuperset(stake.rows) for row in stake.rows
    }
    return {unit for unit in units if unit[0] in needed}


def _restricted(plan: Plan, units: Iterable[Unit]) -> Plan:
    """The plan of some of its units alone."""
    held = set(units)
    seeds = {each.id: tuple(seed for seed in each.seeds if (each.id, seed) in held) for each in plan.rows}
    return replace(plan, rows=tuple(replace(each, seeds=seeds[each.id]) for each in plan.rows if seeds[each.id]))


def _needs(
    plan: Plan, store: Store, times: Estimates
) -> tuple[dict[Unit, dict[str, float]], tuple[str, ...], tuple[str, ...]]:
    """What each unit needs that the store lacks, seconds by key; works of unknown time, counted as none; and works of
    guessed time."""
    missing: dict[str, float | None] = {}
    needs: dict[Unit, dict[str, float]] = {}
    works: dict[str, bool] = {}
    guessed: dict[str, None] = {}
    for planned in plan.rows:
        for seed in planned.seeds:
            jobs = _missing(planned, seed, store)
            for key, job in jobs.items():
                if key not in missing:
                    missing[key] = times.of(job)
                    if missing[key] is None:
                        works[job.work.lower()] = job.on_device
                    elif job.on_device and times.guessed(job):
                        guessed[job.work.lower()] = None
            needs[planned.id, seed] = {key: missing[key] or 0.0 for key in jobs}
    if heavy := [work for work, on_device in works.items() if on_device]:
        cure = " ".join(f"--takes {work}=20m" for work in heavy)
        raise InputError(f"budget: no job in {times.store.root} is like those that {', '.join(heavy)}; say {cure}")
    return needs, tuple(works), tuple(guessed)


def _missing(planned: PlannedRow, seed: int, store: Store) -> dict[str, Any]:
    """Jobs of a unit that the store lacks, by key; what only those would need that it holds is not asked for."""
    found: dict[str, Any] = {}
    asked = list(planned.jobs[seed].values())
    while asked:
        job = asked.pop()
        if job.key not in found and store.artifact(job.key) is None:
            found[job.key] = job
            asked += job.inputs.values()
    return found


def _order(plan: Plan, done: frozenset[Unit]) -> tuple[int, ...]:
    """Seeds, those that most rows have already first."""
    seeds = dict.fromkeys(seed for each in plan.rows for seed in each.seeds)
    return tuple(sorted(seeds, key=lambda seed: -sum(unit[1] == seed for unit in done)))


def _offers(stake: Stake, units: set[Unit], order: Sequence[int]) -> list[set[Unit]]:
    """Units to add for one, two, … more seeds that both rows have; the first of them makes two seeds."""
    if stake.why:
        return []
    lacking = [{(row, seed) for row in stake.rows} - units for seed in order]
    have = sum(not each for each in lacking)
    further = [each for each in lacking if each]
    return [set().union(*further[:count]) for count in range(max(1, 2 - have), len(further) + 1)]


def _cost(
    needs: Mapping[Unit, Mapping[str, float]], more: Iterable[Unit], spent: Mapping[str, float]
) -> dict[str, float]:
    """Seconds by key of what units need beyond what is chosen already."""
    return {key: seconds for unit in more for key, seconds in needs[unit].items() if key not in spent}


def _power(stake: Stake, units: Iterable[Unit]) -> float:
    held = set(units)
    seeds = {seed for row, seed in held if row == stake.rows[0]} & {seed for row, seed in held if row == stake.rows[1]}
    rows = {row for row, _ in held if row.startswith(f"{stake.recipe.id}/")}
    full = [row for row in rows if all((row, seed) in held for seed in seeds)]
    return stake.power(len(seeds), len(full))


def _stakes(plan: Plan, store: Store, spread: float) -> Iterable[Stake]:
    for recipe in {each.recipe.id: each.recipe for each in plan.rows}.values():
        results = collect(plan, recipe, store)
        planned = {each.row.id for each in plan.of(recipe)}
        for claim in recipe.claims:
            rows = (f"{recipe.id}/{claim.rows[0]}", f"{recipe.id}/{claim.rows[1]}")
            first, second = (published_value(recipe.row(row).published.get(claim.on)) for row in claim.rows)
            why = ""
            if not set(claim.rows) <= planned:
                why = "a row of it is not run"
            elif first is None or second is None:
                why = "the paper prints no difference to expect"
            lower = {column.id: column.better for column in recipe.columns}[claim.on] == "lower"
            margin = 0.0 if first is None or second is None else claim.margin(first - second, lower)
            within = math.inf if claim.within is None else claim.within
            yield Stake(recipe, claim, rows, margin, math.sqrt(2) * _spread(results, claim.on, spread), within, why)


def _spread(results: Results, column: str, otherwise: float) -> float:
    """Standard deviation of a row over seeds, of all rows that have the seeds of the row with most; `otherwise` where
    fewer than two rows have two seeds in common."""
    table = [values for row in results.rows if len(values := results.values(row.id, column)) > 1]
    if not table:
        return otherwise
    seeds = max(table, key=len).keys()
    # A row that is another's twin tells nothing new.
    rows = {tuple(values[seed] for seed in seeds) for values in table if seeds <= values.keys()}
    if len(rows) < 2:
        return otherwise
    return math.sqrt(float(variances(np.array(sorted(rows))).mean()))
