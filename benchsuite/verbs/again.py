"""A capsule's numbers, counted again from its detections or logits by the code that is here."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError

from benchsuite.data import truth
from benchsuite.data.dataset import DetectionSet
from benchsuite.engine.job import Artifact, Context, Job
from benchsuite.errors import BenchError, InputError
from benchsuite.metrics.judged import Floats
from benchsuite.metrics.metric import Interval
from benchsuite.pipelines.detection import Resample
from benchsuite.pipelines.steps import read_draws
from benchsuite.report.results import Results
from benchsuite.settings import Json, canonical, find, flat_errors
from benchsuite.verbs.capsule import CURE, OWN, Capsule, Entry

METRICS = "metrics.json"
INTERVAL = ("difference", "low", "high")
OTHER = "use the benchsuite that it was made with"


@dataclass(frozen=True)
class Again:
    """What came of counting again. `unlike`: numbers that came out otherwise than recorded, with both values, and files
    of which other bytes came."""

    what: str
    key: str
    numbers: Mapping[str, Json]
    unlike: Mapping[str, tuple[Json, Json]]

    def form(self) -> dict[str, Json]:
        """JSON of `bench score CAPSULE`."""
        unlike = {name: {"recorded": old, "again": new} for name, (old, new) in self.unlike.items()}
        return {"what": self.what, "key": self.key, "identical": not unlike, "unlike": unlike, "numbers": self.numbers}


def count_again(capsule: Capsule) -> Iterator[Again]:
    """Do every job of a capsule again that needs no network and whose inputs are in it, beside what was recorded; then
    hold the results' values against the scores. InputError for what cannot be counted."""
    counted: dict[str, Mapping[str, Json]] = {}
    truths = _Truths(capsule)
    backed = {(entry.row, entry.seed) for entry in capsule.manifest.measured}
    for row in capsule.results.rows:
        for column in capsule.results.columns:
            for seed in capsule.results.values(row.id, column.id):
                if column.number is not None and (row.id, seed) not in backed:
                    raise InputError(
                        f"{capsule.file}: has no jobs of {row.id} seed {seed}, which its results have; {CURE}"
                    )
    for key in capsule.manifest.keys:
        if (found := _again(capsule, key, truths)) is not None:
            counted[key] = found.numbers
            yield found
    rows = {row.id for row in capsule.results.rows}
    for entry in capsule.manifest.measured:
        if entry.row not in rows:
            raise InputError(f"{capsule.file}: has jobs of row '{entry.row}', which its results have not; {CURE}")
        known = [counted.get(key) or capsule.job(key).metrics for key in entry.keys]
        yield from _results(capsule.results, entry, {name: value for each in known for name, value in each.items()})
    yield from _claims(capsule, counted)
    yield from _foreign(capsule)


@dataclass(frozen=True)
class _Truths:
    """The truths of a capsule, each opened once."""

    capsule: Capsule

    @cached_property
    def opened(self) -> dict[str, DetectionSet]:
        names = dict.fromkeys(self.capsule.manifest.truths.values())
        return {name: truth.opened(self.capsule.folder / OWN / Path(name).name) for name in names}


@dataclass(frozen=True)
class _Split:
    """Stands for a dataset that is not here."""

    truths: _Truths
    name: str

    def open(self) -> DetectionSet:
        return self.truths.opened[self.name]


@dataclass(frozen=True)
class _Finished:
    """Stands for a finished job whose network is not here."""

    data: _Split


def _again(capsule: Capsule, key: str, truths: _Truths) -> Again | None:
    """None for a job that needs a network, or is of another package: no module is imported because a file names it."""
    made_of = _inputs(capsule, key)
    if not made_of or not set(made_of.values()) <= set(capsule.manifest.keys):
        return None
    try:
        job = _job(capsule, key, truths)
        if job is None or job.on_device:
            return None
        with TemporaryDirectory() as folder:
            job.do(_context(Path(folder), capsule, made_of))
            return _held_against(capsule.job(key), Path(folder), _called(capsule, key))
    except BenchError as error:
        raise InputError(f"{capsule.file}: {key} cannot be counted again ({error})") from None
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, OSError, SafetensorError) as error:
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise InputError(f"{capsule.file}: {key} cannot be counted again ({told}); {CURE}") from None


def _inputs(capsule: Capsule, key: str) -> dict[str, str]:
    inputs = capsule.store.record(key).get("inputs")
    return {name: str(needed) for name, needed in inputs.items()} if isinstance(inputs, dict) else {}


def _job(capsule: Capsule, key: str, truths: _Truths) -> Job | None:
    """The job that left an artifact, as far back as the capsule goes; None for one of another package."""
    form = capsule.store.record(key).get("job")
    if not isinstance(form, dict) or any(":" in kind for kind in _kinds(form)):
        return None
    files, stand = capsule.manifest.truths, dict[str, Any]()
    for name, needed in _inputs(capsule, key).items():
        if needed in files:
            stand[name] = _Finished(_Split(truths, files[needed]))
        elif needed in capsule.manifest.keys:
            stand[name] = _job(capsule, needed, truths)
    return _recorded(find(Job, form.get("kind")), form, stand)  # type: ignore[type-abstract]  # looked up, not made


def _called(capsule: Capsule, key: str) -> str:
    """The rows that a job is of, and its label."""
    rows = dict.fromkeys(entry.row for entry in capsule.manifest.measured if key in entry.keys)
    return f"{', '.join(rows)} {capsule.store.record(key).get('label')}".strip()


def _context(folder: Path, capsule: Capsule, made_of: Mapping[str, str]) -> Context:
    return Context(folder, folder, folder, {name: capsule.job(needed) for name, needed in made_of.items()})


def _recorded(part: type[Job], form: Mapping[str, Any], stand: Mapping[str, Any]) -> Job:
    """The job that a record tells of, with others in the place of its inputs. InputError where this benchsuite has none
    of these settings and versions."""
    fields: dict[str, Any] = {name: each.annotation for name, each in part.model_fields.items() if name in form}
    try:
        settings = {name: TypeAdapter(kind).validate_python(_plain(form[name])) for name, kind in fields.items()}
    except ValidationError as error:
        raise InputError(f"{part.kind()} was of other settings: {flat_errors(error)[0][1]}; {OTHER}") from None
    now = {name: canonical(each) for name, each in settings.items()} | {"version": part.version}
    if now != {name: form[name] for name in fields} | {"version": form.get("version", 1)}:
        raise InputError(f"{part.kind()} was of another version; {OTHER}")
    return part.model_construct(**settings, **stand)


def _plain(form: Any) -> Any:
    """A canonical form as a recipe would write it."""
    if isinstance(form, Mapping):
        return {name: _plain(each) for name, each in form.items() if name not in ("version", "identity")}
    return [_plain(each) for each in form] if isinstance(form, list) else form


def _held_against(artifact: Artifact, folder: Path, what: str) -> Again:
    now = Artifact(artifact.key, folder).metrics
    old = artifact.metrics
    unlike: dict[str, tuple[Json, Json]] = {
        name: (old.get(name), now.get(name)) for name in {**old, **now} if old.get(name) != now.get(name)
    }
    for file in folder.iterdir():
        before = artifact.path(file.name)
        if file.name != METRICS and (not before.is_file() or before.read_bytes() != file.read_bytes()):
            unlike[file.name] = ("recorded", "other bytes")
    return Again(what, artifact.key, now, unlike)


def _kinds(form: Any) -> list[str]:
    """Every `kind` in a form."""
    if isinstance(form, dict):
        own = [form["kind"]] if isinstance(form.get("kind"), str) else []
        return own + [kind for each in form.values() for kind in _kinds(each)]
    return [kind for each in form for kind in _kinds(each)] if isinstance(form, list) else []


def _claims(capsule: Capsule, counted: Mapping[str, Mapping[str, Json]]) -> Iterator[Again]:
    """Intervals over images in the results file that no difference gives which was counted again."""
    draws = {
        tuple(found[name] for name in INTERVAL): key for key, found in counted.items() if set(INTERVAL) <= set(found)
    }
    for claim in capsule.results.claims:
        keys = {one.seed: draws.get((one.difference, one.low, one.high)) for one in claim.images}
        unlike: dict[str, tuple[Json, Json]] = {
            f"over images, seed {seed}": ("recorded", "no difference has it")
            for seed, key in keys.items()
            if key is None
        }
        if (told := claim.images_together) is not None:
            its = [keys.get(seed) for seed in told.seeds]
            values = [read_draws(capsule.job(key))["values"] for key in its if key is not None]
            again = Interval.of(np.mean(values, axis=0)) if values and len(values) == len(its) else None
            if again is None or (again.low, again.high) != (told.low, told.high):
                now = None if again is None else [again.low, again.high]
                unlike["over images, all seeds"] = ([told.low, told.high], now)
        if unlike:
            yield Again(f"the claim that {claim.sentence()}", "", {}, unlike)


def _foreign(capsule: Capsule) -> Iterator[Again]:
    """Differences of foreign rows in the results file that the draws of both rows, counted again, do not give."""
    numbers = {column.id: column.number for column in capsule.results.columns}
    draws = _draws(capsule)
    for row in capsule.results.rows:
        unlike: dict[str, tuple[Json, Json]] = {}
        theirs = [(row.id, file.seed) for file in row.foreign.files] if row.foreign else []
        for one in row.foreign.against if row.foreign else ():
            sides = [[(*which, numbers.get(one.on)) for which in side]
                     for side in (theirs, [(one.row, seed) for seed in one.seeds])]  # fmt: skip
            now = None
            if all(side and draws.keys() >= set(side) for side in sides):
                first, second = (np.mean([draws[which] for which in side], axis=0) for side in sides)
                again = Interval.of(first - second)
                now = None if again is None else [again.difference, again.low, again.high]
            if now != [one.difference, one.low, one.high]:
                unlike[f"{one.on} over {one.row}"] = ([one.difference, one.low, one.high], now)
        if unlike:
            yield Again(f"the foreign row {row.id}", "", {}, unlike)


def _draws(capsule: Capsule) -> dict[tuple[str, int, str | None], Floats]:
    """The draws of rows, seeds and numbers that are in the capsule."""
    judged = defaultdict[str, list[Entry]](list)  # twins are of one network's detections
    for entry in capsule.manifest.measured:
        for predicted in {_inputs(capsule, key).get("predict", "") for key in entry.keys}:
            judged[predicted].append(entry)
    found = dict[tuple[str, int, str | None], Floats]()
    for key in capsule.manifest.keys:
        form, needed = capsule.store.record(key).get("job"), _inputs(capsule, key).get("predict")
        if needed and isinstance(form, Mapping) and form.get("kind") == Resample.kind():
            values = read_draws(capsule.job(key))["values"]
            found |= {(entry.row, entry.seed, str(form.get("column"))): values for entry in judged[needed]}
    return found


def _results(results: Results, entry: Entry, known: Mapping[str, Json]) -> Iterator[Again]:
    """The results' values of a row under a seed that its jobs do not give."""
    unlike: dict[str, tuple[Json, Json]] = {}
    for column in results.columns:
        told = results.values(entry.row, column.id).get(entry.seed)
        if column.number is not None and told != known.get(column.number):
            unlike[column.id] = (told, known.get(column.number))
    if unlike:
        yield Again(f"{entry.row} seed {entry.seed} in the results file", "", {}, unlike)
