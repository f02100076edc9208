"""What gathered figures look for: results files, what their jobs left, and the commands that make what is missing."""

from pathlib import Path

from benchsuite.report.grids import meaning, provenance
from benchsuite.results import Results, load


def results_of(recipe: str, folder: Path, tier: str) -> list[Results]:
    """The results of a recipe in `folder`, on whatever data; of every tier where `tier` is ""."""
    files = sorted(folder.glob(f"{recipe}.*.json"))
    return [load(file) for file in files if not tier or file.name.split(".")[1] == tier]


def command(recipe: str, tier: str, rows: str = "") -> str:
    """What runs some rows of a recipe."""
    return f"bench run {recipe}{f' --rows {rows}' if rows else ''} --tier {tier or 'smoke'}"


def about(results: Results) -> str:
    """Tier, data and seeds, and a warning where numbers mean nothing."""
    bare = results.model_copy(update={"rows": (), "environment": {}, "earlier": ()})
    return provenance(bare) + (f"\n{meaning(results)}" if results.tier == "smoke" else "")
