"""`bench report`: a folder of results as one HTML page that needs nothing else, no network, no server.

Each table stands as the paper prints it, with the measured cells, the differences and the verdicts that `bench compare`
gives; then its figure, its loss curves where the store has them, what it cost, and what it was made with.
"""

import base64
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchsuite.disk import outgoing
from benchsuite.engine.progress import clock
from benchsuite.engine.store import Store
from benchsuite.errors import InputError
from benchsuite.recipe.form import TIERS
from benchsuite.recipe.heading import Heading
from benchsuite.report.compare import Section, compare
from benchsuite.report.gathered._runs import inputs, log, seed_of, trainings
from benchsuite.report.grids import meaning, provenance, section_grids
from benchsuite.report.html import SortableTable, rendered
from benchsuite.report.results import Results, load

TEMPLATE = "page.html"
CURVE_POINTS = 200
SEED = re.compile(r" seed \d+")  # in a job's label
COLOURS = 6  # of loss curves, in the style
WIDTH, HEIGHT = 640, 200  # of the drawing area of loss curves, in its own units

Losses = list[tuple[int, float]]
"""Iterations, and the loss of each."""


@dataclass(frozen=True)
class Curve:
    """The loss of one training of a row as an SVG path; `steps` its last iteration, `last` the loss there."""

    seed: int
    path: str
    steps: int
    last: float


@dataclass(frozen=True)
class Curves:
    """The losses of a row's trainings, in one colour."""

    row: str
    colour: int
    each: tuple[Curve, ...]

    @property
    def ends(self) -> str:
        """How many trainings, and the losses that they end with."""
        many = f"{len(self.each)} trainings" if len(self.each) > 1 else f"seed {self.each[0].seed}"
        lasts = sorted(curve.last for curve in self.each)
        steps = ", ".join(map(str, sorted({curve.steps for curve in self.each})))
        span = " to ".join(dict.fromkeys(f"{value:.3g}" for value in (lasts[0], lasts[-1])))
        return f"{many}: {span} after {steps}"


@dataclass(frozen=True)
class Spent:
    """Finished jobs of a row that differ by their seed: how many, where, and how long they took together."""

    row: str
    job: str
    where: str
    count: int
    seconds: float

    @property
    def took(self) -> str:
        """For people."""
        return clock(self.seconds)


@dataclass(frozen=True)
class Part:
    """One results file on the page. `data` is what it was measured on, with the file's own name where that says more;
    `departures` are what differs from the paper, with the rows that it holds for."""

    anchor: str
    results: Results
    data: str
    provenance: str
    meaning: str
    tables: tuple[SortableTable, ...]
    departures: tuple[tuple[str, str], ...]
    figure: str
    curves: tuple[Curves, ...]
    highest: float
    costs: tuple[Spent, ...]
    environments: str
    verdicts: tuple[tuple[str, int], ...]

    @property
    def said(self) -> str:
        """The verdicts in words."""
        return ", ".join(f"{count} {verdict}" for verdict, count in self.verdicts)

    @property
    def measured(self) -> str:
        """How many rows were."""
        ours = [row for row in self.results.rows if row.role == "run"]
        return f"{sum(bool(row.measured) for row in ours)} of {len(ours)} rows"

    @property
    def total(self) -> str:
        """Time of all jobs, each once."""
        return clock(sum(cost.seconds for cost in self.costs))


@dataclass(frozen=True)
class Coverage:
    """One published table and what of it was measured, by tier."""

    heading: Heading
    cells: tuple[tuple[Part, ...], ...]


@dataclass(frozen=True)
class PaperCoverage:
    """A paper: of how many tables there are results, by tier, and how many claims of theirs some run settled."""

    id: str
    all: int
    tables: tuple[int, ...]
    claims: int
    settled: int


def write(folder: Path, file: Path, headings: Sequence[Heading], store: Store) -> int:
    """Write the page of all results files in `folder`; how many there were.

    InputError where there is none, one of them cannot be read, or the page cannot be written.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; --out names the folder of the results files, -o FILE the page")
    files = sorted(folder.glob("*.json"))
    if not files:
        raise InputError(f"{folder}: holds no results files; `bench run` writes them")
    compared = compare([load(path) for path in files])
    groups = {id(section): group for group in compared.groups for section in group}
    parts = [
        _part(path, section, groups[id(section)], store) for path, section in zip(files, compared.sections, strict=True)
    ]
    coverage = [_coverage(each, parts) for each in headings]
    page = rendered(
        TEMPLATE, parts=parts, coverage=coverage, papers=_papers(coverage), tiers=TIERS, width=WIDTH, height=HEIGHT
    )
    with outgoing(file) as scratch:
        scratch.write_text(page, encoding="utf-8")
    return len(files)


def _part(file: Path, section: Section, group: Sequence[Section], store: Store) -> Part:
    """A results file, of a group of one table's."""
    results = section.results
    curves, highest = _curves(results, store)
    return Part(
        anchor=file.stem.replace(".", "-"),
        results=results,
        data=_data(file, results),
        provenance=provenance(results),
        meaning=meaning(results),
        tables=tuple(SortableTable.of(grid) for grid in section_grids(section, group)),
        figure=_embedded(file.with_suffix(".png")),
        departures=_departures(results),
        curves=curves,
        highest=highest,
        costs=tuple(_costs(results, store)),
        environments=json.dumps([results.environment, *results.earlier], indent=1, ensure_ascii=False),
        verdicts=_verdicts(section),
    )


def _data(file: Path, results: Results) -> str:
    _, _, name = file.stem.removeprefix(f"{results.recipe}.").partition(".")
    told = not name or results.data.name.startswith(f"{name} ")
    return results.data.name if told else f"{results.data.name} ({name})"


def _verdicts(section: Section) -> tuple[tuple[str, int], ...]:
    counted: dict[str, int] = {}
    for claim in section.claims:
        counted[claim.verdict] = counted.get(claim.verdict, 0) + 1
    return tuple(counted.items())


def _embedded(picture: Path) -> str:
    """A PNG as an address that holds it; "" where there is none."""
    if not picture.is_file():
        return ""
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode("ascii")


def _departures(results: Results) -> tuple[tuple[str, str], ...]:
    """What differs from the paper, once, with the rows that it holds for."""
    rows = [row for row in results.rows if row.measured]
    texts = dict.fromkeys(text for row in rows for text in row.deviations)
    whose = {text: [row.name for row in rows if text in row.deviations] for text in texts}
    return tuple((text, "all rows" if len(its) == len(rows) else ", ".join(its)) for text, its in whose.items())


def _curves(results: Results, store: Store) -> tuple[tuple[Curves, ...], float]:
    """Losses of the trainings that the store still has, each once, and the highest of them."""
    seen: set[str] = set()
    logs: dict[int, list[tuple[int, Losses]]] = {}
    for place, row in enumerate(results.rows):
        for key in (key for job in row.keys for key in trainings(job, store)):
            if key not in seen:
                seen.add(key)
                logs.setdefault(place, []).append((seed_of(key, store), _losses(key, store)))
    highest = max((loss for its in logs.values() for _, values in its for _, loss in values), default=0.0)
    curves = (
        Curves(results.rows[place].name, place % COLOURS, tuple(_curve(*each, highest) for each in its))
        for place, its in logs.items()
    )
    return tuple(curves), highest


def _losses(key: str, store: Store) -> Losses:
    """Iteration and loss of a training, as many as a curve shows."""
    lines = log(key, store)
    every = max(1, len(lines) // CURVE_POINTS)
    return [(line["iteration"], line["loss"]) for line in [*lines[:-1:every], *lines[-1:]]]


def _curve(seed: int, values: Losses, highest: float) -> Curve:
    steps, last = values[-1]
    points = [f"{WIDTH * at / steps:.1f},{HEIGHT * (1 - value / (highest or 1.0)):.1f}" for at, value in values]
    return Curve(seed, "M" + " L".join(points), steps, last)


def _costs(results: Results, store: Store) -> Iterator[Spent]:
    """The jobs of each row as far as the store has them, each once: its trainings, then what they were made into."""
    seen: set[str] = set()
    for row in results.rows:
        spent: dict[tuple[str, str], list[float]] = {}
        for key in _chain(row.keys, store):
            record = store.record(key)
            seconds = record.get("seconds")
            if key not in seen and isinstance(seconds, (int, float)):
                seen.add(key)
                job = SEED.sub("", str(record.get("label", "")))
                spent.setdefault((job, str(record.get("device", ""))), []).append(float(seconds))
        for (job, where), took in spent.items():
            yield Spent(row.name, job, where, len(took), sum(took))


def _chain(keys: Sequence[str], store: Store) -> list[str]:
    """These jobs that the store has, and all they were made from, inputs first."""
    found: dict[str, None] = {}
    for key in keys:
        if key not in found and store.artifact(key):
            found |= dict.fromkeys(_chain(list(inputs(key, store).values()), store))
            found[key] = None
    return list(found)


def _coverage(heading: Heading, parts: Sequence[Part]) -> Coverage:
    """What of a published table stands on the page."""
    its = [part for part in parts if part.results.recipe == heading.id]
    return Coverage(heading, tuple(tuple(part for part in its if part.results.tier == tier) for tier in TIERS))


def _papers(coverage: Sequence[Coverage]) -> list[PaperCoverage]:
    found = []
    for paper in dict.fromkeys(each.heading.paper for each in coverage):
        its = [each for each in coverage if each.heading.paper == paper]
        tables = tuple(sum(bool(each.cells[tier]) for each in its) for tier in range(len(TIERS)))
        counts = [_settled(each) for each in its]
        found.append(PaperCoverage(paper, len(its), tables, *(sum(each) for each in zip(*counts, strict=True))))
    return found


def _settled(coverage: Coverage) -> tuple[int, int]:
    """Claims of a table that was run, and how many the run that settled most of them settled."""
    runs = [dict(part.verdicts) for cell in coverage.cells for part in cell]
    claims = max((sum(run.values()) for run in runs), default=0)
    return claims, max((sum(run.values()) - run.get("not settled", 0) for run in runs), default=0)
