"""The `bench` command: verbs that parse, call and print."""

import _signal  # type: ignore[import-not-found]  # `signal` without the enumerations that it builds first
import os

try:  # Ctrl-C while Python still imports ends without a traceback
    _usual = _signal.signal(_signal.SIGINT, lambda *_: os._exit(130))
    if _usual is not _signal.default_int_handler:  # who started us wants it ignored
        _signal.signal(_signal.SIGINT, _usual)
except ValueError:  # imported in a thread, where no handler can be set
    _usual = None

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from benchsuite.errors import BenchError, InputError, out_of_memory, visible
from benchsuite.verbs.terminal import print_json, streams

if TYPE_CHECKING:
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
        help="Use this dataset instead: a COCO folder, a COCO-format folder or a VOCdevkit; for classification "
        "CIFAR-100's files or one folder a class.",
    ),
]
DataRoot = Annotated[Path | None, typer.Option(help="Where datasets lie; as $BENCH_DATA.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Change a setting: --set solver.lr=0.01. Repeatable.")]
StoreDir = Annotated[Path | None, typer.Option("--store", help="Where finished jobs are kept; $BENCH_STORE or runs/.")]
Json = Annotated[bool, typer.Option("--json", help="Only JSON on stdout.")]
INTERRUPTED = "interrupted; what was finished is kept"
Form = Literal["png", "pdf", "svg"]
Device = Annotated[
    str, typer.Option(envvar="BENCH_DEVICE", help="cpu, cuda, cuda:N, or auto: CUDA where there is one.")
]


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in _split(text)]
    except ValueError:
        raise InputError(f"--seeds {text}: is not a list of whole numbers; for instance --seeds 0,1,2") from None


def _target(verb: str, text: str) -> tuple[str, str]:
    """RECIPE/ROW as two; the recipe may be a file in a folder."""
    recipe, _, row = text.rpartition("/")
    if not recipe or not row or row.endswith((".yaml", ".yml")):
        raise InputError(f"{verb} '{text}': needs RECIPE/ROW; for instance har-table1/baseline or mine.yaml/baseline")
    return recipe, row


def _plan(
    ids: list[str], tier: str, rows: str, seeds: str, data: Path | None, data_root: Path | None, sets: list[str] | None,
    device: str = "auto",
) -> "Plan":  # fmt: skip
    from benchsuite.recipe.recipe import select
    from benchsuite.verbs.plan import make_plan

    if data_root is not None:
        os.environ["BENCH_DATA"] = str(data_root)
    recipes = select(ids)
    return make_plan(
        recipes, tier, rows=_split(rows), seeds=_seeds(seeds), data=data, overrides=sets or (), device=device
    )


@app.command("list")
def list_recipes(as_json: Json = False) -> None:
    """List the recipes, and the figures and pictures that `bench plot` draws.

    bench list --json | jq '.[].id'
    """
    from benchsuite.recipe.shelf import available, heading
    from benchsuite.report import figures, gathered, probed
    from benchsuite.verbs.catalogue import list_form, print_list

    recipes = [heading(file) for file in available().values()]
    if as_json:
        print_json(list_form(recipes))
    else:
        pictures = {"detections": "Truth beside predictions on a few images."} | probed.available()
        print_list(recipes, gathered.available(), figures.available(), pictures)


@app.command()
def show(recipe: Id, as_json: Json = False) -> None:
    """Show a recipe: rows, published numbers, claims.

    bench show har-table1
    """
    from benchsuite.recipe.recipe import load_recipe
    from benchsuite.verbs.listing import print_show, show_form

    chosen = load_recipe(recipe)
    print_json(show_form(chosen)) if as_json else print_show(chosen)


@app.command()
def plan(
    ids: Ids, tier: Tier = "smoke", rows: Rows = "", seeds: Seeds = "", data: Data = None, data_root: DataRoot = None,
    sets: Sets = None, store: StoreDir = None, device: Device = "auto", as_json: Json = False,
) -> None:  # fmt: skip
    """Show the jobs that a run would do and which of them are done already.

    bench plan 'har-*' --tier paper
    """
    from benchsuite.engine.store import Store
    from benchsuite.verbs.listing import plan_form, print_plan

    planned, kept = _plan(ids, tier, rows, seeds, data, data_root, sets, device), Store(store)
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
    from benchsuite.recipe.recipe import load_recipe
    from benchsuite.verbs.listing import print_inspect
    from benchsuite.verbs.plan import make_plan

    planned = make_plan([load_recipe(recipe)], "paper", overrides=sets or ())
    known = Store(store).verified(artifact) if artifact else None
    found = [{"id": each.row.id, **each.pipeline.inspect(known)} for each in planned.rows]
    print_json({"rows": found}) if as_json else print_inspect(found)


@app.command()
def run(
    ids: Ids, tier: Tier = "smoke", rows: Rows = "", seeds: Seeds = "", data: Data = None, data_root: DataRoot = None,
    sets: Sets = None, store: StoreDir = None, device: Device = "auto",
    slots: Annotated[int | None, typer.Option(help="Jobs at once: per GPU, or sharing the CPU's cores.")] = None,
    out: Annotated[Path, typer.Option(help="Where results go.")] = Path("results"),
    name: Annotated[str, typer.Option(help="Part of the results file's name; by default the other dataset's.")] = "",
    force: Annotated[bool, typer.Option(help="Overwrite a results file of unlike settings.")] = False,
    checkpoint_every: Annotated[int, typer.Option(help="Iterations between checkpoints.", min=1)] = 500,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Equal bits from equal work on a GPU too, slower.")
    ] = False,
    loaders: Annotated[int | None, typer.Option(help="Processes that make batches ahead, for each job.", min=0)] = None,
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
    from benchsuite.engine.job import Execution
    from benchsuite.engine.store import Store
    from benchsuite.engine.worker import warm
    from benchsuite.verbs.listing import print_plan
    from benchsuite.verbs.run import RunOptions, run_plan
    from benchsuite.verbs.terminal import print_things

    if executor == "local":
        warm()  # workers load torch while this process plans
    planned, kept = _plan(ids, tier, rows, seeds, data, data_root, sets, device), Store(store)
    print_plan(planned, kept, to_stderr=as_json)
    if executor == "slurm":
        from benchsuite.verbs.slurm import Cluster, arguments_of, submit

        cluster = Cluster(partition, gpus, cpus, time, workers, tuple(slurm or ()))
        print_things(submit(planned, kept, cluster, arguments_of(sys.argv[1:])), to_stderr=as_json)
        return
    options = RunOptions(
        slots=slots, out=out, name=name, force=force, checkpoint_every=checkpoint_every,
        execution=Execution(deterministic, loaders),
    )  # fmt: skip
    outcome = run_plan(planned, kept, options)
    print_json(outcome.form()) if as_json else outcome.show()
    raise typer.Exit(outcome.exit_code)


@app.command()
def score(
    ground_truth: Annotated[Path, typer.Argument(help="A COCO JSON, or a VOCdevkit split: VOCdevkit/VOC2007:test.")],
    detections: Annotated[Path, typer.Argument(help="A COCO results JSON, or a folder of VOC comp4 files.")],
    protocol: Annotated[str, typer.Option(help="coco, voc07 (11-point) or voc12 (area).")] = "coco",
    as_json: Json = False,
) -> None:
    """Score anybody's detections.

    bench score instances_val2017.json detections.json --protocol coco
    """
    from benchsuite.verbs.listing import print_score
    from benchsuite.verbs.score import score as score_files

    found = score_files(ground_truth, detections, protocol)
    print_json(found) if as_json else print_score(found)


@app.command()
def compare(
    files: Annotated[list[Path], typer.Argument(help="Results files.")],
    check: Annotated[bool, typer.Option(help="Exit with 1 if a claim fails or a cell is off.")] = False,
    form: Annotated[str, typer.Option("--format", help="text, markdown, latex or csv.")] = "text",
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
    figure: Annotated[str, typer.Option(help="Another figure of the recipe than its default; see `bench list`.")] = "",
    images: Annotated[int, typer.Option(help="For detections: how many pictures.", min=1)] = 6,
    image: Annotated[int, typer.Option(help="For other pictures: which image of the split.", min=0)] = 0,
    threshold: Annotated[float, typer.Option(help="For detections: the least score shown.", min=0, max=1)] = 0.3,
    form: Annotated[Form, typer.Option("--format", help="Format of the picture.")] = "png",
) -> None:  # fmt: skip
    """Draw a recipe's figure from its results, or pictures with boxes from a run.

    bench plot har-table1 --tier mini

    bench plot detections har-table1/baseline --tier mini --data ~/mydata

    bench plot masks har-table1/sa-1-2-5-2-1 --image 3

    bench list names all figures and pictures
    """
    from benchsuite.engine.store import Store
    from benchsuite.recipe.recipe import load_recipe
    from benchsuite.report import gathered
    from benchsuite.report.draw import plot_results
    from benchsuite.verbs.terminal import print_things

    if name in gathered.available():
        files, missing = gathered.plot(name, out, Store(store), tier, form)
        print_things(*missing, to_stderr=True)
    elif target or name == "detections":
        from benchsuite.verbs.plot import plot_detections, plot_probe

        recipe, row = _target(f"plot {name}", target)
        planned, kept = _plan([recipe], tier or "smoke", row, seeds, data, data_root, sets), Store(store)
        if name == "detections":
            files = [plot_detections(planned, kept, out, images, form, threshold)]
        else:
            files = plot_probe(name, planned, kept, out, image, form)
    else:
        files = plot_results(load_recipe(name), tier, figure, out, form)
    for file in files:
        print(file)


@app.command()
def export(
    target: Annotated[str, typer.Argument(help="RECIPE/ROW, trained before.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("model.onnx"),
    tier: Tier = "smoke", seeds: Seeds = "", data: Data = None, data_root: DataRoot = None, sets: Sets = None,
    store: StoreDir = None,
    images: Annotated[int, typer.Option(help="On how many pictures to hold it against torch.", min=0)] = 4,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Write a trained detector as an ONNX file of standard operators, and hold its detections against torch's.

    bench export pod-table2/retina-50-fd --tier mini -o retina.onnx
    """
    from benchsuite.engine.store import Store
    from benchsuite.verbs.export import export as write
    from benchsuite.verbs.listing import print_export

    recipe, row = _target("export", target)
    planned = _plan([recipe], tier, row, seeds, data, data_root, sets)
    found = write(planned, Store(store), out, images)
    print_json(found.form()) if as_json else print_export(found)


@data_app.command()
def verify(
    recipe: Annotated[str, typer.Argument(help="Recipe whose dataset to check.", autocompletion=complete)] = "",
    tier: Tier = "paper", data: Data = None, data_root: DataRoot = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Count images, and boxes or classes; find missing and undecodable files, degenerate boxes, unknown classes.

    bench data verify --data ~/coco

    bench data verify har-table1 --data-root /data
    """
    from benchsuite.data.locate import open_any_folder
    from benchsuite.data.verify import verify as verify_data
    from benchsuite.verbs.listing import print_verified

    if data_root is not None:
        os.environ["BENCH_DATA"] = str(data_root)
    if recipe:
        splits = _plan([recipe], tier, "", "", data, data_root, None).rows[0].pipeline.data
        checked = [splits.cut("train"), splits.cut("val")]
    elif data is not None:
        checked = list(open_any_folder(data))
    else:
        raise InputError("data verify: needs a recipe id or --data DIR; for instance bench data verify --data ~/coco")
    reports = [verify_data(split) for split in checked]
    print_json([report.form() for report in reports]) if as_json else print_verified(reports)
    raise typer.Exit(1 if any(report.problems for report in reports) else 0)


@app.command()
def doctor(store: StoreDir = None, data_root: DataRoot = None, as_json: Json = False) -> None:
    """Check this machine: packages, devices, datasets, weights, disk.

    bench doctor --json
    """
    from benchsuite.verbs.doctor import doctor as examine
    from benchsuite.verbs.listing import print_checks

    if data_root is not None:
        os.environ["BENCH_DATA"] = str(data_root)
    checks = examine(store)
    print_json([check.form() for check in checks]) if as_json else print_checks(checks)
    raise typer.Exit(0 if all(check.ok for check in checks if check.needed) else 1)


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="Folder of the results files.")] = Path("results"),
    file: Annotated[Path | None, typer.Option("--file", "-o", help="The page; by default report.html there.")] = None,
    store: StoreDir = None,
) -> None:
    """Write all results as one HTML page that needs no network: tables, verdicts, figures, losses, costs.

    bench report -o report.html
    """
    from benchsuite.engine.store import Store
    from benchsuite.recipe.shelf import available, heading
    from benchsuite.report.page import write

    page = file or out / "report.html"
    write(out, page, [heading(recipe) for recipe in available().values()], Store(store))
    print(page)


@app.command()
def status(store: StoreDir = None, as_json: Json = False) -> None:
    """Show the jobs of a store that are not finished, and which of them some run works on now.

    bench status
    """
    from benchsuite.engine.store import Store
    from benchsuite.verbs.listing import print_status
    from benchsuite.verbs.status import unfinished

    found = unfinished(Store(store))
    print_json([each.form() for each in found]) if as_json else print_status(found)


@app.command()
def logs(
    key: Annotated[str, typer.Argument(help="A job's key, or how it begins; see `bench status`.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is finished.")] = False,
    store: StoreDir = None,
) -> None:  # fmt: skip
    """Show what a job printed, and a training's log.

    bench logs 3fa9 -f
    """
    from benchsuite.engine.store import Store
    from benchsuite.verbs.status import find, lines

    kept = Store(store)
    for line in lines(kept, find(kept, key), follow):
        print(line, flush=True)


Out = Annotated[Path, typer.Option(help="Folder of the results files that say what is needed.")]


@store_app.command("list")
def store_list(store: StoreDir = None, out: Out = Path("results"), as_json: Json = False) -> None:
    """List finished jobs, the largest first, and whether a results file hangs on them.

    bench store list --json | jq 'map(.bytes) | add'
    """
    from benchsuite.engine.store import Store
    from benchsuite.verbs.listing import print_store
    from benchsuite.verbs.store import contents

    found = contents(Store(store), out)
    print_json([each.form() for each in found]) if as_json else print_store(found)


@store_app.command("verify")
def store_verify(store: StoreDir = None, as_json: Json = False) -> None:
    """Read every file of every finished job and compare it with what was recorded when it was written.

    bench store verify
    """
    from benchsuite.engine.store import Store
    from benchsuite.verbs.store import damaged, keys
    from benchsuite.verbs.terminal import print_things

    kept = Store(store)
    told = list(damaged(kept))
    print_json(told) if as_json else print_things(*told, f"{len(keys(kept))} finished jobs, {len(told)} damaged")
    raise typer.Exit(1 if told else 0)


@store_app.command("prune")
def store_prune(
    store: StoreDir = None, out: Out = Path("results"),
    everything: Annotated[bool, typer.Option("--all", help="Also what results files name.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete; without it, only say what would go.")] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Delete finished jobs that no results file names, and checkpoints on which nobody works.

    bench store prune           says what would go

    bench store prune --yes     deletes it
    """
    from benchsuite.engine.store import Store
    from benchsuite.verbs.listing import print_pruned
    from benchsuite.verbs.store import delete, size, unneeded

    kept = Store(store)
    paths = unneeded(kept, out, everything)
    freed = delete(kept, paths) if yes else sum(size(path) for path in paths)
    form = {"deleted": yes, "bytes": freed, "paths": [path.as_posix() for path in paths]}
    print_json(form) if as_json else print_pruned(paths, freed, yes)


@store_app.command("export")
def store_export(
    file: Annotated[Path, typer.Argument(help="The archive to write: .tar or .tar.gz.")],
    keys: Annotated[list[str] | None, typer.Argument(help="Keys of jobs; else all that results files name.")] = None,
    store: StoreDir = None, out: Out = Path("results"),
) -> None:  # fmt: skip
    """Pack finished jobs, with all they were made from, into one archive.

    bench store export table.tar.gz
    """
    from benchsuite.engine.store import Store
    from benchsuite.verbs.store import named, pack
    from benchsuite.verbs.terminal import print_things

    kept = Store(store)
    packed = pack(kept, keys or sorted(named(kept, out)), file)
    print_things(f"{file}: {len(packed)} jobs")


@store_app.command("import")
def store_import(file: Annotated[Path, typer.Argument(help="An archive of `export`.")], store: StoreDir = None) -> None:
    """Take the jobs of an archive into the store, each checked first.

    bench store import table.tar.gz
    """
    from benchsuite.engine.store import Store
    from benchsuite.verbs.store import unpack
    from benchsuite.verbs.terminal import print_things

    print_things(f"{file}: {len(unpack(Store(store), file))} jobs were new")


def main() -> None:
    """Entry point: every error a user can cause is one line and an exit code."""
    try:
        with streams():
            code = _run()
            try:
                sys.stdout.flush()
            except OSError as error:
                code = _stdout_is_gone(error)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _run() -> int:
    try:
        code = app(standalone_mode=False)
    except BenchError as error:
        return _complain(error, error.exit_code)
    except OSError as error:
        if error.filename is None:  # of a stream
            return _stdout_is_gone(error)
        return _complain(f"{error.filename}: {error.strerror}", 2)
    except KeyboardInterrupt:
        return _complain(INTERRUPTED, 130)
    except Exception as error:
        if out_of_memory(error):
            return _complain("out of memory; ask for less at once, or use a machine with more", 1)
        return _wrong_usage(error)
    if code == 130:  # Typer's answer to Ctrl-C
        _complain(INTERRUPTED, 130)
    return int(code or 0)


def _wrong_usage(error: Exception) -> int:
    """What Typer says of a command line, which it prints as several lines."""
    if not hasattr(error, "format_message"):
        raise error
    if "NoArgsIsHelp" in type(error).__name__:
        error.show()  # type: ignore[attr-defined]  # Typer's, which has two homes
        return 2
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "bench"
    return _complain(f"{' '.join(error.format_message().split())} (see {path} --help)", 2)


def _stdout_is_gone(error: OSError) -> int:
    """What is left to be printed goes nowhere, so that Python does not try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 1 if isinstance(error, BrokenPipeError) else _complain(f"stdout: {error.strerror or error}", 2)


def _complain(what: object, code: int) -> int:
    print(f"bench: {visible(str(what))}", file=sys.stderr)
    return code


if _usual is not None:
    _signal.signal(_signal.SIGINT, _usual)
