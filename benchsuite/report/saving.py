"""Results put into their file: merged with a run of like settings that is there, whole or not at all, without paths."""

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchsuite.disk import folder_of, placed, whole
from benchsuite.errors import InputError
from benchsuite.report.results import ClaimRecord, Measured, Results, RowRecord, load


def file_of(results: Results, folder: Path, name: str | None = None) -> Path:
    """`ID.TIER.json` in `folder`, or `ID.TIER.NAME.json` where the data or settings are not the recipe's own."""
    return placed(folder, results.recipe, results.tier, *([name] if name else []), suffix=".json")


def save(results: Results, folder: Path, name: str | None = None, force: bool = False) -> Path:
    """Write `results` into `folder` and return the file: whole or not at all, and without absolute paths.

    Where the file is there already with equal settings, the two are merged (see `merged`); with unlike settings
    it is left alone and InputError says so, unless `force`. InputError too where the folder cannot be written.
    """
    clean = _clean(results)
    file = file_of(clean, folder, name)
    with folder_of(file), _locked(folder), whole(file) as scratch:
        earlier = _earlier(file, clean, force)
        if earlier is not None:
            clean = merged(earlier, clean)
        text = json.dumps(clean.model_dump(mode="json", by_alias=True), indent=1, ensure_ascii=False)
        scratch.write_text(text + "\n", encoding="utf-8")
    return file


def require_place(results: Results, folder: Path, name: str | None = None, force: bool = False) -> None:
    """InputError where `save` would refuse these results, told before the work that they come from: the folder is
    none or cannot be written, the file there is torn or holds a run of other settings."""
    clean = _clean(results)
    file = file_of(clean, folder, name)
    with folder_of(file), _locked(folder):
        _earlier(file, clean, force)
        probe = file.with_name(f".{file.name}.{os.getpid()}")
        probe.touch()
        probe.unlink()


def _clean(results: Results) -> Results:
    return Results.model_validate(_without_paths(results.model_dump(mode="json", by_alias=True)))


def _earlier(file: Path, new: Results, force: bool) -> Results | None:
    """The run that `new` is to be merged with; InputError where it is of other settings."""
    if force or not file.exists():
        return None
    earlier = load(file)
    if difference := unlike(earlier, new):
        raise InputError(
            f"{file}: holds a run of other settings ({difference}); give this one a name of its own (--name of `bench "
            "run`, --file-name of `bench add-row`) or another --out, or --force `bench run` to replace it"
        )
    return earlier


def unlike(first: Results, second: Results) -> str:
    """What makes two runs unlike, so that their cells must not stand in one table; "" where nothing does."""
    fields: dict[str, tuple[object, object]] = {
        "recipe": (first.recipe, second.recipe),
        "tier": (first.tier, second.tier),
        "protocol": (first.protocol, second.protocol),
        "overrides": (sorted(first.overrides), sorted(second.overrides)),
    }
    if first.data.fingerprint != second.data.fingerprint:  # one dataset may have two names
        fields["data"] = first.data.told, second.data.told
    return "; ".join(f"{name}: {old} there, {new} here" for name, (old, new) in fields.items() if old != new)


def merged(earlier: Results, new: Results) -> Results:
    """Two runs of like settings as one: the union of their seeds and, row by row, of their values.

    The new run decides everything but values: rows, labels, published numbers, claims. Foreign rows stay, but for
    those of its own. Of the earlier run a row
    keeps the values of those seeds that the new run did not measure, unless both runs know the row's `settings`
    and these differ (the recipe or the code behind it changed): then the old values are dropped.
    """
    seeds = tuple(sorted({*earlier.seeds, *new.seeds}))
    before = {row.id: row for row in earlier.rows}
    new = new.model_copy(update={"rows": (*new.rows, *_foreign_rows(earlier, new))})
    kept = {row.id: before[row.id] for row in new.rows if row.id in before and _same_settings(before[row.id], row)}
    known = {column.id for column in new.columns}  # one that the recipe has no more goes
    rows = tuple(_merged_row(_with(kept.get(row.id), known), row, earlier.seeds, new.seeds, seeds) for row in new.rows)
    claims = tuple(_merged_claim(earlier, claim) if set(claim.rows) <= set(kept) else claim for claim in new.claims)
    older = [env for env in (*earlier.earlier, earlier.environment) if env != new.environment]
    environments = tuple(env for index, env in enumerate(older) if env not in older[:index])
    still_used = any(row.measured for row in kept.values())
    return Results.model_validate(
        {**dict(new), "seeds": seeds, "rows": rows, "claims": claims, "earlier": environments if still_used else ()}
    )


def _foreign_rows(earlier: Results, new: Results) -> Iterator[RowRecord]:
    """The foreign rows that a new run knows nothing of, as if they had not been scored; their values are merged in."""
    known, columns = {row.id for row in new.rows}, {column.id for column in new.columns}
    for row in earlier.rows:
        if row.role == "foreign" and row.id not in known and columns.issuperset(row.measured):
            yield row.model_copy(update={"measured": {}, "status": "not_run"})


def _with(row: RowRecord | None, columns: set[str]) -> RowRecord | None:
    """Of these columns alone."""
    if row is None:
        return None
    return row.model_copy(update={"measured": {name: cell for name, cell in row.measured.items() if name in columns}})


def _same_settings(first: RowRecord, second: RowRecord) -> bool:
    return not (first.settings and second.settings) or first.settings == second.settings


def _merged_row(old: RowRecord | None, new: RowRecord, old_seeds: Sequence[int], new_seeds: Sequence[int],
                seeds: Sequence[int]) -> RowRecord:  # fmt: skip
    cells: dict[str, Measured] = {}
    columns = dict.fromkeys([*new.measured, *(old.measured if old else ())])
    for column in columns:
        by_seed: dict[int, float | None] = {}
        for row, row_seeds in ((old, old_seeds), (new, new_seeds)):
            if row is not None and column in row.measured:
                pairs = zip(row_seeds, row.measured[column].values, strict=True)
                by_seed |= {seed: value for seed, value in pairs if value is not None}
        cells[column] = Measured.of([by_seed.get(seed) for seed in seeds])
    measured = sum(any(cell.values[index] is not None for cell in cells.values()) for index in range(len(seeds)))
    untouched = old is not None and new.status == "not_run"
    reason = new.reason or (old.reason if old is not None and untouched else "")
    if measured == 0:
        status = old.status if old is not None and untouched else new.status
        return new.model_copy(update={"measured": cells, "status": status, "reason": reason})
    used = [row for row in (old, new) if row is not None and row.measured]
    return new.model_copy(update={
        "measured": cells,
        "status": "done" if measured == len(seeds) else "partial",
        "reason": "" if measured == len(seeds) else reason,
        "settings": new.settings or used[0].settings,
        "trained": new.trained or used[0].trained,
        "keys": tuple(dict.fromkeys(key for row in used for key in row.keys)),
        "device": ", ".join(dict.fromkeys(one for row in used for one in row.device.split(", ") if one)),
        "deviations": tuple(dict.fromkeys(text for row in used for text in row.deviations)),
    })  # fmt: skip


def _merged_claim(earlier: Results, claim: ClaimRecord) -> ClaimRecord:
    bare = {"images": (), "images_together": None}
    same = [old for old in earlier.claims if old.model_copy(update=bare) == claim.model_copy(update=bare)]
    images = {image.seed: image for image in (image for each in (*same, claim) for image in each.images)}
    together = [each.images_together for each in (claim, *same) if each.images_together is not None]
    # The interval of the most seeds: of the mean over all of them where one run had them all.
    most = max(together, key=lambda one: len(one.seeds), default=None)
    return claim.model_copy(update={"images": tuple(images[seed] for seed in sorted(images)), "images_together": most})


# A path with a folder in it; neither a fraction (1/2) nor the tail of an address (https://…).
_PATH = re.compile(r"(?<![\w.:/~-])~?/(?:[^\s/:;,'\"()]+/)+([^\s/:;,'\"()]*)")


def _without_paths(value: Any) -> Any:
    """The same JSON with absolute paths cut down to their last part."""
    if isinstance(value, str):
        return _PATH.sub(r"…/\1", value)
    if isinstance(value, Mapping):
        return {name: _without_paths(item) for name, item in value.items()}
    return [_without_paths(item) for item in value] if isinstance(value, (list, tuple)) else value


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Only one run at a time merges into the files of `folder`."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
