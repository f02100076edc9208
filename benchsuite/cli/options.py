"""The command's groups of verbs, the options that verbs share, and what those mean."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from benchsuite.errors import InputError

if TYPE_CHECKING:
    from benchsuite.engine.store import Store
    from benchsuite.verbs.budget import Budget
    from benchsuite.verbs.plan import Plan

app = typer.Typer(
    name="bench",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Re-run the published tables of object-detection papers, one command a table.\n\n"
    "bench list · bench run har-table1 · bench compare results/*.json · bench plot har-table1",
)
data_app = typer.Typer(no_args_is_help=True, help="Look after datasets.\n\nbench data verify --data ~/coco")
app.add_typer(data_app, name="data")
store_app = typer.Typer(no_args_is_help=True, help="Look after finished work.\n\nbench store list")
app.add_typer(store_app, name="store")


def complete(incomplete: str) -> list[str]:
    """Recipe ids for shell completion."""
    from benchsuite.recipe.shelf import available

    return [recipe_id for recipe_id in available() if recipe_id.startswith(incomplete)]


Ids = Annotated[list[str], typer.Argument(help="Recipe ids, globs ('har-*') or YAML files.", autocompletion=complete)]
Id = Annotated[str, typer.Argument(help="A recipe id or a YAML file.", autocompletion=complete)]
Tier = Annotated[str, typer.Option("--tier", "-t", help="smoke (seconds), mini (minutes) or paper (the real thing).")]
Rows = Annotated[str, typer.Option(help="Only these rows, by id, with commas.")]
Seeds = Annotated[str, typer.Option(help="Seeds, with commas: 0,1,2. By default the tier's own.")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Use this dataset instead: a COCO folder, a COCO-format folder, YOLO's layout or a VOCdevkit; "
        "for classification CIFAR-100's files or one folder a class.",
    ),
]
DataRoot = Annotated[Path | None, typer.Option(help="Where datasets lie; as $BENCH_DATA.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Change a setting: --set solver.lr=0.01. Repeatable.")]
StoreDir = Annotated[Path | None, typer.Option("--store", help="Where finished jobs are kept; $BENCH_STORE or runs/.")]
Json = Annotated[bool, typer.Option("--json", help="Only JSON on stdout.")]
PerJob = Annotated[
    int, typer.Option(help="GPUs that do one training together; on a CPU, processes that share its cores.", min=1)
]
Recompute = Annotated[
    bool, typer.Option("--recompute", help="Make activations again instead of keeping them: less memory, more time.")
]
MicroBatch = Annotated[
    int | None,
    typer.Option(help="Images at once where norms are frozen: less memory, a third more time, equal numbers.", min=1),
]
Form = Literal["png", "pdf", "svg"]
BudgetTime = Annotated[
    str | None,
    typer.Option("--budget", help="Only the rows and seeds that settle the most claims in that time: 24h, 1h30m."),
]
Takes = Annotated[
    list[str] | None,
    typer.Option(
        help="For --budget: how long a kind of job takes, where the store cannot tell: train=20m. Repeatable."
    ),
]
Spread = Annotated[
    float | None, typer.Option(help="For --budget: standard deviation over seeds where nothing was measured: 1.", min=0)
]
Device = Annotated[
    str, typer.Option(envvar="BENCH_DEVICE", help="cpu, cuda, cuda:N, or auto: CUDA where there is one.")
]
TimedOn = Annotated[
    str, typer.Option("--timed-on", help="Take the timings of the device of this name, as results files have it.")
]


ResultsDir = Annotated[
    Path, typer.Option("--results", help="Folder of the results file that has the row's seeds and settings.")
]
Name = Annotated[str, typer.Option("--name", help="Part of the results file's name; by default the other dataset's.")]


def split(option: str, text: str) -> list[str]:
    """The words of a list with commas; InputError where there are commas alone."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if text and not parts:
        raise InputError(f"{option} '{text}': names none; leave the option out for all")
    return parts


def seeds_of(text: str) -> list[int]:
    """The numbers of --seeds; InputError for others."""
    try:
        return [int(part) for part in split("--seeds", text)]
    except ValueError:
        raise InputError(f"--seeds {text}: is not a list of whole numbers; for instance --seeds 0,1,2") from None


def target_of(verb: str, text: str) -> tuple[str, str]:
    """RECIPE/ROW as two; the recipe may be a file in a folder."""
    recipe, _, row = text.rpartition("/")
    if not recipe or not row or row.endswith((".yaml", ".yml")):
        raise InputError(f"{verb} '{text}': needs RECIPE/ROW; for instance har-table1/baseline or mine.yaml/baseline")
    return recipe, row


def budget_of(plan: "Plan", store: "Store", budget: str, takes: list[str] | None, spread: float | None) -> "Budget":
    """The choice that --budget, --takes and --spread ask for."""
    from benchsuite.verbs.budget import SPREAD, choose
    from benchsuite.verbs.times import Estimates, seconds_of, told_of

    if spread is not None and not 0 < spread < math.inf:
        raise InputError(f"--spread {spread}: is no standard deviation; for instance --spread 1")
    works = {job.work.lower() for job in plan.jobs.values()}
    times = Estimates.on(store, plan.device, told_of(takes or (), works))
    return choose(plan, store, seconds_of("--budget", budget), times, SPREAD if spread is None else spread)


def budget_alone(takes: list[str] | None, spread: float | None) -> None:
    """InputError where there are words for a budget, and none."""
    if takes or spread is not None:
        raise InputError("--takes and --spread: are for --budget; add that, --budget 24h, or leave them out")


def planned_of(
    ids: list[str], tier: str, rows: str, seeds: str, data: Path | None, data_root: Path | None, sets: list[str] | None,
    device: str = "auto", timed_on: str = "", budget: str | None = None,
) -> "Plan":  # fmt: skip
    """The plan that a verb's options ask for; with a budget, of all seeds that it may choose from."""
    from benchsuite.recipe.loading import select
    from benchsuite.verbs.plan import make_plan

    if data_root is not None:
        os.environ["BENCH_DATA"] = str(data_root)
    recipes, asked = select(ids), seeds_of(seeds)
    if budget is not None and not asked:
        from benchsuite.verbs.budget import SEEDS

        asked = list(SEEDS)
    return make_plan(
        recipes, tier, rows=split("--rows", rows), seeds=asked, data=data, overrides=sets or (), device=device,
        timed_on=timed_on,
    )  # fmt: skip


def trained_of(
    recipe: str, tier: str, rows: str, seeds: str, data: Path | None, data_root: Path | None, sets: list[str] | None,
    results: Path, name: str, device: str = "auto",
) -> "Plan":  # fmt: skip
    """The plan of what was run: seeds and settings are those of the results file, where it is there and nothing else is
    said."""
    from benchsuite.recipe.loading import load_recipe
    from benchsuite.verbs.capsule import earlier

    asked = split("--rows", rows)
    if known := earlier(load_recipe(recipe), tier, name or (data.resolve().name if data else ""), results):
        its = [row.id for row in known.rows if row.id in asked and row.measured] or [row.id for row in known.rows]
        ran = {seed for row in its for column in known.columns for seed in known.values(row, column.id)}
        seeds = seeds or ",".join(str(seed) for seed in known.seeds if seed in ran)
        sets = sets or [*known.overrides]
    plan = planned_of([recipe], tier, rows, seeds, data, data_root, sets, device)
    return replace(plan, data_name=name) if name else plan


Out = Annotated[Path, typer.Option(help="Folder of the results files that say what is needed.")]
