"""Verbs about work that is done or under way: the store, its jobs and their logs."""

from pathlib import Path
from typing import Annotated

import typer

from benchsuite.cli.options import (
    Data,
    DataRoot,
    Device,
    Id,
    Json,
    Name,
    Out,
    Rows,
    Seeds,
    Sets,
    StoreDir,
    Tier,
    app,
    store_app,
    trained_of,
)
from benchsuite.errors import InputError, visible
from benchsuite.verbs.terminal import print_json


@app.command()
def status(store: StoreDir = None, as_json: Json = False) -> None:
    """Show the jobs of a store that are not finished, and which of them some run works on now.

    bench status
    """
    from benchsuite.engine.store import Store
    from benchsuite.verbs.status import unfinished
    from benchsuite.verbs.summaries import print_status

    found = unfinished(Store.there(store))
    print_json([each.form() for each in found]) if as_json else print_status(found)


@app.command()
def logs(
    key: Annotated[str, typer.Argument(help="A job's key, or how it begins; see `bench status`.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is finished.")] = False,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Write training logs there for TensorBoard: of all results, or of one key.")
    ] = None,
    store: StoreDir = None, out: Out = Path("results"),
) -> None:  # fmt: skip
    """Show what a job printed, and a training's log; or write training logs for TensorBoard.

    bench logs 3fa9 -f

    bench logs --tensorboard tb && tensorboard --logdir tb
    """
    from benchsuite.engine.store import Store
    from benchsuite.verbs.status import find, lines
    from benchsuite.verbs.tensorboard import export, run_of, runs_of

    kept = Store.there(store)
    if tensorboard is not None:
        for folder in export(run_of(kept, key) if key else runs_of(kept, out), tensorboard):
            print(folder)
        return
    if not key:
        raise InputError("logs: needs a job's key, or --tensorboard DIR; bench status and bench store list have keys")
    for line in lines(kept, find(kept, key), follow):
        print(visible(line), flush=True)


@app.command()
def pack(
    recipe: Id, tier: Tier = "smoke", rows: Rows = "", seeds: Seeds = "", data: Data = None, data_root: DataRoot = None,
    sets: Sets = None, store: StoreDir = None, device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Folder of the results files.")] = Path("results"),
    name: Name = "",
    file: Annotated[Path | None, typer.Option("--file", "-o", help="The archive: RECIPE.TIER.tar.xz.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Pack a table's results with all they can be counted from again: detections, truth, seeds; no images, no weights.

    Seeds and settings are those of the results file, where it is there and nothing else is said.

    bench pack har-table1 --tier mini --data ~/mydata -o har-table1.tar.xz
    """
    from benchsuite.engine.store import Store
    from benchsuite.recipe.loading import load_recipe
    from benchsuite.verbs.capsule import earlier
    from benchsuite.verbs.capsule import pack as pack_up
    from benchsuite.verbs.summaries import print_packed

    chosen, named = load_recipe(recipe), name or (data.resolve().name if data else "")
    known = earlier(chosen, tier, named, out)
    planned = trained_of(recipe, tier, rows, seeds, data, data_root, sets, out, named, device)
    target = file or Path(".".join(filter(None, (chosen.id, tier, named, "tar.xz"))))
    found = pack_up(planned, planned.rows[0].recipe, Store(store), target, named, known)
    print_json(found.form()) if as_json else print_packed(found)


@app.command()
def unpack(
    file: Annotated[Path, typer.Argument(help="An archive of `bench pack`.")],
    store: StoreDir = None,
    out: Annotated[Path, typer.Option(help="Where the results file goes.")] = Path("results"),
    force: Annotated[bool, typer.Option(help="Overwrite a results file of unlike settings.")] = False,
) -> None:
    """Take a packed table: its results file, and its jobs into the store, after checking every file of it.

    bench unpack har-table1.tar.xz, then bench compare results/*.json; bench score har-table1.tar.xz counts again
    """
    from benchsuite.engine.store import Store
    from benchsuite.verbs.capsule import unpack as take_out
    from benchsuite.verbs.terminal import print_things

    results, new = take_out(file, Store(store), out, force)
    print_things(f"{results}: {len(new)} jobs were new; bench score {file} counts its numbers again")


@store_app.command("list")
def store_list(store: StoreDir = None, out: Out = Path("results"), as_json: Json = False) -> None:
    """List finished jobs, the largest first, and whether a results file hangs on them.

    bench store list --json | jq 'map(.bytes) | add'
    """
    from benchsuite.engine.store import Store
    from benchsuite.verbs.store import contents
    from benchsuite.verbs.summaries import print_store

    found = contents(Store.there(store), out)
    print_json([each.form() for each in found]) if as_json else print_store(found)


@store_app.command("verify")
def store_verify(store: StoreDir = None, as_json: Json = False) -> None:
    """Read every file of every finished job and compare it with what was recorded when it was written.

    bench store verify
    """
    from benchsuite.engine.store import Store
    from benchsuite.verbs.store import damaged, keys
    from benchsuite.verbs.terminal import print_things

    kept = Store.there(store)
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
    from benchsuite.verbs.store import delete, size, unneeded
    from benchsuite.verbs.summaries import print_pruned

    kept = Store.there(store)
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

    kept = Store.there(store)
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
