"""Foreign rows: other people's detections as rows of a table, and what a gain is made of."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_cases import SHARED, one_line, shared
from foreign_cases import dataset, guessed, planned, planted, written
from test_capsule import unlike
from test_cli import bench, told

from benchsuite.data.split import opened
from benchsuite.engine.progress import Reporter
from benchsuite.engine.schedule import run_jobs
from benchsuite.engine.slots import Slots
from benchsuite.engine.store import Store
from benchsuite.errors import InputError
from benchsuite.metrics.metric import Found
from benchsuite.pipelines.detection import Detection
from benchsuite.report.compare import compare
from benchsuite.report.grids import section_grids
from benchsuite.report.results import Results, load
from benchsuite.report.saving import merged, save
from benchsuite.verbs.again import count_again
from benchsuite.verbs.capsule import opened as opened_capsule
from benchsuite.verbs.capsule import pack, unpack
from benchsuite.verbs.collect import collect
from benchsuite.verbs.foreign import Row, add_row
from benchsuite.verbs.plan import Plan
from benchsuite.verbs.score import score


class Case:
    """A table of two rows that were scored, and another framework's detections of two seeds."""

    def __init__(self, folder: Path) -> None:
        self.data = dataset(folder / "toy")
        self.truth = self.data / "annotations" / "instances_val2017.json"
        self.store, self.out = Store(folder / "store"), folder / "results"
        self.plan: Plan = planned(self.data)
        pipeline = self.plan.rows[0].pipeline
        assert isinstance(pipeline, Detection)
        self.val = opened(pipeline.data.cut("val"))
        planted(self.plan, self.store, {"baseline": 6.0, "sa-1-1-1": 4.0})
        self.files = tuple(
            written(folder / f"det{seed}.json", self.val, guessed(self.val, 2.0, 50 + seed)) for seed in range(2)
        )

    def add(self, **changes: object) -> Results:
        row = Row(**{"name": "theirs", "files": self.files} | changes)  # type: ignore[arg-type]
        return load(add_row(self.plan, self.store, self.out, "", row)[0])


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("foreign"))


def test_a_foreign_row_is_scored_as_any_detections(case: Case) -> None:
    results = case.add()
    row = results.row("theirs")
    for place, file in enumerate(case.files):
        scored = score(case.truth, file, "coco")
        for column, cell in row.measured.items():
            assert cell.values[place] == scored[column], "to the bit"
    assert row.foreign is not None and [each.name for each in row.foreign.files] == ["det0.json", "det1.json"]
    assert row.name == "theirs (foreign)" and row.status == "partial" and row.foreign.scored_by.startswith("benchsuite")
    text = (case.out / "har-table1.mini.toy.md").read_text()
    assert "theirs (foreign)" in text and "det0.json (sha256" in text and "not trained here" in text
    assert (case.out / "har-table1.mini.toy.png").stat().st_size > 1000


def test_it_stands_against_the_tables_rows_with_paired_intervals(case: Case) -> None:
    results = case.add()
    section = compare([results]).sections[0]
    assert {(each.other, each.on) for each in section.foreign} == {
        (row, on) for row in ("baseline", "sa-1-1-1") for on in ("AP", "APs")
    }  # fmt: skip
    for each in section.foreign:
        if each.on == "AP":
            means = [np.mean(list(results.values(row, "AP").values())) for row in ("theirs", each.other)]
            assert each.difference.mean == pytest.approx(means[0] - means[1])
            assert each.images is not None and each.both is not None
            assert each.images[0] < each.difference.mean < each.images[1]
            assert each.both[0] <= each.images[0] and each.both[1] >= each.images[1], "seeds add to it"
    grid = section_grids(section, [section])[-1]
    assert grid.title.startswith("Foreign rows") and [line[1] for line in grid.lines] == ["Baseline", "SA(1-1-1)"]
    assert grid.lines[0][2].count("[") == 1


def test_a_row_of_others_moves_no_verdict(case: Case) -> None:
    """Its seeds share nothing with ours, so that they tell nothing of our spread."""
    bare = collect(case.plan, case.plan.rows[0].recipe, case.store)
    with_row = case.add()
    first, second = (compare([each]).sections[0].claims for each in (bare, with_row))
    assert [(one.p, one.df, one.verdict) for one in first] == [(one.p, one.df, one.verdict) for one in second]
    assert any(one.p is not None for one in first)


def test_it_stays_when_the_table_is_run_again(case: Case) -> None:
    before = case.add()
    new = collect(case.plan, case.plan.rows[0].recipe, case.store)
    after = merged(before, new)
    assert after.row("theirs").measured == before.row("theirs").measured
    assert [each.id for each in after.rows][-1] == "theirs" and after.row("theirs").foreign is not None
    assert any(each.images for each in compare([after]).sections[0].foreign)
    again = case.add(files=case.files[:1])
    assert again.values("theirs", "AP") == before.values("theirs", "AP"), "a seed of it"
    again = case.add(files=case.files[:1], anew=True)
    assert len(again.values("theirs", "AP")) == 1, "it takes the place of the one before"
    (one,) = (each for each in compare([again]).sections[0].foreign if (each.other, each.on) == ("baseline", "AP"))
    assert one.images is not None and one.both is None, "a single seed has an interval over images alone"


def test_an_interval_of_other_numbers_is_not_shown(case: Case, tmp_path: Path) -> None:
    """The table's row was measured anew, with other seeds or other settings."""
    results = case.add()
    rows = [
        row.model_copy(update={"measured": {"AP": row.measured["AP"].of([10.0, 11.0, 12.0])}})
        if row.id == "baseline" else row for row in results.rows
    ]  # fmt: skip
    changed = results.model_copy(update={"rows": tuple(rows)})
    stale = [each for each in compare([changed]).sections[0].foreign if (each.other, each.on) == ("baseline", "AP")]
    assert [each.images for each in stale] == [None]
    assert load(save(changed, tmp_path)).row("theirs").foreign == results.row("theirs").foreign


def test_what_is_not_of_the_table_is_refused(case: Case, tmp_path: Path) -> None:
    data = guessed(case.val, 2.0, 1)
    strange = json.loads(case.files[0].read_text())
    for field, value, told_ in (("image_id", 99, "image_id 99"), ("category_id", 2, "category_id 2")):
        file = tmp_path / f"{field}.json"
        file.write_text(json.dumps([{**strange[0], field: value}]))
        with pytest.raises(InputError) as error:
            case.add(files=(file,))
        one_line(error, file.name, told_)
    half = Found(*(getattr(data, name)[data.image_ids <= 8] for name in ("image_ids", "boxes", "scores", "labels")))
    few = written(tmp_path / "few.json", case.val, half)
    nothing = tmp_path / "nothing.json"
    nothing.write_text("[]")
    refused = [
        ({"files": (few,)}, "detects nothing on 16 of the 24 images"),
        ({"files": (nothing,)}, "detects nothing on 24 of the 24 images"),
        ({"protocol": "voc07"}, "is scored by coco"),
        ({"name": "baseline"}, "is a row of har-table1 itself"),
        ({"name": "../x"}, "an id names files"),
        ({"seed": 2}, "would be of seed 3, and the table has 0, 1, 2"),
        ({"truth": case.data / "annotations" / "instances_train2017.json"}, "has other"),
    ]
    for changes, told_ in refused:
        with pytest.raises(InputError) as error:
            case.add(**changes)
        one_line(error, told_)
    renamed = json.loads(case.truth.read_text())
    renamed["categories"][0]["name"] = "mug"
    (tmp_path / "renamed.json").write_text(json.dumps(renamed))
    with pytest.raises(InputError, match="other classes"):
        case.add(truth=tmp_path / "renamed.json")
    confirmed = case.add(name="few", files=(few,), truth=case.truth, protocol="coco")
    assert confirmed.values("few", "AP")[0] == score(case.truth, few, "coco")["AP"]
    with pytest.raises(InputError, match="No such file"):
        case.add(files=(tmp_path / "none.json",))


def test_a_row_that_finds_nothing(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where its owner says so: AP 0, an interval, and figures that say as much."""
    (tmp_path / "nothing.json").write_text("[]")
    results = case.add(name="nothing", files=(tmp_path / "nothing.json",), truth=case.truth)
    assert results.values("nothing", "AP") == {0: 0.0}
    against = [each for each in compare([results]).sections[0].foreign if each.row == "nothing" and each.on == "AP"]
    assert all(each.images is not None and each.images[1] < 0 for each in against) and len(against) == 2
    words = ["--tier", "mini", "--data", case.data, "--store", case.store.root, "--out", case.out, "--seeds", "0,1,2"]
    for name in ("pr", "confusion", "calibration"):
        assert bench("plot", name, "har-table1/nothing", *words) == 0
    assert bench("plot", "why", "har-table1/nothing", *words) == 0
    assert capsys.readouterr().err.startswith("−")


def test_unlike_results_are_left_alone(case: Case, tmp_path: Path) -> None:
    """A file of other settings: it is neither added to nor overwritten."""
    results = collect(case.plan, case.plan.rows[0].recipe, case.store)
    other = results.model_copy(update={"overrides": ("solver.lr=1",)})
    file = save(other, tmp_path, "toy")
    before = file.read_text()
    with pytest.raises(InputError, match="other settings"):
        add_row(case.plan, case.store, tmp_path, "", Row("theirs", case.files))
    assert file.read_text() == before


def test_the_command(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["add-row", "har-table1", "--name", "theirs", "--detections", case.files[0], "--detections", case.files[1],
             "--data", case.data, "--store", case.store.root, "--out", case.out]  # fmt: skip
    form = told(capsys, *words, "--json")
    assert form["row"]["role"] == "foreign" and form["files"][0].endswith("har-table1.mini.toy.json")
    assert bench(*words) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "theirs (foreign)" in out and "Foreign rows (mini" in out


def test_a_capsule_has_the_foreign_rows_too(case: Case, tmp_path: Path) -> None:
    known = case.add()
    recipe = case.plan.rows[0].recipe
    made = pack(case.plan, recipe, case.store, tmp_path / "har.tar.xz", known=known)
    assert not any("theirs" in each for each in made.absent)
    with opened_capsule(tmp_path / "har.tar.xz") as capsule:
        assert capsule.results.row("theirs") == known.row("theirs")
        again = [each for each in count_again(capsule) if "theirs" in each.what]
    assert again and not any(each.unlike for each in again)
    (their,) = (row for row in known.rows if row.id == "theirs")
    assert their.foreign is not None and {one.row for one in their.foreign.against} == {"baseline", "sa-1-1-1"}

    def wider(held: dict[str, bytes]) -> None:
        form = json.loads(held["capsule/results.json"])
        next(row for row in form["rows"] if row["id"] == "theirs")["foreign"]["against"][0]["high"] += 1
        held["capsule/results.json"] = json.dumps(form).encode()

    with opened_capsule(unlike(tmp_path / "har.tar.xz", tmp_path / "forged.tar.xz", wider)) as capsule:
        (told,) = [each for each in count_again(capsule) if each.unlike]
    one = their.foreign.against[0]
    assert told.what == "the foreign row theirs" and list(told.unlike) == [f"{one.on} over {one.row}"]
    (recorded, now) = told.unlike[f"{one.on} over {one.row}"]
    assert now == [one.difference, one.low, one.high] and recorded == [one.difference, one.low, one.high + 1]
    results, _ = unpack(tmp_path / "har.tar.xz", Store(tmp_path / "there"), tmp_path / "results")
    assert any(each.images for each in compare([load(results)]).sections[0].foreign)


def test_why_a_row_gains(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case.add()
    words = ["--tier", "mini", "--data", case.data, "--store", case.store.root, "--out", case.out, "--seeds", "0,1,2"]
    assert bench("plot", "why", "har-table1/sa-1-1-1", *words) == 0
    captured = capsys.readouterr()
    files = [Path(line) for line in captured.out.split()]
    assert [file.name for file in files] == [f"har-table1.mini.toy.sa-1-1-1.why.{end}" for end in ("png", "csv")]
    told = files[1].read_text()
    assert bench("plot", "why", "har-table1/sa-1-1-1", *words[:-2]) == 0
    assert files[1].read_text() == told, "seeds are those of the results file"
    capsys.readouterr()
    lines = [line.split(",") for line in told.splitlines()[1:]]
    parts = {(group, part): [float(number) for number in numbers] for group, part, *numbers in lines}
    assert {group for group, _ in parts} == {"total", "error", "overlap", "size", "class"}
    results = collect(case.plan, case.plan.rows[0].recipe, case.store)
    means = [np.mean(list(results.values(row, "AP").values())) for row in ("sa-1-1-1", "baseline")]
    assert parts["total", "AP"][0] == pytest.approx(means[0] - means[1])
    assert parts["error", "localisation"][0] > 2, "the boxes are two pixels nearer, and nothing else is better"
    assert all(low <= gain <= high for gain, low, high in parts.values())
    assert " ".join(captured.err.split()).startswith(f"+{means[0] - means[1]:.1f} AP [")
    assert bench("plot", "why", "har-table1/theirs", "--against", "sa-1-1-1", *words) == 0
    assert "theirs.against.sa-1-1-1.why.png" in capsys.readouterr().out
    assert bench("plot", "why", "har-table1/sa-1-1-1", "--against", "sa-1-1-1", *words) == 2
    assert "sa-1-1-1 against itself shows nothing; name another row" in capsys.readouterr().err
    assert bench("plot", "why", "har-table1/baseline", *words) == 2
    assert "has no baseline in har-table1; name the other row" in capsys.readouterr().err
    assert bench("plot", "why", "har-table1/sa-1-2-5", *words) == 2
    assert "its detections are not in the store; first: bench run har-table1" in capsys.readouterr().err
    assert bench("plot", "pr", "har-table1/their", *words) == 2
    assert "no row 'their'; did you mean 'theirs'" in capsys.readouterr().err


def test_why_has_the_interval_of_the_claim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over seeds and images, the table's other rows telling of the spread over seeds."""
    case = Case(tmp_path)
    planted(case.plan, case.store, {"sa-5-2-1": 5.0})
    recipe = case.plan.rows[0].recipe
    wanted = next(claim for claim in recipe.claims if claim.rows == ("sa-1-1-1", "baseline"))
    jobs = [job for (_, claim, _), job in case.plan.differences.items() if claim == wanted]
    needed = [each for job in jobs for each in (*job.inputs.values(), job)]
    assert not run_jobs(needed, case.store, slots=Slots.on("cpu"), progress=Reporter()).failures
    section = compare([collect(case.plan, recipe, case.store)]).sections[0]
    both = next(claim.both for claim in section.claims if claim.claim.rows == wanted.rows)
    words = ["--tier", "mini", "--data", case.data, "--store", case.store.root, "--out", case.out, "--seeds", "0,1,2"]
    assert bench("plot", "why", "har-table1/sa-1-1-1", *words) == 0
    file = Path(capsys.readouterr().out.split()[1])
    total = next(line.split(",") for line in file.read_text().splitlines() if line.startswith("total,"))
    assert both is not None and [float(each) for each in total[3:]] == pytest.approx(both)


@pytest.mark.parametrize(("name", "row", "head"), [
    ("pr", "theirs", "of,name,recall,precision"), ("confusion", "baseline", "true,found,count"),
    ("calibration", "theirs", "from,to,detections,score,right"),
])  # fmt: skip
def test_curves_confusion_and_calibration(
    case: Case, capsys: pytest.CaptureFixture[str], name: str, row: str, head: str
) -> None:
    case.add()
    words = ["--tier", "mini", "--data", case.data, "--store", case.store.root, "--out", case.out, "--seeds", "0"]
    assert bench("plot", name, f"har-table1/{row}", *words) == 0
    picture, numbers = (Path(line) for line in capsys.readouterr().out.split())
    assert picture.stat().st_size > 1000 and numbers.read_text().splitlines()[0] == head


@pytest.mark.slow
@shared
def test_torchvisions_detector_on_real_photographs(tmp_path: Path) -> None:
    """One that saw no training, so that any row of ours will do: what is scored is what `bench score` scores."""
    import torch
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    folder = SHARED / "coco_open"
    plan, store = planned(folder), Store(tmp_path / "store")
    planted(plan, store, {"baseline": 40.0}, seeds=[0])
    pipeline = plan.rows[0].pipeline
    assert isinstance(pipeline, Detection)
    val = opened(pipeline.data.cut("val"))
    torch.manual_seed(0)
    classes = len(val.classes)
    model = ssdlite320_mobilenet_v3_large(weights_backbone=None, num_classes=classes + 1, score_thresh=0.0).eval()
    parts = []
    with torch.inference_mode():
        for index, id_ in enumerate(val.image_ids.tolist()):
            (seen,) = model([torch.from_numpy(val.read(index)).permute(2, 0, 1) / 255])
            label = seen["labels"].numpy() - 1
            parts.append(Found(np.full(len(label), id_), seen["boxes"].numpy(), seen["scores"].numpy(), label))
    columns = (np.concatenate([getattr(part, name) for part in parts]) for name in ("image_ids", "boxes", "scores"))
    found = Found(*columns, np.concatenate([part.labels for part in parts]))
    file = written(tmp_path / "torchvision.json", val, found)
    truth = folder / "annotations" / "instances_val2017.json"
    results = load(add_row(plan, store, tmp_path / "results", "", Row("torchvision-ssdlite", (file,), truth=truth))[0])
    expected = score(truth, file, "coco")
    measured = results.row("torchvision-ssdlite").measured
    assert {name: cell.values[0] for name, cell in measured.items()} == {name: expected[name] for name in measured}
    (against,) = (each for each in compare([results]).sections[0].foreign if each.on == "AP")
    assert against.images is not None and against.images[0] < against.difference.mean < against.images[1]


def test_seeds_of_a_row_come_one_after_the_other(case: Case, tmp_path: Path) -> None:
    first = case.add(name="later", files=case.files[:1])
    both = case.add(name="later", files=case.files[1:2], seed=1)
    assert both.values("later", "AP") == case.add(name="at-once").values("at-once", "AP")
    assert both.values("later", "AP")[0] == first.values("later", "AP")[0]
    with pytest.raises(InputError, match="is the file of seed 0 too"):
        case.add(name="later", files=case.files[:1], seed=1)
    with pytest.raises(InputError, match="is the file of seed 0 too"):
        case.add(name="twice", files=(case.files[0], case.files[0]))
    with pytest.raises(InputError, match="is a row of har-table1 itself"):
        case.add(name="Baseline")


def test_figures_are_of_the_row_of_the_file_that_is_named(case: Case, tmp_path: Path) -> None:
    """Two files have a row of that name."""
    words = ["--tier", "mini", "--data", case.data, "--store", case.store.root, "--out", tmp_path]
    for name, files in (("one", case.files[:1]), ("two", case.files[1:2])):
        add_row(case.plan, case.store, tmp_path, name, Row("theirs", files))
    assert bench("plot", "pr", "har-table1/theirs", *words) == 2
    drawn = []
    for name in ("one", "two"):
        assert bench("plot", "pr", "har-table1/theirs", *words, "--name", name) == 0
        drawn.append((tmp_path / f"har-table1.mini.{name}.theirs.pr.csv").read_text())
    assert drawn[0] != drawn[1]


def test_scores_that_are_no_shares(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = json.loads(case.files[0].read_text())
    (tmp_path / "percent.json").write_text(json.dumps([{**each, "score": 100 * each["score"]} for each in entries]))
    found = case.add(name="percent", files=(tmp_path / "percent.json",))
    assert found.values("percent", "AP")[0] == pytest.approx(case.add().values("theirs", "AP")[0])
    words = ["--tier", "mini", "--data", case.data, "--store", case.store.root, "--out", case.out]
    for name in ("calibration", "confusion"):
        assert bench("plot", name, "har-table1/percent", *words) == 2
        assert "this figure is of scores from 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize(("change", "told"), [
    (lambda x, y, w, h: [x, y, x + w, y + h], "end beyond their image"),
    (lambda x, y, w, h: [x / 160, y / 120, w / 160, h / 120], "lie between 0 and 1"),
    (lambda x, y, w, h: [x + w, y + h, -w, -h], "have a side of zero or less"),
])  # fmt: skip
def test_what_looks_odd_is_told(
    case: Case, tmp_path: Path, change: Callable[..., list[float]], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = json.loads(case.files[0].read_text())
    kept = [each for each in entries if each["bbox"][0] + each["bbox"][2] > 90]
    for each in kept:
        each["bbox"] = change(*each["bbox"])
    (tmp_path / "odd.json").write_text(json.dumps(kept))
    assert any(told in note for note in score(case.truth, tmp_path / "odd.json", "coco")["notes"])  # type: ignore[union-attr,operator]
    assert bench("score", case.truth, tmp_path / "odd.json") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert told in printed and "notes" not in printed
    words = ["--data", case.data, "--store", case.store.root, "--out", case.out, "--truth", case.truth]
    assert bench("add-row", "har-table1", "--name", "odd", "--detections", tmp_path / "odd.json", *words, "--anew") == 0
    assert told in " ".join(capsys.readouterr().err.split())
    assert "notes" not in score(case.truth, case.files[0], "coco")


def test_images_may_be_called_by_their_files_names(case: Case, tmp_path: Path) -> None:
    entries = json.loads(case.files[0].read_text())
    expected = score(case.truth, case.files[0], "coco")
    for called in ("{}", "{}.png"):
        named = [{**each, "image_id": called.format(each["image_id"])} for each in entries]
        (tmp_path / "named.json").write_text(json.dumps(named))
        assert score(case.truth, tmp_path / "named.json", "coco") == expected
