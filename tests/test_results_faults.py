"""Results files from anybody: whatever their bytes, tables and figures come of them or one line."""

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cli import bench, complaint
from test_terminal import NASTY

from benchsuite.errors import InputError, harmless
from benchsuite.report import figures
from benchsuite.report.compare import compare
from benchsuite.report.draw import save_figure
from benchsuite.report.pictures import Boxes, Picture, detections
from benchsuite.report.results import Results, load
from benchsuite.report.saving import require_place, save
from benchsuite.report.tables import as_csv, latex, markdown, render

STORED = Path(__file__).parent / "fixtures" / "results" / "har-table1.mini.schema1.json"
CONTENT: dict[str, Any] = json.loads(STORED.read_text())
LABELS = [
    "US$_x$_1",
    "$",
    r"\$\frac{",
    r"$\frac{$",
    NASTY,
    "_hidden",
    "x" * 200_000,
    "a\nb\tc",
    "🙂 猫 \u0301",
    "{}%&#~^\\",
    "<b>|`*[x](y)",
    "",
]


def labelled(text: str) -> dict[str, Any]:
    """The stored results with every text that says and does nothing put in the place of another."""
    content = copy.deepcopy(CONTENT)
    content["title"] = content["table"] = content["protocol"] = content["data"]["name"] = text
    content["paper"]["title"] = content["paper"]["cite"] = text
    content["overrides"] = [text]
    content["environment"] |= {"commit": text, text: [text]}
    for column in content["columns"]:
        column["label"] = text
    for row in content["rows"]:
        row |= {"label": text, "device": text, "reason": text, "cite": text, "deviations": [text, text + "."]}
    for claim in content["claims"]:
        claim["quote"] = text
    return content


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "har-table1.mini.json"


@pytest.mark.parametrize("text", LABELS, ids=range(len(LABELS)))
def test_labels_are_text_wherever_they_are_shown(text: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(json.dumps(labelled(text)))
    for form in ("text", "markdown", "latex", "csv"):
        assert bench("compare", file, "--format", form) == 0
        printed = capsys.readouterr().out
        assert all(harmless(sign) or sign == "\n" for sign in printed)
        assert form == "csv" or max(map(len, printed.splitlines())) < 20_000
    assert bench("compare", file, "--json") == 0
    assert all(harmless(sign) or sign == "\n" for sign in capsys.readouterr().out)


@pytest.mark.parametrize("text", LABELS, ids=range(len(LABELS)))
@pytest.mark.parametrize("name", ["ablation", "ladder", "testdev"])
def test_labels_are_text_in_figures(text: str, name: str, file: Path) -> None:
    figure = figures.draw(name, Results.model_validate(labelled(text)))
    save_figure(figure, file.with_suffix(".svg"))
    drawn = re.sub(r"<!--.*?-->", "", file.with_suffix(".svg").read_text(), flags=re.DOTALL)  # which repeat any text
    assert len(drawn) < 2_000_000
    if text == "US$_x$_1":
        assert "US$_x$_1" in drawn


@pytest.mark.parametrize("text", LABELS, ids=range(len(LABELS)))
def test_names_of_classes_and_pictures_are_text(text: str, file: Path) -> None:
    boxes = Boxes(np.array([[1.0, 1, 9, 9]]), np.array([0]), np.array([0.9]))
    picture = Picture(np.zeros((12, 12, 3), np.uint8), boxes, boxes, text)
    save_figure(detections([picture], [text], text), file.with_suffix(".png"))


def test_a_label_with_dollars_survives_the_round(file: Path) -> None:
    results = Results.model_validate(labelled("US$_x$ \x1b[2J"))
    again = load(save(results, file.parent))
    assert again.rows[0].label == "US$_x$ \\x1b[2J"
    assert save(again, file.parent) == file.parent / "har-table1.mini.json"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b'{"schema": 1, "recipe"', "is not JSON that can be read"),
        (b"\x00" * 100, "is not JSON that can be read"),
        (b"[" * 100_000, "nested"),
        (b'{"schema": ' + b"9" * 5000 + b"}", "is not JSON that can be read"),
        (b'{"schema": 1e400}', "is not JSON that can be read"),
        (b'{"schema": true}', "has no `schema` number"),
        (b'{"schema": 1.0}', "has no `schema` number"),
        (b"[1]", "has no `schema` number"),
        (b"\xff\xfe\x00", "is not utf-16-le text"),
    ],
)
def test_files_that_are_no_results(text: bytes, told: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_bytes(text)
    line = complaint(capsys, "compare", file)
    assert told in line and file.name in line
    assert "restore it or run the recipe again" not in line


def test_places_that_are_no_files(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.mkdir()
    assert "is no results file" in complaint(capsys, "compare", file)
    assert "is no results file" in complaint(capsys, "compare", "/dev/zero")
    assert "there is no such file" in complaint(capsys, "compare", "gone.json")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["recipe"], "../../x"), (["recipe"], "a/b"), (["rows", 0, "id"], "../x"), (["columns", 0, "id"], "a b"),
        (["rows", 1, "keys"], ["../../etc"]), (["rows", 1, "keys"], [".."]), (["rows", 1, "keys"], ["/etc"]),
        (["seeds"], [0, 0, 1]), (["seeds"], [-1, 1, 2]), (["seeds"], [True, 2, 3]), (["seeds"], []), (["seeds"], "012"),
        (["rows", 0, "published", "AP"], "35.1"), (["rows", 0, "published", "AP"], True), (["columns"], []),
        (["columns", 0, "decimals"], 10**6), (["data", "papers_own"], "yes"), (["tier"], "large"),
    ],
)  # fmt: skip
def test_values_that_results_cannot_have(
    path: list[str | int], value: object, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = copy.deepcopy(CONTENT)
    part: Any = content
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    file.write_text(json.dumps(content))
    assert f"{file.name}: {path[0]}" in complaint(capsys, "compare", file) or path == ["columns"]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_value_anywhere_in_a_results_file(file: Path, data: st.DataObject) -> None:
    content = copy.deepcopy(CONTENT)
    for _ in range(data.draw(st.integers(1, 3))):
        found = list(places(content))
        part, key = found[data.draw(st.integers(0, len(found) - 1))]
        if data.draw(st.booleans()):
            part[key] = data.draw(JSON)
        else:
            del part[key]
    file.write_text(json.dumps(content))
    try:
        results = load(file)
    except InputError as error:
        assert str(error) and all(map(harmless, str(error)))
        return
    comparison = compare([results])
    for shown in (markdown(comparison), latex(comparison), as_csv(comparison)):
        assert all(harmless(sign) or sign == "\n" for sign in shown)
    render(comparison)
    figures.draw("ablation", results)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300) | st.integers(0, 4000).map(lambda cut: STORED.read_bytes()[:cut]))
def test_any_bytes_as_a_results_file(file: Path, text: bytes) -> None:
    file.write_bytes(text)
    with pytest.raises(InputError) as raised:
        load(file)
    assert all(map(harmless, str(raised.value)))


def test_a_place_that_takes_no_results_is_told_before(tmp_path: Path) -> None:
    results = load(STORED)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file"):
        require_place(results, tmp_path / "file")
    require_place(results, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == [], "nothing is left by looking"

    written = save(results, tmp_path)
    require_place(results, tmp_path)
    other = results.model_copy(update={"overrides": ("solver.lr=1",)})
    with pytest.raises(InputError, match="holds a run of other settings"):
        require_place(other, tmp_path)
    require_place(other, tmp_path, force=True)
    require_place(other, tmp_path, "mine")
    written.write_text("{")
    with pytest.raises(InputError, match=written.name):
        require_place(results, tmp_path)


@pytest.mark.parametrize("home", ["/proc/none", "/dev/null"])
def test_a_home_that_cannot_be_written_is_nothing_to_tell(home: str, tmp_path: Path) -> None:
    code = (
        "from matplotlib.figure import Figure\n"
        f"Figure().savefig({str(tmp_path / 'x.png')!r})\n"
        "import os, shutil; shutil.rmtree(os.environ['MPLCONFIGDIR'])\n"
    )
    unset = ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in unset} | {"HOME": home}
    command = [sys.executable, "-c", f"import benchsuite.report\n{code}"]
    told = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert told.stderr == "" and (tmp_path / "x.png").is_file()
