"""`bench report`: a folder of results as one HTML page that needs nothing else, no network, no server.

Each table stands as the paper prints it, with the measured cells, the differences and the verdicts that `bench compare`
gives; then its figure, its loss curves where the store has them, what it cost, and what it was made with.
"""

import base64
import json
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
from benchsuite.report.gathered._runs import log, seed_of, trainings
from benchsuite.report.grids import meaning, provenance, section_grids
from benchsuite.report.html import SortableTable, rendered
from benchsuite.report.results import Results, load

TEMPLATE = "page.html"
CURVE_POINTS = 200
WIDTH, HEIGHT = 640, 200  # of the drawing area of loss curves, in its own units


@dataclass(frozen=True)
class Coverage:
    """One published table and how much of it was measured: by tier, what stands in the cell and where it leads."""

    heading: Heading
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Curve:
    """The loss of one training as an SVG path; `steps` its last iteration, `last` the loss there."""

    name: str
    path: str
    steps: int
    last: float


@dataclass(frozen=True)
class Part:
    """One results file on the page."""

    anchor: str
    results: Results
    provenance: str
    meaning: str
    tables: tuple[SortableTable, ...]
    figure: str
    curves: tuple[Curve, ...]
    highest: float
    costs: tuple[tuple[str, str, str], ...]
    environments: str
    verdicts: tuple[tuple[str, int], ...]


def write(folder: Path, file: Path, headings: Sequence[Heading], store: Store) -> int:
    """Write the page of all results files in `folder`; how many there were.

    InputError where there is none, one of them cannot be read, or the page cannot be written.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise InputError(f"{folder}: holds no results files; `bench run` writes them")
    compared = compare([load(path) for path in files])
    groups = {id(section): group for group in compared.groups for section in group}
    parts = [
        _part(path, section, groups[id(section)], store) for path, section in zip(files, compared.sections, strict=True)
    ]
    page = rendered(TEMPLATE, parts=parts, coverage=_coverage(headings, parts), tiers=TIERS, width=WIDTH, height=HEIGHT)
    with outgoing(file) as scratch:
        scratch.write_text(page, encoding="utf-8")
    return len(files)


def _part(file: Path, section: Section, group: Sequence[Section], store: Store) -> Part:
    """A results file, of a group of one table's."""
    results = section.results
    logs = dict(_logs(results, store))
    highest = max((value for values in logs.values() for _, value in values), default=0.0)
    return Part(
        anchor=file.stem.replace(".", "-"),
        results=results,
        provenance=provenance(results),
        meaning=meaning(results),
        tables=tuple(SortableTable.of(grid) for grid in section_grids(section, group)),
        figure=_embedded(file.with_suffix(".png")),
        curves=tuple(_curve(name, values, highest) for name, values in logs.items()),
        highest=highest,
        costs=tuple(_costs(results, store)),
        environments=json.dumps([results.environment, *results.earlier], indent=1, ensure_ascii=False),
        verdicts=_verdicts(section),
    )


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


def _logs(results: Results, store: Store) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    """Iteration and loss of each training that the store still has, called by row and seed."""
    seen: set[str] = set()
    for row in results.rows:
        for key in dict.fromkeys(key for job in row.keys for key in trainings(job, store)):
            if key not in seen:
                seen.add(key)
                lines = log(key, store)
                every = max(1, len(lines) // CURVE_POINTS)
                kept = [*lines[:-1:every], *lines[-1:]]
                yield f"{row.name}, seed {seed_of(key, store)}", [(line["iteration"], line["loss"]) for line in kept]


def _curve(name: str, values: Sequence[tuple[int, float]], highest: float) -> Curve:
    steps, last = values[-1]
    points = [f"{WIDTH * at / steps:.1f},{HEIGHT * (1 - value / (highest or 1.0)):.1f}" for at, value in values]
    return Curve(name, "M" + " L".join(points), steps, last)


def _costs(results: Results, store: Store) -> Iterator[tuple[str, str, str]]:
    """What each row's own jobs are, how long they took and where, as far as the store has them."""
    for row in results.rows:
        for key in row.keys:
            if store.artifact(key):
                record = store.record(key)
                seconds = record.get("seconds")
                took = clock(float(seconds)) if isinstance(seconds, (int, float)) else ""
                yield row.name, str(record.get("label", "")), took
            for training in trainings(key, store):
                record = store.record(training)
                seconds = record.get("seconds")
                yield row.name, str(record.get("label", "")), clock(float(str(seconds))) if seconds else ""


def _coverage(headings: Sequence[Heading], parts: Sequence[Part]) -> list[Coverage]:
    """Every published table there is a recipe for, and what of it stands on the page."""
    found = []
    for heading in headings:
        cells = []
        for tier in TIERS:
            its = [part for part in parts if part.results.recipe == heading.id and part.results.tier == tier]
            text = ", ".join(f"{_measured(part.results)} on {part.results.data.name}" for part in its)
            cells.append((text, its[0].anchor if its else ""))
        found.append(Coverage(heading, tuple(cells)))
    return found


def _measured(results: Results) -> str:
    ours = [row for row in results.rows if row.role == "run"]
    return f"{sum(bool(row.measured) for row in ours)} of {len(ours)} rows"
