"""The command line as a user meets it: verbs, options, JSON contracts, one-line errors."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.main import get_command

from benchsuite.cli import app as cli
from benchsuite.cli.options import trained_of
from benchsuite.recipe.loading import load_recipe
from benchsuite.report.results import load
from benchsuite.report.saving import save
from benchsuite.verbs.plan import make_plan
from benchsuite.verbs.run import _onward

FIXTURES = Path(__file__).parent / "fixtures"


def bench(*arguments: object) -> int:
    """Run the command in this process; its exit code."""
    before = sys.argv
    sys.argv = ["bench", *map(str, arguments)]
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert bench(*arguments) == 0
    return json.loads(capsys.readouterr().out)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line on stderr of an error that exits with 2; `run` may have printed its plan before."""
    assert bench(*arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    return lines[0]


def test_the_options_of_every_verb_are_frozen() -> None:
    """A change to the command line is deliberate: write it here too, and into CHANGELOG."""
    verbs = get_command(cli.app).commands  # type: ignore[attr-defined]
    verbs = {name: verb for name, verb in verbs.items() if name != "data"}
    verbs |= {f"store {name}": verb for name, verb in verbs.pop("store").commands.items()}
    found = {
        name: sorted({option for parameter in verb.params for option in parameter.opts if option.startswith("-")})
        for name, verb in verbs.items()
    }
    source = ["--data", "--data-root", "--seeds", "--set", "--store", "--tier", "-t"]
    assert found == {
        "list": ["--json"],
        "show": ["--json"],
        "plan": sorted(
            [
                *source,
                "--budget",
                "--device",
                "--json",
                "--memory",
                "--micro-batch",
                "--per-job",
                "--recompute",
                "--rows",
                "--spread",
                "--takes",
                "--timed-on",
            ]
        ),
        "inspect": ["--artifact", "--json", "--set", "--store"],
        "run": sorted(
            [
                *source,
                "--budget",
                "--checkpoint-every",
                "--cpus",
                "--compile",
                "--deterministic",
                "--device",
                "--eval-every",
                "--executor",
                "--force",
                "--gpus",
                "--json",
                "--loaders",
                "--micro-batch",
                "--name",
                "--out",
                "--partition",
                "--per-job",
                "--recompute",
                "--rows",
                "--slots",
                "--slurm",
                "--spread",
                "--takes",
                "--time",
                "--timed-on",
                "--workers",
            ]
        ),
        "score": ["--json", "--protocol"],
        "compare": ["--check", "--format", "--json"],
        "plot": sorted(
            [*source, "--against", "--figure", "--format", "--image", "--images", "--name", "--out", "--threshold"]
        ),
        "export": sorted([*source, "--images", "--json", "--name", "--out", "--results", "-o"]),
        "predict": sorted(
            [*source, "--device", "--images", "--json", "--name", "--out", "--results", "--threshold", "-o"]
        ),
        "doctor": ["--data-root", "--json", "--store"],
        "report": ["--file", "--out", "--store", "-o"],
        "status": ["--json", "--store"],
        "logs": ["--follow", "--out", "--store", "--tensorboard", "-f"],
        "add-row": sorted(
            [
                "--anew",
                "--data",
                "--data-root",
                "--detections",
                "--file-name",
                "--json",
                "--name",
                "--out",
                "--protocol",
                "--seed",
                "--set",
                "--store",
                "--tier",
                "--truth",
                "-t",
            ]
        ),
        "pack": sorted([*source, "--device", "--file", "--json", "--name", "--out", "--rows", "-o"]),
        "unpack": ["--force", "--out", "--store"],
        "store list": ["--json", "--out", "--store"],
        "store verify": ["--json", "--store"],
        "store prune": ["--all", "--json", "--out", "--store", "--yes", "-y"],
        "store export": ["--out", "--store"],
        "store import": ["--store"],
    }


def test_list_and_show_load_no_torch() -> None:
    code = (
        "import sys; from benchsuite.cli import app as cli\n"
        "for words in (['--help'], ['list'], ['show', 'har-table1'], ['run', '--help']):\n"
        "    sys.argv = ['bench', *words]\n"
        "    try: cli.main()\n"
        "    except SystemExit: pass\n"
        "assert not {'torch', 'torchvision', 'timm', 'pandas', 'matplotlib'} & set(sys.modules), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_listing_reads_little() -> None:
    """Half of what `list` costs beyond Typer would be these."""
    code = (
        "import sys; from benchsuite.recipe import heading, shelf; from benchsuite.verbs import catalogue\n"
        "from benchsuite.report import figures, gathered, probed\n"
        "headings = [heading.heading(file) for file in shelf.available().values()]\n"
        "catalogue.print_list(headings, gathered.available(), figures.available(), probed.available())\n"
        "assert not {'pydantic', 'rich', 'typer', 'numpy'} & set(sys.modules), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_what_was_run_is_known_from_its_results(tmp_path: Path) -> None:
    """Settings and the row's own seeds, where nothing else is said; of the file of that name and tier alone."""
    stored = load(Path(__file__).parent / "fixtures" / "results" / "har-table1.mini.schema1.json")
    save(stored.model_copy(update={"overrides": ("solver.lr=0.5",)}), tmp_path, "named")

    def known(rows: str, seeds: str = "", sets: list[str] | None = None, name: str = "named") -> tuple[Any, ...]:
        plan = trained_of("har-table1", "mini", rows, seeds, None, None, sets, tmp_path, name)
        return plan.rows[0].seeds, plan.overrides

    changed = ("solver.lr=0.5",)
    assert known("sa-1-1-1") == ((0, 1, 2), changed) and known("sa-5-2-1") == ((0,), changed)
    assert known("") == known("sa-1-2-5") == ((0, 1, 2), changed), "of a row that was not run, the table's"
    assert known("sa-1-1-1", seeds="4") == ((4,), changed)
    assert known("sa-1-1-1", sets=["solver.lr=1"]) == ((0, 1, 2), ("solver.lr=1",))
    assert known("sa-1-1-1", name="") == ((0,), ())


def test_words_for_a_budget_need_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["plan", "har-table1", "--tier", "mini", "--store", str(tmp_path)]
    assert "are for --budget" in complaint(capsys, *words, "--takes", "train=3m")
    assert "are for --budget" in complaint(capsys, *words, "--spread", "1")
    assert "is no time" in complaint(capsys, *words, "--budget", "")
    assert "did you mean 'train'" in complaint(capsys, *words, "--budget", "1h", "--takes", "tarin=3m")
    assert "is no standard deviation" in complaint(capsys, *words, "--budget", "1h", "--spread", "inf")
    assert "--memory" in complaint(capsys, *words, "--budget", "1h", "--memory")


def test_a_run_says_how_to_go_on_where_it_can() -> None:
    recipe = load_recipe("har-table1")
    assert _onward(make_plan([recipe], "smoke"), [recipe]) == "bench run har-table1 --tier mini"
    changed = make_plan([recipe], "smoke", overrides=["solver.lr=1"])
    assert _onward(changed, [recipe]) == "bench run har-table1 --tier mini, with --set as here"
    alone = recipe.model_copy(update={"tiers": {"smoke": recipe.tiers["smoke"]}})
    assert _onward(make_plan([alone], "smoke"), [alone]) == _onward(make_plan([recipe], "paper"), [recipe]) == ""


def test_a_list_folds_at_the_terminals_edge(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench("list") == 0
    wide = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "60")
    assert bench("list") == 0
    narrow = capsys.readouterr().out
    assert max(map(len, narrow.splitlines())) <= 60 < max(map(len, wide.splitlines()))
    assert sorted(narrow.replace("─", "").split()) == sorted(wide.replace("─", "").split())


def test_a_narrow_table_keeps_its_names_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A row's name is copied into a command: other columns fold before it does."""
    monkeypatch.setenv("COLUMNS", "60")
    assert bench("plan", "cat-table6", "--tier", "mini", "--store", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    table, _ = printed.split("mini tier on")
    assert "cat-table6/channel-spatial-no-gep " in table and max(map(len, table.splitlines())) <= 60
    monkeypatch.setenv("COLUMNS", "40")  # too narrow for whole names: folded, not cut
    assert bench("plan", "cat-table6", "--tier", "mini", "--store", str(tmp_path)) == 0
    names = "".join(line[:32].strip() for line in capsys.readouterr().out.split("to do")[0].splitlines())
    assert "cat-table6/channel-spatial-no-gep" in names


def test_list_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    listed = {each["id"]: each for each in told(capsys, "list", "--json")}
    assert listed["har-table1"] == {
        "id": "har-table1", "paper": "har-net", "table": "I", "rows": 5,
        "title": "Spatial attention by stacked dilated convolutions",
    }  # fmt: skip
    shown = told(capsys, "show", "har-table1", "--json")
    assert [column["id"] for column in shown["columns"]] == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert shown["rows"][0] == {
        "id": "baseline", "label": "Baseline", "role": "run",
        "published": {"AP": 35.1, "AP50": 52.9, "AP75": 37.9, "APs": 16.4, "APm": 39.0, "APl": 50.7},
    }  # fmt: skip
    assert bench("list") == 0
    assert bench("show", "har-table1") == 0
    printed = capsys.readouterr().out
    assert "SA(1-2-5-2-1)" in printed
    assert all(name in printed for name in ("plot masks RECIPE/ROW", "plot detections", "--figure ladder"))


def test_plan(capsys: pytest.CaptureFixture[str]) -> None:
    planned = told(capsys, "plan", "*-table1", "har-table1", "--rows", "baseline", "--seeds", "0,1", "--json")
    assert planned["totals"] == {"Train": 2, "Predict": 2, "Score": 2}
    train, predict, score = planned["jobs"][:3]
    assert [train["type"], predict["type"], score["type"]] == [
        "detection.Train",
        "detection.Predict",
        "detection.Score",
    ]
    assert (predict["needs"], score["needs"], train["needs"]) == ([train["key"]], [predict["key"]], [])
    assert train["rows"] == ["har-table1/baseline"]
    assert train["cached"] is False


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--tier", "mini"], [(6, "one seed settles nothing")]),
        (["--tier", "paper", "--seeds", "4"], [(6, "one seed settles nothing")]),
        (["--tier", "smoke", "--seeds", "0,1"], [(6, "numbers of smoke mean nothing")]),
        (["--tier", "mini", "--rows", "baseline,sa-1-1-1"], [(1, "one seed settles nothing")]),
        (["--tier", "mini", "--rows", "baseline"], []),
        (["--tier", "mini", "--seeds", "0,1"], []),
    ],
)
def test_plan_says_what_seeds_cannot_settle(
    arguments: list[str], expected: list[tuple[int, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(capsys, "plan", "har-table1", *arguments, "--json")["unsettled"]
    assert found == [{"recipe": "har-table1", "claims": claims, "reason": reason} for claims, reason in expected]
    assert bench("plan", "har-table1", *arguments) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "settle" in line]
    assert len(lines) == len(expected)


def test_inspect_counts_the_specs_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["id"]: row for row in told(capsys, "inspect", "har-table1", "--json")["rows"]}
    assert rows["baseline"]["parameters"] == 37_387_832
    more = {name: row["parameters"] - 37_387_832 for name, row in rows.items()}
    assert more == {
        "baseline": 0, "sa-1-1-1": 416_485, "sa-1-2-5": 416_485, "sa-5-2-1": 416_485, "sa-1-2-5-2-1": 219_925,
    }  # fmt: skip
    assert rows["baseline"]["input"] == [3, 640, 1024]
    assert rows["baseline"]["anchors"] == 81_840


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "har-tabel1"], "no recipe 'har-tabel1'; did you mean 'har-table1'?"),
        (["run", "har-table1", "--rows", "baselin"], "no row 'baselin'; did you mean 'baseline'?"),
        (["run", "har-table1", "--tier", "larg"], "no tier 'larg'"),
        (["run", "har-table1", "--seeds", "a"], "--seeds a: is not a list of whole numbers"),
        (["run", "har-table1", "--set", "solver.lrr=1"], "did you mean 'lr'?"),
        (["run", "har-table1", "--data", "nowhere"], "nowhere"),
        (["run", "har-table1", "--tier", "paper"], "train2017"),
        (["run", "har-table1", "--device", "tpu"], "--device tpu: unknown device"),
        (["run", "har-table1", "--slots", "0"], "--slots 0: needs a positive number"),
        (["plot", "har-table1"], "holds no results of har-table1; first: bench run har-table1"),
        (["plot", "detections", "har-table1"], "needs RECIPE/ROW"),
        (["plot", "detections", "har-table1/baseline"], "was not run at tier smoke"),
        (["plot", "confuson", "har-table1/baseline"], "is no picture of a row; did you mean 'confusion'?"),
        (["export", "har-table1"], "needs RECIPE/ROW"),
        (["compare", "gone.json"], "gone.json: there is no such file"),
        (["score", "gone.json", "gone2.json"], "gone2.json: no such file or folder"),
        (["data", "verify"], "needs a recipe id or --data DIR"),
        (["inspect", "har-table1", "--set", "x=1"], "unknown key `x`"),
        (["show", "*"], "recipes; give one"),
        (["plot", "masks", "mine.yaml"], "needs RECIPE/ROW"),
        (["export", "./mine.yaml"], "needs RECIPE/ROW"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in complaint(capsys, *arguments)


def test_a_recipe_that_is_a_file_is_called_by_its_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    file = tmp_path / "mine" / "own.yaml"
    file.write_text("id: mine\nextends: _har-ablation.yaml\ntable: A\ntitle: Mine\nrows: [{id: baseline}]\n")
    again = f"first: bench run {file} --rows baseline --tier smoke"
    assert again in complaint(capsys, "plot", "detections", f"{file}/baseline")
    assert again in complaint(capsys, "export", f"{file}/baseline")
    assert f"first: bench run {file} --tier smoke" in complaint(capsys, "plot", file)
    assert bench("show", file) == 0
    assert f"bench run {file} --tier" in " ".join(capsys.readouterr().out.split())


def test_a_missing_split_says_what_to_download_and_where_to(capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(capsys, "run", "har-table1", "--tier", "paper")
    assert "cocodataset.org" in line


def test_a_newer_results_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new.json").write_text('{"schema": 99}')
    assert "new.json: has schema 99" in complaint(capsys, "compare", tmp_path / "new.json")


def test_wrong_options_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("run", "har-table1", "--teir", "smoke") == 2
    assert "No such option" in capsys.readouterr().err


def test_data_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = toy(tmp_path / "toy")
    assert bench("data", "verify", "--data", folder) == 0
    (folder / "val2017" / "1.jpg").write_bytes(b"no image")
    assert bench("data", "verify", "--data", folder) == 1
    assert "1.jpg" in capsys.readouterr().out
    reports = bench("data", "verify", "--data", folder, "--json"), json.loads(capsys.readouterr().out)
    assert reports[0] == 1
    assert reports[1][1]["problems"]


def toy(folder: Path) -> Path:
    """A COCO folder of two classes and four pictures a split."""
    for split in ("train2017", "val2017"):
        (folder / split).mkdir(parents=True)
        images, annotations = [], []
        for number in range(1, 5):
            picture = Image.new("RGB", (160, 96), (40 * number, 90, 120))
            box = (20 + 5 * number, 20, 40, 30 + number)
            picture.paste((250, 250, 20), (box[0], box[1], box[0] + box[2], box[1] + box[3]))
            picture.save(folder / split / f"{number}.jpg")
            images.append({"id": number, "file_name": f"{number}.jpg", "width": 160, "height": 96})
            annotations.append(
                {"id": number, "image_id": number, "category_id": 1 + number % 2, "bbox": box, "iscrowd": 0,
                 "area": box[2] * box[3]}
            )  # fmt: skip
        categories = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{split}.json").write_text(
            json.dumps({"images": images, "annotations": annotations, "categories": categories})
        )
    return folder
