"""What gathered figures share: results and what their jobs left, the commands that make what is missing, a frame."""

import json
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchsuite.engine.store import Store
from benchsuite.errors import shortened
from benchsuite.report.figures._style import ACCENT, LONGEST, PAPER, WIDTH, style
from benchsuite.report.grids import meaning, provenance
from benchsuite.report.results import Results, load


def results_of(recipe: str, folder: Path, tier: str) -> list[Results]:
    """The results of a recipe in `folder`, on whatever data; of every tier where `tier` is ""."""
    files = sorted(folder.glob(f"{recipe}.*.json"))
    return [load(file) for file in files if not tier or file.name.split(".")[1] == tier]


def trainings(key: str, store: Store) -> Iterator[str]:
    """The keys of the trainings that the artifact of `key` was made of, the last one first, as far as the store holds
    them."""
    artifact = store.artifact(key)
    if artifact is None:
        return
    if artifact.path("log.jsonl").is_file():
        yield key
    for other in inputs(key, store).values():
        yield from trainings(other, store)


def inputs(key: str, store: Store) -> dict[str, str]:
    """The keys of the inputs of a job, by their names in it."""
    found = store.record(key)["inputs"]
    return {name: str(other) for name, other in found.items()} if isinstance(found, Mapping) else {}


def seed_of(key: str, store: Store) -> int:
    """The seed of a training."""
    job = store.record(key)["job"]
    seed = job.get("seed") if isinstance(job, Mapping) else None
    return seed if isinstance(seed, int) else 0


def log(key: str, store: Store) -> list[dict[str, Any]]:
    """The lines that a training logged, one an iteration."""
    return [json.loads(line) for line in store.verified(key).path("log.jsonl").read_text("utf-8").splitlines()]


def command(recipe: str, tier: str, rows: str = "") -> str:
    """What runs some rows of a recipe."""
    return f"bench run {recipe}{f' --rows {rows}' if rows else ''} --tier {tier or 'smoke'}"


def about(results: Results, letters: int = 140) -> str:
    """Tier, data and seeds, and a warning where numbers mean nothing, in lines of so many letters; 140 fill a page."""
    bare = results.model_copy(update={"rows": (), "environment": {}, "earlier": ()})
    texts = [provenance(bare), *([meaning(results)] if results.tier == "smoke" else [])]
    return "\n".join(textwrap.fill(shortened(text, LONGEST), letters) for text in texts)


T = TypeVar("T")


def by_detector(title: str, ylabel: str, detectors: Mapping[str, str], runs: Sequence[tuple[Results, T]],
                panel: Callable[[Axes, Results, T, str], None]) -> Figure:  # fmt: skip
    """A row of panels for each results file, a panel for each detector, drawn by `panel(axes, results, found, name)`.

    detectors  what stands above a panel, by name
    """
    with style():
        notes = [about(results) for results, _ in runs]
        heights = [2.2 + 0.12 * len(note.splitlines()) for note in notes]
        figure = Figure(figsize=(WIDTH, 0.4 + sum(heights)), dpi=300, layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=9.5, weight="bold")
        parts = figure.subfigures(len(runs), 1, squeeze=False, height_ratios=heights)[:, 0]
        for part, note, (results, found) in zip(parts, notes, runs, strict=True):
            colour = ACCENT if results.tier == "smoke" else "#555555"
            part.suptitle(note, x=0.01, ha="left", fontsize=7, color=colour)
            panels = part.subplots(1, len(detectors), sharey=True, squeeze=False)[0]
            for axes, (name, text) in zip(panels, detectors.items(), strict=True):
                axes.set_title(text, fontsize=8)
                panel(axes, results, found, name)
                axes.grid(axis="y")
            panels[0].set_ylabel(ylabel)
            part.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=4)
    return figure


def not_run(axes: Axes) -> None:
    """Says so in an empty panel."""
    axes.set_xticks([])
    axes.text(0.5, 0.5, "not run", ha="center", va="center", transform=axes.transAxes, color=PAPER)
