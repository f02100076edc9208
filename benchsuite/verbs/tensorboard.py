"""Training logs for TensorBoard (extra `tensorboard`): every number of `log.jsonl` against its iteration."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from benchsuite.disk import folder_of, placed
from benchsuite.engine.store import Store
from benchsuite.errors import InputError
from benchsuite.report.gathered._runs import seed_of, trainings
from benchsuite.report.results import load
from benchsuite.settings import Json
from benchsuite.verbs.status import TRAINING_LOG, find

STEP = "iteration"


def runs_of(store: Store, results: Path) -> dict[str, Path]:
    """The logs of all trainings that the results files in a folder hang on, by `TABLE/ROW.SEED`, as far as the store
    has them. InputError where a results file cannot be read."""
    found: dict[str, Path] = {}
    for file in sorted(results.glob("*.json")):
        for row in load(file).rows:
            for key in dict.fromkeys(key for last in row.keys for key in trainings(last, store)):
                name = placed(Path(file.stem), row.id, f"seed{seed_of(key, store)}", suffix="")
                found[_free(name.as_posix(), found)] = store.folder(key) / TRAINING_LOG
    return found


def run_of(store: Store, start: str) -> dict[str, Path]:
    """The log of the training whose key begins so, finished or not; InputError where there is none."""
    key = find(store, start)
    folder = store.folder(key) if store.artifact(key) else store.partial(key)
    if not (folder / TRAINING_LOG).is_file():
        raise InputError(f"logs: {key} has no training log; give the key of a training")
    return {key: folder / TRAINING_LOG}


def export(runs: Mapping[str, Path], folder: Path) -> list[Path]:
    """Write a run of TensorBoard's for each log, anew where there is one, into a folder of its name; these folders.

    InputError where TensorBoard is not installed, there is no log, or the folder cannot be written.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("logs: TensorBoard is not installed; pip install 'benchsuite[tensorboard]'") from None
    if not runs:
        raise InputError("logs: no training of the results files is in the store; name a training by its key")
    written = []
    for name, log in runs.items():
        target = folder / name
        with folder_of(target / TRAINING_LOG):
            for old in target.glob("events.out.tfevents.*"):
                old.unlink()
            writer = SummaryWriter(target)
            for line in _lines(log):
                for tag, value in _numbers(line):
                    writer.add_scalar(tag, value, int(str(line[STEP])))
            writer.close()
        written.append(target)
    return written


def _lines(log: Path) -> Iterator[Mapping[str, Json]]:
    """Whole lines: a training may be writing the last one."""
    for text in log.read_text("utf-8").splitlines():
        with suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and isinstance(line.get(STEP), int):
                yield line


def _numbers(line: Mapping[str, Json]) -> Iterator[tuple[str, float]]:
    """Numbers by tag: what modules observe is grouped by module."""
    for name, value in line.items():
        if name != STEP and isinstance(value, (int, float)) and not isinstance(value, bool):
            yield "/".join(name.rsplit(".", 1)), float(value)


def _free(name: str, taken: Mapping[str, Path]) -> str:
    """A name for each training of a row and seed: some rows train in two steps."""
    others = sum(each == name or each.startswith(f"{name}-") for each in taken)
    return f"{name}-{others + 1}" if others else name
