"""Recipes, `--set` and options as nobody should write them: one line, exit code 2, before anything starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_cli import complaint

from benchsuite.disk import LONGEST_NAME, placed
from benchsuite.engine.environment import cores
from benchsuite.errors import InputError, harmless
from benchsuite.recipe.loading import load, select
from benchsuite.recipe.recipe import Recipe
from benchsuite.recipe.shelf import available, folder
from benchsuite.recipe.yamlfile import parse_value
from benchsuite.settings import MOST
from benchsuite.verbs.plan import make_plan

MINE = """
id: mine
extends: _har-ablation.yaml
table: A
title: Mine
rows:
  - {id: baseline, published: {AP: 35.1}}
  - {id: sa, model: {head: {spatial: {dilations: [1, 1, 1], channels: 32}}}}
claims:
  - {better: sa, than: baseline, on: AP}
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.yaml"
    file.write_text(MINE)
    return file


def refusal(file: Path, text: str | bytes) -> str:
    """The one line that a recipe of this text gets."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as raised:
        make_plan([load(file)], "smoke")
    told = str(raised.value)
    assert all(map(harmless, told)) and told == told.strip()
    return told


@pytest.mark.parametrize(
    "name", ["../../x", "/abs/x", ".hidden", "a/b", "a b", "a\\nb", "a*", "", "x" * 81, "a:b", "ä/ö", "\\e[2J"]
)
@pytest.mark.parametrize("place", ["id: mine", "id: baseline", "id: AP9"])
def test_ids_are_words_that_name_files(mine: Path, place: str, name: str) -> None:
    text = MINE + "columns: [AP, {id: AP9}]\n"
    told = refusal(mine, text.replace(place, f'id: "{name}"', 1))
    assert "an id names files" in told or "control characters" in told
    assert "mine.yaml:" in told


@pytest.mark.parametrize("name", ["a.b", "A-1_b+c", "7", "größe", "猫", "-x", "x" * 80])
def test_other_ids_are_taken(mine: Path, name: str) -> None:
    mine.write_text(MINE.replace("id: sa,", f"id: '{name}',").replace("better: sa", f"better: '{name}'"))
    assert load(mine).row(name).id == name


@given(
    st.lists(
        st.text(max_size=300) | st.sampled_from(["..", "../..", "/abs", ".", "", "a/../b", "\x00", "~"]), max_size=4
    )
)
def test_no_word_leads_out_of_the_folder(words: list[str]) -> None:
    file = placed(Path("out"), *words, suffix=".json")
    assert file.parent == Path("out")
    assert not file.name.startswith(".") and len(os.fsencode(file.name)) <= LONGEST_NAME + 9
    assert os.path.normpath(file) == str(file)


def test_long_names_stay_apart() -> None:
    first, second = (placed(Path(), "x" * 500 + end, suffix=".png") for end in "ab")
    assert first != second


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("seeds: []", "mine.yaml:11: `seeds` is []"),
        ("seeds: [-1]", "`seeds.0` is -1"),
        (f"seeds: [{MOST + 1}]", f"`seeds.0` is {MOST + 1}"),
        ("seeds: [1, 1]", "seed 1 stands twice"),
        ("seeds: [true]", "`seeds.0` is True"),
        ("seeds: ['1']", "`seeds.0` is '1'"),
        ("seeds: 3", "`seeds` is 3"),
        ("tiers: {smoke: {seeds: x}}", "mine.yaml:11: `tiers.smoke.seeds`: 'x'"),
        ("tiers: {smoke: {seeds: null}}", "`tiers.smoke.seeds`: None"),
        ("tiers: {smoke: {seeds: 3}}", "`tiers.smoke.seeds`: 3"),
        ("tiers: {paper: {seeds: [0, 0]}}", "`tiers.paper.seeds`: [0, 0]: seed 0 stands twice"),
        ("columns: [AP, AP]", "column 'AP' stands twice"),
        ("columns: []", "`columns` is []"),
        ("columns: [{id: AP, decimals: true}]", "`columns.0.decimals` is True"),
        ("columns: [{id: AP, decimals: 400}]", "`columns.0.decimals` is 400"),
        ("x: !!int abc", "mine.yaml:11: 'abc' is no number"),
        ("x: !!map abc", "tag tag:yaml.org,2002:map is not allowed"),
        ("x: !!float nan", "'nan' is no finite number"),
        ("x: 1e999", "'1e999' is no finite number"),
        (f"x: {'9' * 5000}", "is no number that can be read"),
        (f"x: {'[' * 900}{']' * 900}", "is nested more than 100 deep"),
        ("x: " + "[" * 50_000, "is nested more than 100 deep"),
        ("x: " + "- " * 50_000, "mine.yaml:11: "),
        ("x:\n" + "\n".join(" " * depth + "y:" for depth in range(1, 2000)), "is nested more than 100 deep"),
        ('x: "\\e[2J"', "has control characters"),
        ('"\\e": 1', "a key must be a word"),
        ("x: \x07", "not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
    ],
)
def test_what_a_recipe_may_not_say(mine: Path, change: str, told: str) -> None:
    assert told in refusal(mine, f"{MINE}{change}\n")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("{id: sa,", "{id: sa, same_as: sa,", "row 'sa' is `same_as` itself"),
        ("better: sa", "better: baseline", "compares row 'baseline' with itself"),
        ("AP: 35.1", "AP: true", "`rows.0.published.AP"),
        ("AP: 35.1", "AP: '35.1'", "`rows.0.published.AP"),
        ("AP: 35.1", "AP: {mean: true, std: 1}", "`rows.0.published.AP"),
        (
            "{id: sa,",
            "{id: sa, solver: {lr: true},",
            "mine.yaml:8: `solver.lr` is True: input should be",
        ),
        ("{id: sa,", "{id: sa, solver: {lr: '0.01'},", "`solver.lr` is '0.01'"),
        ("{id: sa,", "{id: sa, solver: {iterations: true},", "`solver.iterations` is True"),
        ("{id: sa,", "{id: sa, solver: {iterations: 3.0},", "`solver.iterations` is 3.0"),
        (
            "{id: sa,",
            "{id: sa, solver: {iterations: 99999999999999999999},",
            "`solver.iterations` is 99999999999999999999",
        ),
        ("{id: sa,", "{id: sa, input: {short: 1000000000000},", "`input.short` is 1000000000000"),
        ("model: {head", "model: {backbone: {frozen_norms: 1}, head", "`model.backbone.frozen_norms` is 1"),
        ("model: {head", "model: {backbone: {depth: true}, head", "`model.backbone.depth` is True"),
    ],
)
def test_numbers_are_numbers_and_have_bounds(mine: Path, old: str, new: str, told: str) -> None:
    assert told in refusal(mine, MINE.replace(old, new, 1))


def test_a_table_has_rows(mine: Path) -> None:
    assert "`rows` is []" in refusal(mine, MINE.partition("rows:")[0] + "rows: []")


@pytest.mark.parametrize(
    "text", [b"\xff\xfe", b"\x80", b"id: \x00", "id: x\ud800".encode("utf-8", "surrogatepass"), b"", b"- 1", b"x"]
)
def test_bytes_that_are_no_recipe(mine: Path, text: bytes) -> None:
    assert "mine.yaml" in refusal(mine, text)


def test_a_recipe_too_large_to_be_one(mine: Path) -> None:
    assert "has 5,000,000 bytes" in refusal(mine, b"#" * 5_000_000)


def test_a_mark_of_byte_order_is_no_part_of_a_recipe(mine: Path) -> None:
    mine.write_bytes(b"\xef\xbb\xbf" + MINE.encode())
    assert load(mine).id == "mine"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--rows", ","], "--rows ',': names none"),
        (["--seeds", " , "], "--seeds ' , ': names none"),
        (["--seeds", "-1"], "--seeds: -1: input should be greater than or equal to 0"),
        (["--seeds", "1,1"], "seed 1 stands twice"),
        (["--seeds", "18446744073709551616"], "input should be less than or equal to"),
        (["--seeds", "9" * 5000], "is not a list of whole numbers"),
        (["--set", "solver.lr=true"], "--set solver.lr=true: `solver.lr` is True"),
        (["--set", "solver.lr='0.01'"], "`solver.lr` is '0.01'"),
        (["--set", "solver.lr=" + "[" * 50_000], "is nested more than 100 deep"),
        (["--set", "solver.lr=" + "9" * 5000], "is no number that can be read"),
        (["--set", "solver.lr=\x1b[2J"], "YAML"),
        (["--set", "solver.lr=!!int x"], "'x' is no number"),
        (["--set", "."], "is not PATH=VALUE"),
        (["--set", "a.b.c.=3"], "is not PATH=VALUE"),
        (["--set", "kind=x"], "--set kind=x: `kind` is 'x': unknown kind"),
        (["--set", "model.head.kind=nothing.Here"], "--set model.head.kind=nothing.Here: `model.head.kind`"),
    ],
)
def test_options_that_are_wrong(
    arguments: list[str], told: str, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("plan", "run"):
        assert told in complaint(capsys, verb, "har-table1", *arguments)


def test_a_table_of_quoted_rows_has_nothing_to_run(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine.write_text(MINE.partition("rows:")[0] + "baseline: q\nrows: [{id: q, role: quoted, cite: C}]\n")
    assert "every row is quoted" in complaint(capsys, "plan", mine)


def test_recipes_of_one_id_do_not_run_together(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = mine.with_name("other.yaml")
    other.write_text(MINE)
    assert "mine.yaml and other.yaml have one id, 'mine'" in complaint(capsys, "plan", "mine.yaml", "other.yaml")
    assert len(select(["mine.yaml", "./mine.yaml", str(mine)])) == 1


@pytest.mark.parametrize("threads", ["abc", "0", "-1", "1.5", "9" * 30, "2x", ","])
def test_openmp_threads_that_are_none(threads: str) -> None:
    environ = os.environ | {"OMP_NUM_THREADS": threads, "PYTHONPATH": str(folder().parent)}
    code = "from benchsuite.cli.entry import main; main()"
    found = subprocess.run([sys.executable, "-c", code, "list"], capture_output=True, env=environ, text=True)
    assert found.returncode == 2 and len(found.stderr.splitlines()) == 1
    assert found.stderr.startswith("bench: OMP_NUM_THREADS='")


@pytest.mark.parametrize(("threads", "expected"), [("3", 3), (" 2 ", 2), ("4,2", 4)])
def test_openmp_threads_are_obeyed(threads: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert cores() == expected


# --- whatever the bytes: a recipe that can be planned, or one line

SHIPPED = {name: folder().joinpath(file.name).read_text() for name, file in available().items()}
WORDS = st.sampled_from(
    ["id", "rows", "kind", "model", "seeds", "tiers", "smoke", "base", "extends", "published", "AP", "claims"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | WORDS, inner, max_size=4),
    max_leaves=12,
)
NOISE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def outcome(file: Path) -> None:
    """Plan the recipe at every tier it has; only an InputError of one line may come of it."""
    try:
        recipe: Recipe = load(file)
        for tier in recipe.tiers:
            make_plan([recipe], tier)
    except InputError as error:
        assert str(error) and all(map(harmless, str(error)))


@NOISE
@given(st.binary(max_size=400))
def test_any_bytes_as_a_recipe(mine: Path, text: bytes) -> None:
    mine.write_bytes(text)
    outcome(mine)


@NOISE
@given(st.dictionaries(st.sampled_from(sorted(Recipe.model_fields)) | st.text(max_size=5), VALUES, max_size=8))
def test_any_values_in_a_recipe(mine: Path, values: dict[str, object]) -> None:
    text = yaml.dump({"extends": "_har-ablation.yaml", "id": "mine", "table": "A", "title": "M"} | values)
    mine.write_text(text, encoding="utf-8", errors="surrogatepass")
    outcome(mine)


PUT = ["", " ", "\n", "{", "}", "[", ": ", "true", "-1", "1e9", "'", '"', "&a ", "*a", "!!x ", "\t", "null"]


@NOISE
@given(st.sampled_from(sorted(SHIPPED)), st.data())
def test_shipped_recipes_with_something_torn_out_or_put_in(mine: Path, name: str, data: st.DataObject) -> None:
    text = SHIPPED[name]
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 60)))
    put = data.draw(
        st.sampled_from(
            ["", " ", "\n", "{", "}", "[", ": ", "true", "-1", "1e9", "'", '"', "&a ", "*a", "!!x ", "\t", "null"]
        )
    )
    mine.write_text((text[:start] + put + text[end:]).replace("id: " + name, "id: mine", 1))
    outcome(mine)


PATHS = ["solver.lr", "model", "model.backbone", "data", "kind", "post.nms", "x.y"]


@NOISE
@example("[]", "solver.lr")
@example("{kind: [1]}", "model.backbone")
@example("null", "model")
@example("5", "data")
@example("x", "data.train")
@given(
    st.text(max_size=30) | VALUES.map(str),
    st.sampled_from(["solver.lr", "model", "model.backbone", "data", "kind", "post.nms", "x.y"]),
)
def test_any_text_after_set(mine: Path, value: str, path: str) -> None:
    try:
        parse_value(value)
        make_plan([load(mine)], "smoke", rows=["baseline"], overrides=[f"{path}={value}"])
    except InputError as error:
        assert str(error) and all(map(harmless, str(error)))
