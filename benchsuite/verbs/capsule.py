"""A capsule: a table's results with all that they can be counted from again, in one archive of the store's form. No
images, no weights, no network.

KEY/…                   finished jobs as the store has them: detections or logits, scores, costs, times, differences
capsule/capsule.json    what is in it, with size and SHA-256 of every file (`Manifest`)
capsule/results.json    the results file: raw values of every seed, environments
capsule/truth-N.safetensors  the truth of a split (`data.truth`)
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ConfigDict, ValidationError

from benchsuite.data import truth
from benchsuite.data.dataset import DetectionData
from benchsuite.disk import placed, read_json
from benchsuite.engine.job import Artifact, Job
from benchsuite.engine.store import Store, remove
from benchsuite.errors import InputError
from benchsuite.metrics.metric import Metric
from benchsuite.pipelines.detection import Detection, Score
from benchsuite.pipelines.steps import Training
from benchsuite.recipe.recipe import Recipe
from benchsuite.report.results import Key, Results, RowRecord, Tier, load
from benchsuite.report.saving import require_place, save
from benchsuite.settings import Json, Strict, canonical, content_key, walk
from benchsuite.verbs.archive import reading, write
from benchsuite.verbs.collect import collect
from benchsuite.verbs.foreign import foreign_jobs, resamples
from benchsuite.verbs.plan import Plan
from benchsuite.verbs.store import entries, take

SCHEMA = 1
LARGEST = 4 << 30
"""Bytes that a capsule may unpack to: forty times what a table of COCO has."""
OWN, MANIFEST, RESULTS = "capsule", "capsule.json", "results.json"
CURE = "take another copy of it"


class Entry(Strict):
    """The finished jobs that measured a row under one seed."""

    row: str
    seed: int
    keys: tuple[Key, ...]


class Manifest(Strict):
    """What is in a capsule.

    name         part of the results file's name, as `bench run --name`
    truths       by the key of a job that found something in a split, the file of the split's truth
    files        size and SHA-256 by name, of all files but this one
    """

    model_config = ConfigDict(strict=False)

    format: int
    recipe: str
    tier: Tier
    name: str
    measured: tuple[Entry, ...]
    truths: Mapping[Key, str]
    files: Mapping[str, tuple[int, str]]

    @property
    def keys(self) -> list[str]:
        """Of all jobs in the capsule."""
        return sorted({name.partition("/")[0] for name in self.files} - {OWN})


@dataclass(frozen=True)
class Packed:
    """What was packed, and what could not be: rows and seeds of which the store lacks a job."""

    file: Path
    jobs: int
    bytes: int
    absent: tuple[str, ...]

    def form(self) -> dict[str, Json]:
        """JSON of `bench pack`."""
        return {"file": self.file.as_posix(), "jobs": self.jobs, "bytes": self.bytes, "absent": list(self.absent)}


def pack(plan: Plan, recipe: Recipe, store: Store, file: Path, name: str = "", known: Results | None = None) -> Packed:
    """Write a capsule of what the store holds of one recipe's planned rows and seeds, and of the foreign rows of its
    `known` results. InputError where that is nothing, a job is not intact, the data are not here, or the file cannot be
    written."""
    measured, absent, jobs = [], [], dict[str, Job]()
    for planned in plan.of(recipe):
        for seed, last in planned.jobs.items():
            its = [job for job in last.values() if not job.product]
            if needed := _kept(its, store):
                measured.append(Entry(row=planned.row.id, seed=seed, keys=tuple(job.key for job in its)))
                jobs |= needed
            else:
                absent.append(f"{planned.row.id} seed {seed}")
    if not measured:
        raise InputError(
            f"{recipe.id}: the store {store.root} holds nothing of it at tier {plan.tier} on this data, with these "
            f"settings; first: bench run {recipe.called} --tier {plan.tier}"
        )
    results = collect(plan, recipe, store)
    seeds = known.seeds if known else ()
    for row in known.rows if known else ():
        if row.foreign:
            scores = _foreign(row, plan, store) if seeds == results.seeds else {}
            against = {one: _kept(resamples(one, row, plan), store) for one in row.foreign.against if scores}
            backed = row.foreign.model_copy(update={"against": tuple(one for one, draws in against.items() if draws)})
            kept = [row.model_copy(update={"foreign": backed})] if scores else []
            results = results.model_copy(update={"rows": (*results.rows, *kept)})
            measured += [Entry(row=row.id, seed=seed, keys=(score.key,)) for seed, score in scores.items()]
            absent += [f"{row.id} against {one.row} on {one.on}" for one, draws in against.items() if not draws]
            absent += [] if scores else [row.id]
            for needed in (*(_kept([score], store) for score in scores.values()), *against.values()):
                jobs |= needed
    others = [_kept([job], store) for of, job in plan.differences.items() if of[0] == recipe.id]
    jobs |= {key: job for needed in others for key, job in needed.items()}
    with TemporaryDirectory() as scratch:
        own = Path(scratch)
        truths = _write_truths(jobs.values(), own)
        save(results, own, "capsule").rename(own / RESULTS)
        held = entries(store, [store.verified(key).key for key in sorted(jobs)])
        held |= {f"{OWN}/{path.name}": path for path in sorted(own.iterdir())}
        manifest = Manifest(
            format=SCHEMA, recipe=recipe.id, tier=plan.tier, name=name, measured=tuple(measured), truths=truths,
            files={each: _described(path) for each, path in held.items()},
        )  # fmt: skip
        form = manifest.model_dump(mode="json")
        (own / MANIFEST).write_text(json.dumps({"hash": content_key(form), **form}, indent=1) + "\n", encoding="utf-8")
        write(file, held | {f"{OWN}/{MANIFEST}": own / MANIFEST})
    return Packed(file, len(jobs), file.stat().st_size, tuple(absent))


def _foreign(row: RowRecord, plan: Plan, store: Store) -> dict[int, Score]:
    """The scores of a foreign row by seed; empty where the store lacks one of them or its detections."""
    pipeline = plan.rows[0].pipeline
    if not isinstance(pipeline, Detection):
        return {}
    scores = {seed: Score(predict=job, metric=pipeline.metric) for seed, job in foreign_jobs(row, pipeline).items()}
    return scores if all(_kept([score], store) for score in scores.values()) else {}


def _kept(last: Iterable[Job], store: Store) -> dict[str, Job]:
    """Jobs, and what they were counted from: the inputs of those that need no network, but no training. Empty where the
    store lacks one of them."""
    found: dict[str, Job] = {}
    asked = list(last)
    while asked:
        job = asked.pop()
        if store.artifact(job.key) is None:
            return {}
        found[job.key] = job
        if not job.on_device:
            asked += [needed for needed in job.inputs.values() if not isinstance(needed, Training)]
    return found


def _write_truths(jobs: Iterable[Job], folder: Path) -> dict[str, str]:
    """Write each split that detections are held against, once; the files by the keys of what was found in it."""
    counting = [job for job in jobs if not job.on_device]
    judged = [(needed, job) for job in counting for needed in job.inputs.values()
              if isinstance(getattr(needed, "data", None), DetectionData)]  # fmt: skip
    splits = {needed.key: content_key(canonical(needed.data)) for needed, _ in judged}  # type: ignore[attr-defined]
    masked = {splits[needed.key] for needed, job in judged
              if any(part.masks for part in walk(job) if isinstance(part, Metric))}  # fmt: skip
    files: dict[str, str] = {}
    for needed, _ in judged:
        split = splits[needed.key]
        if split not in files:
            files[split] = f"truth-{len(files)}.safetensors"
            truth.keep(needed.data.open(), folder / files[split], split in masked)  # type: ignore[attr-defined]
    return {key: files[split] for key, split in splits.items()}


def earlier(recipe: Recipe, tier: str, name: str, out: Path) -> Results | None:
    """The results that a run wrote into `out`, which say what seeds and settings there are to pack."""
    file = placed(out, recipe.id, tier, *([name] if name else []), suffix=".json")
    return load(file) if file.is_file() else None


def _described(file: Path) -> tuple[int, str]:
    with file.open("rb") as stream:
        return file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()


# --- reading


@dataclass(frozen=True)
class Capsule:
    """A capsule, unpacked into `folder` and checked: every file is as it was packed."""

    file: Path
    folder: Path
    manifest: Manifest
    results: Results

    def job(self, key: str) -> Artifact:
        """A finished job; InputError where the capsule lacks it."""
        return self.store.verified(key)

    @property
    def store(self) -> Store:
        """Its jobs."""
        return Store(self.folder)


@contextmanager
def opened(file: Path, beside: Path | None = None) -> Iterator[Capsule]:
    """A capsule, unpacked for a while into a folder of its own (in `beside`). InputError, one line, where it is none,
    or a file in it was changed, is missing or too much."""
    with reading(file, LARGEST) as archive, TemporaryDirectory(dir=beside) as scratch:
        folder = Path(scratch)
        if OWN not in archive.tops:
            raise InputError(f"{file}: is no capsule; give one that `bench pack` wrote, or use `bench store import`")
        for top in archive.tops:
            archive.extract(top, folder if top == OWN else folder / "artifacts")
        manifest = _manifest(file, folder / OWN / MANIFEST)
        _check(file, folder, manifest)
        try:
            results = load(folder / OWN / RESULTS)
        except InputError as error:
            raise InputError(str(error).replace(f"{folder / OWN}/", f"{file}: ")) from None
        if (results.recipe, results.tier) != (manifest.recipe, manifest.tier):
            raise InputError(f"{file}: {RESULTS} is of {results.recipe} {results.tier}, {MANIFEST} of another; {CURE}")
        yield Capsule(file, folder, manifest, results)


def _manifest(file: Path, held: Path) -> Manifest:
    try:
        form = read_json(held, CURE) if held.is_file() else None
    except InputError as error:
        raise InputError(str(error).replace(f"{held.parent}/", f"{file}: ")) from None
    known = form.pop("hash", None) if isinstance(form, dict) else None
    if not isinstance(form, dict) or known != content_key(form):
        raise InputError(f"{file}: {MANIFEST} was changed or is missing; {CURE}")
    if form.get("format") != SCHEMA:
        raise InputError(
            f"{file}: is of format {form.get('format')}, this benchsuite reads {SCHEMA}; upgrade one of both"
        )
    try:
        return Manifest.model_validate(form)
    except ValidationError as error:
        raise InputError(
            f"{file}: {MANIFEST} is not what `bench pack` writes ({error.errors()[0]['msg']}); {CURE}"
        ) from None


def _check(file: Path, folder: Path, manifest: Manifest) -> None:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    held = {path.relative_to(folder).as_posix().removeprefix("artifacts/"): path for path in paths}
    del held[f"{OWN}/{MANIFEST}"]
    for name in sorted(held.keys() ^ manifest.files.keys()):
        what = "is missing" if name in manifest.files else "was added"
        raise InputError(f"{file}: {name} {what}; {CURE}")
    for name, path in held.items():
        if _described(path) != manifest.files[name]:
            raise InputError(f"{file}: {name} was changed after it was packed; {CURE}")


def unpack(file: Path, store: Store, out: Path, force: bool = False) -> tuple[Path, list[str]]:
    """Take a capsule's jobs into the store and its results file into `out`, where it is merged as `bench run` does;
    that file, and the keys that were new. InputError as `opened`, or where results there are of other settings."""
    store.prepare()
    place = f"unpack-{os.getpid()}"
    with store.lock(place), store.explained(), _folder(store.root / "scratch" / place) as beside, \
            opened(file, beside) as capsule:  # fmt: skip
        name = capsule.manifest.name or None
        require_place(capsule.results, out, name, force)

        def bring(key: str, into: Path) -> None:
            into.mkdir()
            (capsule.folder / "artifacts" / key).rename(into / key)

        absent = [key for key in capsule.manifest.keys if store.artifact(key) is None]
        new = [key for key in absent if take(store, key, bring, file)]
        return save(capsule.results, out, name, force), new


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    path.mkdir()
    try:
        yield path
    finally:
        remove(path)
