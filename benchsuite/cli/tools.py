"""Verbs about files and this machine: detections, datasets, exports, what is installed."""

import os
from pathlib import Path
from typing import Annotated

import typer

from benchsuite.cli.options import (
    Data,
    DataRoot,
    Device,
    Json,
    Name,
    ResultsDir,
    Seeds,
    Sets,
    StoreDir,
    Tier,
    app,
    complete,
    data_app,
    planned_of,
    target_of,
    trained_of,
)
from benchsuite.errors import InputError, visible
from benchsuite.verbs.terminal import print_json


@app.command()
def score(
    ground_truth: Annotated[
        Path,
        typer.Argument(help="A COCO JSON, a VOCdevkit split (VOCdevkit/VOC2007:test), or an archive of bench pack."),
    ],
    detections: Annotated[
        Path | None, typer.Argument(help="A COCO results JSON, or a folder of VOC comp4 files; none for an archive.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="coco, voc07 (11-point) or voc12 (area).")] = "coco",
    as_json: Json = False,
) -> None:
    """Score anybody's detections; or count a packed table again and exit with 1 where a number comes out otherwise.

    bench score instances_val2017.json detections.json --protocol coco

    bench score har-table1.tar.xz
    """
    from benchsuite.verbs.score import score as score_files
    from benchsuite.verbs.summaries import print_again, print_score

    if detections is not None:
        found = score_files(ground_truth, detections, protocol)
        print_json(found) if as_json else print_score(found)
        return
    from benchsuite.verbs.again import count_again
    from benchsuite.verbs.capsule import opened

    if ground_truth.suffix == ".json" or not ground_truth.is_file():
        raise InputError(f"score {ground_truth}: needs detections too; for instance bench score truth.json found.json")
    with opened(ground_truth) as capsule:
        again = list(count_again(capsule))
    print_json([each.form() for each in again]) if as_json else print_again(again)
    raise typer.Exit(1 if any(each.unlike for each in again) else 0)


@app.command("add-row")
def add_row(
    recipe: Annotated[str, typer.Argument(help="The recipe whose table gets the row.", autocompletion=complete)],
    name: Annotated[str, typer.Option(help="What the row is called: mmdet-retinanet.")],
    detections: Annotated[list[Path], typer.Option(help="COCO results JSON, one a seed. Repeatable.")],
    seed: Annotated[int, typer.Option(help="Seed of the first file; the others count on.", min=0)] = 0,
    truth: Annotated[Path | None, typer.Option(help="The annotations they are for, to be held against ours.")] = None,
    protocol: Annotated[str, typer.Option(help="The protocol they are for, to be held against the table's.")] = "",
    anew: Annotated[
        bool, typer.Option("--anew", help="In place of the row of that name, not as more seeds of it.")
    ] = False,
    tier: Tier = "mini", data: Data = None, data_root: DataRoot = None, sets: Sets = None, store: StoreDir = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results"),
    file_name: Annotated[str, typer.Option(help="Part of the results file's name, as --name of `bench run`.")] = "",
    as_json: Json = False,
) -> None:  # fmt: skip
    """Make another framework's detections a row of a table, with intervals against the table's own rows.

    Settings are those of the results file, where it is there and nothing else is said.

    bench add-row har-table1 --name mmdet-retinanet --detections det.json --tier mini --data ~/mydata
    """
    from benchsuite.engine.store import Store
    from benchsuite.report.compare import compare
    from benchsuite.report.results import load
    from benchsuite.report.tables import render
    from benchsuite.verbs.foreign import Row, odd
    from benchsuite.verbs.foreign import add_row as add
    from benchsuite.verbs.terminal import print_things

    planned = trained_of(recipe, tier, "", "", data, data_root, sets, out, file_name)
    files = add(planned, Store(store), out, file_name, Row(name, tuple(detections), seed, truth, protocol, anew))
    results = load(files[0])
    print_things(*odd(planned, results.row(name), Store(store)), to_stderr=True)
    if as_json:
        print_json({"files": [file.as_posix() for file in files], "row": results.row(name).model_dump(mode="json")})
    else:
        render(compare([results]))
        print_things(f"written: {' '.join(file.as_posix() for file in files)}")


@app.command()
def export(
    target: Annotated[str, typer.Argument(help="RECIPE/ROW, trained before.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("model.onnx"),
    tier: Tier = "smoke", seeds: Seeds = "", data: Data = None, data_root: DataRoot = None, sets: Sets = None,
    store: StoreDir = None, results: ResultsDir = Path("results"), name: Name = "",
    images: Annotated[int, typer.Option(help="On how many pictures to hold it against torch.", min=0)] = 4,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Write a trained detector as an ONNX file of standard operators, and hold its detections against torch's.

    Seed and settings are those of the results file, where it is there and nothing else is said.

    bench export pod-table2/retina-50-fd --tier mini -o retina.onnx
    """
    from benchsuite.engine.store import Store
    from benchsuite.verbs.export import export as write
    from benchsuite.verbs.summaries import print_export

    recipe, row = target_of("export", target)
    planned = trained_of(recipe, tier, row, seeds, data, data_root, sets, results, name)
    found = write(planned, Store(store), out, images)
    print_json(found.form()) if as_json else print_export(found)


@app.command()
def predict(
    target: Annotated[str, typer.Argument(help="RECIPE/ROW, trained before.")],
    images: Annotated[Path, typer.Option(help="A folder of pictures.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to.")] = Path("predicted"),
    threshold: Annotated[float, typer.Option(help="The least score drawn.", min=0, max=1)] = 0.3,
    tier: Tier = "smoke", seeds: Seeds = "", data: Data = None, data_root: DataRoot = None, sets: Sets = None,
    store: StoreDir = None, results: ResultsDir = Path("results"), name: Name = "",
    device: Device = "auto", as_json: Json = False,
) -> None:  # fmt: skip
    """Detect on a folder of pictures with a trained row: COCO results and drawn pictures.

    Seed and settings are those of the results file, where it is there and nothing else is said.

    bench predict har-table1/baseline --tier mini --images ~/pictures
    """
    from benchsuite.engine.store import Store
    from benchsuite.verbs.predict import predict as predict_on
    from benchsuite.verbs.terminal import print_things

    recipe, row = target_of("predict", target)
    planned = trained_of(recipe, tier, row, seeds, data, data_root, sets, results, name, device)
    found = predict_on(planned, Store(store), images, out, threshold)
    if as_json:
        print_json(found.form())
    else:
        print_things(*found.notes, to_stderr=True)
        for file in (found.results, *found.pictures):
            print(visible(file))


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
    from benchsuite.verbs.summaries import print_verified

    if data_root is not None:
        os.environ["BENCH_DATA"] = str(data_root)
    if recipe:
        splits = planned_of([recipe], tier, "", "", data, data_root, None).rows[0].pipeline.data
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
    from benchsuite.verbs.summaries import print_checks

    if data_root is not None:
        os.environ["BENCH_DATA"] = str(data_root)
    checks = examine(store)
    print_json([check.form() for check in checks]) if as_json else print_checks(checks)
    raise typer.Exit(0 if all(check.ok for check in checks if check.needed) else 1)
