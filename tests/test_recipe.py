from itertools import permutations
from pathlib import Path

import pytest

from benchsuite.errors import InputError
from benchsuite.models.timm_backbone import Timm
from benchsuite.pipelines.detection import Detection
from benchsuite.recipe.heading import Heading, heading
from benchsuite.recipe.loading import load, select
from benchsuite.recipe.recipe import Recipe
from benchsuite.recipe.shelf import available
from benchsuite.recipe.yamlfile import parse, parse_value
from benchsuite.verbs.plan import make_plan

PARENT = """
paper: {id: p, title: A paper, cite: "arXiv 1"}
columns: [AP, {id: error, better: lower}]
baseline: a
base: {solver: {lr: 1e-3, drops: [1, 2]}, model: {depth: 50}}
tiers:
  smoke: {seeds: [0, 1], solver: {lr: 2}}
  paper: {}
"""
CHILD = """
id: table
extends: _parent.yaml
table: I
title: Something
rows:
  - {id: a, published: {AP: 35.10, error: null}}
  - id: b
    model: {width: 3}
    published: {AP: {mean: 1.5, std: 0.2}}
    tiers: {smoke: {solver: {lr: 5, drops: [7]}}}
  - {id: q, role: quoted, cite: "[3]", published: {AP: 30}}
claims:
  - {better: b, than: a, on: AP}
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "_parent.yaml").write_text(PARENT)
    file = tmp_path / "table.yaml"
    file.write_text(CHILD)
    return file


def test_settings_compose_in_one_order(table: Path) -> None:
    recipe = load(table)
    row = recipe.row("b")
    assert recipe.compose(recipe.row("a"), "smoke").value == {
        "solver": {"lr": 2, "drops": [1, 2]},
        "model": {"depth": 50},
    }
    composed = recipe.compose(row, "smoke", {"train": "T"}, ["solver.lr=7", "model.width=[4]"]).value
    assert composed == {
        "solver": {"lr": 7, "drops": [7]},
        "model": {"depth": 50, "width": [4]},
        "data": {"train": "T"},
    }
    assert recipe.compose(row, "paper").value["solver"] == {"lr": 1e-3, "drops": [1, 2]}


PARTS = """
id: parts
paper: {id: p, title: A paper, cite: "arXiv 1"}
columns: [AP]
table: I
title: Something
base: {kind: whole.A, model: {backbone: {kind: a.A, depth: 50, edits: [x]}, head: {width: 3}}}
tiers: {smoke: {model: {backbone: {depth: 18}}}, mini: {model: {backbone: {kind: c.C, size: 1}}}, paper: {}}
rows:
  - {id: one}
  - id: other
    kind: whole.B
    model: {backbone: {kind: b.B, name: n}}
    tiers: {smoke: {model: {backbone: {name: small}}}}
  - {id: same, model: {backbone: {kind: a.A, edits: []}}}
"""
A_50, B_N = {"kind": "a.A", "depth": 50, "edits": ["x"]}, {"kind": "b.B", "name": "n"}


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    file = tmp_path / "parts.yaml"
    file.write_text(PARTS)
    return file


def backbone(recipe: Recipe, row: str, tier: str, *overrides: str) -> object:
    composed = recipe.compose(recipe.row(row), tier, None, overrides)
    assert composed.value["model"]["head"] == {"width": 3}
    return composed.value["model"]["backbone"]


def test_another_kind_replaces_the_mapping_and_the_same_kind_changes_it(parts: Path) -> None:
    recipe = load(parts)
    assert backbone(recipe, "one", "paper") == A_50
    assert backbone(recipe, "one", "mini") == {"kind": "c.C", "size": 1}
    assert backbone(recipe, "other", "paper") == B_N
    assert backbone(recipe, "other", "smoke") == {"kind": "b.B", "name": "small"}
    assert backbone(recipe, "other", "mini") == B_N
    assert backbone(recipe, "same", "paper") == {"kind": "a.A", "depth": 50, "edits": []}
    assert recipe.compose(recipe.row("other"), "paper").value["kind"] == "whole.B"


@pytest.mark.parametrize("row", ["one", "other", "same"])
@pytest.mark.parametrize("tier", ["smoke", "mini", "paper"])
def test_several_settings_below_a_new_kind_compose_in_any_order(parts: Path, row: str, tier: str) -> None:
    asked = ["model.backbone.name=y", "model.backbone.kind=d.D", "model.backbone.sides=[1]"]
    for order in permutations(asked):
        assert backbone(load(parts), row, tier, *order) == {"kind": "d.D", "name": "y", "sides": [1]}


def test_a_new_kind_from_outside_is_where_errors_point(parts: Path) -> None:
    recipe = load(parts)
    composed = recipe.compose(recipe.row("one"), "smoke", None, ["model.backbone.kind=b.B"])
    assert str(composed.origin(("model", "backbone", "name"))) == "--set model.backbone.kind=b.B"


@pytest.mark.parametrize(
    ("own", "tier", "expected"),
    [
        # what the parent's tier says of the old kind goes with it
        ("base: {model: {backbone: {kind: b.B, name: n}}}", "smoke", B_N),
        ("tiers: {smoke: {model: {backbone: {kind: b.B, name: n}}}}", "smoke", B_N),
        ("tiers: {smoke: {model: {backbone: {kind: b.B, name: n}}}}", "paper", A_50),
        # a parent's tier that names a kind itself says so of every base
        ("base: {model: {backbone: {kind: b.B, name: n}}}", "mini", {"kind": "c.C", "size": 1}),
        ("tiers: {mini: {model: {backbone: {size: 2}}}}", "mini", {"kind": "c.C", "size": 2}),
        ("tiers: {mini: {model: {backbone: {kind: a.A, depth: 1}}}}", "mini", A_50 | {"depth": 1}),
        # the settings as a whole are no part
        ("base: {kind: whole.C}", "smoke", A_50 | {"depth": 18}),
    ],
)
def test_a_recipe_exchanges_a_part_of_the_one_it_extends(parts: Path, own: str, tier: str, expected: object) -> None:
    child = parts.parent / "child.yaml"
    child.write_text(f"extends: parts.yaml\nid: child\n{own}\n")
    assert backbone(load(child), "one", tier) == expected


def test_a_row_made_like_another_may_exchange_its_parts(parts: Path) -> None:
    change = {"model": {"backbone": {"kind": "d.D"}}}
    for like in ("one", "other", "same"):
        recipe = load(parts).with_row("new", like=like, change=change)
        assert {str(backbone(recipe, "new", tier)) for tier in recipe.tiers} == {"{'kind': 'd.D'}"}


@pytest.mark.parametrize("tier", ["smoke", "mini", "paper"])
def test_a_backbone_of_another_kind_from_the_command_line(tier: str) -> None:
    recipe = select(["har-table1"])[0]
    overrides = ["model.backbone.kind=timm_backbone.Timm", "model.backbone.name=resnet18"]
    plan = make_plan([recipe], tier, rows=["baseline"], overrides=overrides)
    detection = plan.rows[0].pipeline
    assert isinstance(detection, Detection)
    assert detection.model.backbone == Timm(name="resnet18")  # type: ignore[attr-defined]  # RetinaNet has one


def test_every_setting_knows_where_it_was_written(table: Path) -> None:
    composed = (recipe := load(table)).compose(recipe.row("b"), "smoke", None, ["model.depth=9"])
    assert str(composed.origin(("solver", "lr"))) == "table.yaml:11"
    assert str(composed.origin(("model", "width"))) == "table.yaml:9"
    assert str(composed.origin(("model", "depth"))) == "--set model.depth=9"


def test_published_numbers_keep_their_printed_decimals(table: Path) -> None:
    columns = {column.id: column for column in load(table).columns}
    assert (columns["AP"].decimals, columns["error"].better) == (2, "lower")


def test_on_is_a_word_and_1e_4_a_number() -> None:
    assert parse("{on: no, lr: 1e-4, half: .5, none: ~}", "x").value == {
        "on": "no",
        "lr": 1e-4,
        "half": 0.5,
        "none": None,
    }
    assert parse_value("[1, true, text]") == [1, True, "text"]


def test_baselines_and_roles(table: Path) -> None:
    recipe = load(table)
    assert [recipe.baseline_of(row) for row in recipe.rows] == [None, "a", None]
    assert recipe.seeds_of("smoke") == (0, 1)
    assert recipe.seeds_of("paper") == (0,)


def test_with_row_changes_a_copy(table: Path) -> None:
    recipe = load(table).with_row("wide", like="b", change={"model": {"width": 9}})
    assert recipe.compose(recipe.row("wide"), "paper").value["model"] == {"depth": 50, "width": 9}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("colums: [AP]", "table.yaml:15: unknown key `colums`; did you mean 'columns'?"),
        ("baseline: bb", "table.yaml:15: no row 'bb'; did you mean 'b'?"),
        ("claims: [{better: b, than: c, on: AP}]", "table.yaml:15: key 'claims' stands twice; keep one"),
        ("tiers: {smok: {}}", "table.yaml:15: no tier 'smok'; did you mean 'smoke'?"),
        ("seeds: [x]", "table.yaml:15: `seeds.0` is 'x': input should be a valid integer"),
        ("base: &a {x: 1}\nseeds: *a", "table.yaml:15: anchors and aliases are not used in recipes"),
        ("base: !!python/object:os.system {}", "tag tag:yaml.org,2002:python/object:os.system is not allowed"),
        ("base: [1]", "table.yaml:15: `base` is a mapping of settings"),
        ("base: {x: 1", "table.yaml:16: not valid YAML"),
    ],
)
def test_mistakes_name_file_line_and_cure(table: Path, change: str, told: str) -> None:
    table.write_text(CHILD + change + "\n")
    with pytest.raises(InputError) as raised:
        load(table)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("AP: 35.10", "APP: 35.1", "no column 'APP'; did you mean 'AP'?"),
        ("on: AP}\n", "on: APs}\n", "no column 'APs'"),
        ("better: b, than: a", "better: b", "a claim is {better: ROW, than: ROW, on: COLUMN, by: N}"),
        (
            "better: b, than: a",
            "better: b, than: a, within: 0.3",
            "a claim is {better: ROW, than: ROW, on: COLUMN, by: N}",
        ),
        ("better: b, than: a", "better: b, than: a, by: -1", "`claims.0.by` is -1"),
        ("id: b\n", "id: a\n", "row id 'a' stands twice"),
        ("_parent.yaml", "_gone.yaml", "table.yaml:3: `extends: _gone.yaml` is not there"),
        ("role: quoted", "role: cited", "`rows.2.role` is 'cited'"),
        ("title: Something", "", "`title` is missing"),
    ],
)
def test_references_are_checked(table: Path, old: str, new: str, told: str) -> None:
    table.write_text(CHILD.replace(old, new))
    with pytest.raises(InputError) as raised:
        load(table)
    assert told in str(raised.value)


def test_ones_own_recipe_extends_a_shipped_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("id: mine\nextends: _har.yaml\ntable: A\ntitle: Mine\nrows: [{id: baseline}]\n")
    shipped = load(available()["har-table1"])
    assert load(file).columns == shipped.columns
    assert heading(file).paper == shipped.paper.id


def test_circular_extends(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(InputError, match=r"`extends` goes in a circle \(a.yaml → b.yaml → a.yaml\)"):
        load(tmp_path / "a.yaml")


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(InputError, match="no recipe 'har-tabel1'; did you mean 'har-table1'"):
        select(["har-tabel1"])
    with pytest.raises(InputError, match="no row 'base'; did you mean 'baseline'"):
        select(["har-table1"])[0].row("base")
    with pytest.raises(InputError, match=r"gone.yaml: no such file"):
        select(["gone.yaml"])
    with pytest.raises(InputError, match="is not PATH=VALUE"):
        (recipe := select(["har-table1"])[0]).compose(recipe.rows[0], "smoke", None, ["solver.lr"])


def test_globs_select_each_recipe_once() -> None:
    ids = [recipe.id for recipe in select(["har-*", "har-table1"])]
    assert len(set(ids)) == len(ids)
    assert "har-table1" in ids


@pytest.mark.parametrize("recipe_id", available())
def test_a_heading_is_what_the_whole_recipe_says(recipe_id: str) -> None:
    whole = load(available()[recipe_id])
    brief = heading(available()[recipe_id])
    assert brief == Heading(whole.id, whole.paper.id, whole.table, whole.title, len(whole.rows))


def test_a_heading_that_lacks_something_names_file_and_key(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("id: mine\ntitle: Mine\nrows: []\ncolumns: [AP]\n")
    with pytest.raises(InputError, match=r"`(paper|table)` is missing; add it"):
        heading(tmp_path / "mine.yaml")


HEAD = "id: mine\npaper: {id: p, title: T, cite: C}\ntable: I\ncolumns: [AP]\n"


@pytest.mark.parametrize(
    "text",
    [
        "{id: mine, paper: {id: p, title: T, cite: C}, table: I, title: Mine, columns: [AP], rows: [{id: a}, {id: b}]}",
        HEAD + "title: Mine\nrows: [{id: a},\n {id: b}]",
        "# x\n" + HEAD + "title: 'Mine'\nrows: # two\n# x\n- id: a\n- id: b\n  published:\n   AP:\n    1\n",
        HEAD.replace("id: mine", "'id': mine") + "title: Mine\nrows: [{id: a}, {id: b}]",
        HEAD + "title: >\n  Mine\nrows:\n    - {id: a}\n    -  id: b\n       label: |\n         - c\n",
        HEAD + 'title: "Mi\\\n ne"\nrows:\n - {id: a}\n -\n  id: b\n',
    ],
)
def test_a_heading_is_told_however_it_is_written(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    found = heading(tmp_path / "mine.yaml")
    assert (found.id, found.paper, found.table, found.title.strip(), found.rows) == ("mine", "p", "I", "Mine", 2)


@pytest.mark.parametrize("recipe_id", available())
def test_every_recipe_of_the_project_reads(recipe_id: str) -> None:
    recipe = select([recipe_id])[0]
    assert recipe.id == recipe_id
    assert set(recipe.tiers) == {"smoke", "mini", "paper"}


def test_har_table1_is_the_papers() -> None:
    recipe = select(["har-table1"])[0]
    last = recipe.row("sa-1-2-5-2-1").published
    assert last == {"AP": 36.6, "AP50": 54.9, "AP75": 39.8, "APs": 18.6, "APm": 40.9, "APl": 51.3}
    assert sum(float(row.published["AP"]) for row in recipe.rows) == pytest.approx(35.1 + 36.4 + 36.4 + 36.5 + 36.6)  # type: ignore[arg-type]
