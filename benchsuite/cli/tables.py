"""Verbs about tables: what there is, what a run would do, running it, and what came of it."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from benchsuite.cli.options import (
    BudgetTime,
    Data,
    DataRoot,
    Device,
    Form,
    Id,
    Ids,
    Json,
    MicroBatch,
    Name,
    PerJob,
    Recompute,
    Rows,
    Seeds,
    Sets,
    Spread,
    StoreDir,
    Takes,
    Tier,
    TimedOn,
    app,
    budget_alone,
    budget_of,
    complete,
    planned_of,
    target_of,
    trained_of,
)
from benchsuite.errors import InputError, nearest, visible
from benchsuite.verbs.terminal import print_json


@app.command("list")
def list_recipes(as_json: Json = False) -> None:
    """List the recipes, and the figures and pictures that `bench plot` draws.

    bench list --json | jq '.[].id'
    """
    from benchsuite.recipe.heading import heading
    from benchsuite.recipe.shelf import available
    from benchsuite.report import figures, gathered
    from benchsuite.verbs.catalogue import list_form, print_list

    recipes = [heading(file) for file in available().values()]
    if as_json:
        print_json(list_form(recipes))
    else:
        print_list(recipes, gathered.available(), figures.available(), _pictures())


def _pictures() -> dict[str, str]:
    """What is drawn of a row, and what it shows."""
    from benchsuite.report import diagnosed, probed

    detections = {"detections": "Truth beside predictions on a few images."}
    return detections | diagnosed.available() | probed.available()


@app.command()
def show(recipe: Id, as_json: Json = False) -> None:
    """Show a recipe: rows, published numbers, claims.

    bench show har-table1
    """
    from benchsuite.recipe.loading import load_recipe
    from benchsuite.verbs.listing import print_show, show_form

    chosen = load_recipe(recipe)
    print_json(show_form(chosen)) if as_json else print_show(chosen)


@app.command()
def plan(
    ids: Ids, tier: Tier = "smoke", rows: Rows = "", seeds: Seeds = "", data: Data = None, data_root: DataRoot = None,
    sets: Sets = None, store: StoreDir = None, device: Device = "auto", timed_on: TimedOn = "",
    memory: Annotated[
        bool, typer.Option("--memory", help="Instead, estimate what each training needs of a GPU's memory.")
    ] = False,
    per_job: PerJob = 1, recompute: Recompute = False, micro_batch: MicroBatch = None,
    budget: BudgetTime = None, takes: Takes = None, spread: Spread = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Show the jobs that a run would do and which of them are done already.

    bench plan 'har-*' --tier paper

    bench plan har-table1 --tier mini --data ~/mydata --budget 24h

    bench plan pod-table1 --tier paper --memory --recompute
    """
    from benchsuite.engine.store import Store
    from benchsuite.verbs.listing import plan_form, print_budget, print_needs, print_plan

    if budget is None:
        budget_alone(takes, spread)
    elif memory:
        raise InputError("--memory: is of every training, and --budget chooses some; leave one of them out")
    planned, kept = planned_of(ids, tier, rows, seeds, data, data_root, sets, device, timed_on, budget), Store(store)
    if memory:
        from benchsuite.engine.job import Execution
        from benchsuite.verbs.memory import needs

        found = needs(planned, Execution(per_job=per_job, recompute=recompute, micro_batch=micro_batch))
        print_json([each.form() for each in found]) if as_json else print_needs(found)
        return
    if budget is not None:
        chosen = budget_of(planned, kept, budget, takes, spread)
        print_json(plan_form(chosen.chosen, kept) | {"budget": chosen.form()}) if as_json else print_budget(chosen)
        return
    print_json(plan_form(planned, kept)) if as_json else print_plan(planned, kept)


@app.command()
def inspect(
    recipe: Id, sets: Sets = None, store: StoreDir = None, as_json: Json = False,
    artifact: Annotated[str, typer.Option(help="Key of a finished job that tells what a row's costs hang on.")] = "",
) -> None:  # fmt: skip
    """Count parameters, MACs and anchors of each row at the paper tier, without building weights.

    bench inspect har-table1 --set model.head.channels=128
    """
    from benchsuite.engine.store import Store
    from benchsuite.recipe.loading import load_recipe
    from benchsuite.verbs.listing import print_inspect
    from benchsuite.verbs.plan import make_plan

    planned = make_plan([load_recipe(recipe)], "paper", overrides=sets or ())
    known = Store(store).verified(artifact) if artifact else None
    found = [{"id": each.row.id, **each.pipeline.inspect(known)} for each in planned.rows]
    print_json({"rows": found}) if as_json else print_inspect(found)


@app.command()
def run(
    ids: Ids, tier: Tier = "smoke", rows: Rows = "", seeds: Seeds = "", data: Data = None, data_root: DataRoot = None,
    sets: Sets = None, store: StoreDir = None, device: Device = "auto", timed_on: TimedOn = "",
    budget: BudgetTime = None, takes: Takes = None, spread: Spread = None,
    slots: Annotated[int | None, typer.Option(help="Jobs at once: per GPU, or sharing the CPU's cores.")] = None,
    out: Annotated[Path, typer.Option(help="Where results go.")] = Path("results"),
    name: Name = "",
    force: Annotated[bool, typer.Option(help="Overwrite a results file of unlike settings.")] = False,
    checkpoint_every: Annotated[int, typer.Option(help="Iterations between checkpoints.", min=1)] = 500,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Equal bits from equal work on a GPU too, slower.")
    ] = False,
    loaders: Annotated[int | None, typer.Option(help="Processes that make batches ahead, for each job.", min=0)] = None,
    per_job: PerJob = 1, recompute: Recompute = False, micro_batch: MicroBatch = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile backbone, neck and head where frames are of one size.")
    ] = False,
    eval_every: Annotated[
        int, typer.Option(help="Evaluate trainings on the way, every so many iterations; 0 for never.", min=0)
    ] = 0,
    executor: Annotated[Literal["local", "slurm"], typer.Option(help="Here, or on a cluster's nodes.")] = "local",
    partition: Annotated[str, typer.Option(help="Slurm: the partition.")] = "",
    gpus: Annotated[int, typer.Option(help="Slurm: GPUs a worker.", min=0)] = 0,
    cpus: Annotated[int, typer.Option(help="Slurm: cores a worker.", min=1)] = 1,
    time: Annotated[str, typer.Option(help="Slurm: a worker's limit, after which it goes on anew.")] = "24:00:00",
    workers: Annotated[int | None, typer.Option(help="Slurm: how many; by default one a job.", min=1)] = None,
    slurm: Annotated[list[str] | None, typer.Option(help="Slurm: more for sbatch, account=vision. Repeatable.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Run tables: train, predict and score what is not done yet, then write results, table and plot.

    bench run har-table1                       a check of the whole path in minutes

    bench run har-table1 --tier mini --data ~/mydata --seeds 0,1,2

    bench run 'har-*' --tier paper --data-root /data --device cuda

    bench run 'har-*' --tier paper --executor slurm --partition gpu --gpus 1 --time 8:00:00
    """
    from benchsuite.engine.forks import warm
    from benchsuite.engine.job import Execution
    from benchsuite.engine.store import Store
    from benchsuite.verbs.listing import print_budget, print_plan
    from benchsuite.verbs.run import RunOptions, run_plan
    from benchsuite.verbs.terminal import print_things

    if budget is None:
        budget_alone(takes, spread)
    if executor == "local":
        warm()  # workers load torch while this process plans
    planned, kept = planned_of(ids, tier, rows, seeds, data, data_root, sets, device, timed_on, budget), Store(store)
    if budget is not None and executor != "local":
        raise InputError(
            "--budget: looks at results between seeds, which a cluster's workers do not; leave it out there"
        )
    if budget is None:
        print_plan(planned, kept, to_stderr=as_json)
    if executor == "slurm":
        from benchsuite.verbs.slurm import Cluster, arguments_of, submit

        cluster = Cluster(partition, gpus, cpus, time, workers, tuple(slurm or ()))
        print_things(submit(planned, kept, cluster, arguments_of(sys.argv[1:])), to_stderr=as_json)
        return
    options = RunOptions(
        slots=slots, out=out, name=name, force=force, checkpoint_every=checkpoint_every,
        execution=Execution(deterministic, loaders, per_job, recompute, micro_batch, compiled, eval_every),
    )  # fmt: skip
    if budget is not None:
        from benchsuite.verbs.budget import run as run_budget

        chosen = budget_of(planned, kept, budget, takes, spread)
        print_budget(chosen, to_stderr=as_json)
        outcome, looks = run_budget(chosen, kept, options)
        print_things(*looks, to_stderr=as_json)
    else:
        outcome = run_plan(planned, kept, options)
    print_json(outcome.form()) if as_json else outcome.show()
    raise typer.Exit(outcome.exit_code)


@app.command()
def compare(
    files: Annotated[list[Path], typer.Argument(help="Results files.")],
    check: Annotated[bool, typer.Option(help="Exit with 1 if a claim fails or a cell is off.")] = False,
    form: Annotated[str, typer.Option("--format", help="text, markdown, latex, csv, html or json.")] = "text",
    as_json: Json = False,
) -> None:
    """Set results beside the published numbers: differences, intervals, verdicts on the paper's claims.

    bench compare results/*.json --check
    """
    from benchsuite.report.compare import compare as compare_results
    from benchsuite.report.results import load
    from benchsuite.report.tables import render

    comparison = compare_results([load(file) for file in files])
    print_json(comparison.form()) if as_json else render(comparison, form)
    raise typer.Exit(1 if check and comparison.failed else 0)


@app.command()
def plot(
    name: Annotated[
        str, typer.Argument(help="A recipe id, or a figure or picture of `bench list`.", autocompletion=complete)
    ],
    target: Annotated[str, typer.Argument(help="For a picture: RECIPE/ROW, an id or a YAML file before the row.")] = "",
    tier: Annotated[str, typer.Option("--tier", "-t", help="Results of this tier only; for detections: smoke.")] = "",
    seeds: Seeds = "", data: Data = None, data_root: DataRoot = None, sets: Sets = None, store: StoreDir = None,
    out: Annotated[Path, typer.Option(help="Folder of the results and of the picture.")] = Path("results"),
    named: Name = "",
    figure: Annotated[str, typer.Option(help="Another figure of the recipe than its default; see `bench list`.")] = "",
    images: Annotated[int, typer.Option(help="For detections: how many pictures.", min=1)] = 6,
    image: Annotated[int, typer.Option(help="For other pictures: which image of the split.", min=0)] = 0,
    threshold: Annotated[
        float, typer.Option(help="For detections and confusion: the least score that counts.", min=0, max=1)
    ] = 0.3,
    against: Annotated[str, typer.Option(help="For why: the other row; by default the baseline.")] = "",
    form: Annotated[Form, typer.Option("--format", help="Format of the picture.")] = "png",
) -> None:  # fmt: skip
    """Draw a recipe's figure from its results, or pictures with boxes from a run.

    A picture's seeds and settings are those of the results file, where it is there and nothing else is said.

    bench plot har-table1 --tier mini

    bench plot detections har-table1/baseline --tier mini --data ~/mydata

    bench plot masks har-table1/sa-1-2-5-2-1 --image 3

    bench plot why har-table1/sa-1-2-5-2-1 --tier mini

    bench list names all figures and pictures
    """
    from benchsuite.engine.store import Store
    from benchsuite.recipe.loading import load_recipe
    from benchsuite.report import diagnosed, gathered
    from benchsuite.report.draw import plot_results
    from benchsuite.verbs.terminal import print_things

    if name in gathered.available():
        files, missing = gathered.plot(name, out, Store(store), tier, form)
        print_things(*missing, to_stderr=True)
    elif name in diagnosed.available():
        from benchsuite.verbs.diagnose import plot_diagnosed

        recipe, row = target_of(f"plot {name}", target)
        planned = trained_of(recipe, tier or "smoke", "", seeds, data, data_root, sets, out, named)
        files, said = plot_diagnosed(name, planned, row, Store(store), out, form, threshold, against)
        print_things(*([said] if said else []), to_stderr=True)
    elif target and name not in _pictures():
        raise InputError(f"plot {name}: is no picture of a row; {nearest(name, _pictures())}")
    elif target or name == "detections":
        from benchsuite.verbs.plot import plot_detections, plot_probe

        recipe, row = target_of(f"plot {name}", target)
        planned = trained_of(recipe, tier or "smoke", row, seeds, data, data_root, sets, out, named)
        kept = Store(store)
        if name == "detections":
            files = [plot_detections(planned, kept, out, images, form, threshold)]
        else:
            files = plot_probe(name, planned, kept, out, image, form)
    else:
        files = plot_results(load_recipe(name), tier, figure, out, form)
    for file in files:
        print(visible(str(file)))


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="Folder of the results files.")] = Path("results"),
    file: Annotated[Path | None, typer.Option("--file", "-o", help="The page; by default report.html there.")] = None,
    store: StoreDir = None,
) -> None:
    """Write all results as one HTML page that needs no network: tables, verdicts, figures, losses, costs.

    bench report -o report.html
    """
    from benchsuite.disk import placed
    from benchsuite.engine.store import Store
    from benchsuite.recipe.heading import heading
    from benchsuite.recipe.shelf import available
    from benchsuite.report.page import write

    page = file or placed(out, "report", suffix=".html")
    write(out, page, [heading(recipe) for recipe in available().values()], Store(store))
    print(visible(str(page)))
