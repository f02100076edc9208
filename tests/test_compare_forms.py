"""`bench compare` as HTML and as JSON: everything is there, escaped, and as the schema says.

python tests/test_compare_forms.py writes docs/compare.schema.json anew.
"""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pydantic import ValidationError
from test_compare import BEATS, table
from typer.testing import CliRunner

from benchsuite.cli.app import app
from benchsuite.recipe.recipe import Spread
from benchsuite.report.compare import compare
from benchsuite.report.document import checked, described
from benchsuite.report.html import as_html
from benchsuite.report.results import ClaimRecord, load
from benchsuite.report.tables import as_json

SCHEMA = Path(__file__).parents[1] / "docs" / "compare.schema.json"
RESULTS = sorted((Path(__file__).parents[1] / "results").glob("*.json"))
STORED = Path(__file__).parent / "fixtures" / "results" / "har-table1.mini.schema1.json"


def test_the_schema_is_what_is_documented() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == described(), "python tests/test_compare_forms.py writes it anew"
    form = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert all(each.get("description") for each in form["$defs"].values()), "every part says what it is"


@pytest.mark.parametrize("files", [[STORED], RESULTS], ids=["fixture", "all results"])
def test_every_form_is_of_the_schema(files: list[Path]) -> None:
    form = json.loads(as_json(compare([load(file) for file in files])))
    assert form["schema"] == 1 and len(form["sections"]) == len(files)
    for file, section in zip(files, form["sections"], strict=True):
        results = load(file)
        for row in section["rows"]:
            for column, cell in row["cells"].items():
                measured = results.row(row["id"]).measured.get(column)
                assert cell["values"] == (list(measured.values) if measured else [None] * len(results.seeds))
                assert (cell["measured"] or {}).get("mean") == pytest.approx(measured.mean if measured else None)


def test_what_is_not_of_the_schema_is_none() -> None:
    form = compare([load(STORED)]).form()
    checked(form)
    with pytest.raises(ValidationError):
        checked({**form, "more": 1})
    form["sections"][0]["rows"][0]["cells"]["AP"]["measured"]["mean"] = "high"
    with pytest.raises(ValidationError):
        checked(form)


def test_intervals_and_verdicts_are_in_it() -> None:
    results = table({"a": [30.0, 31, 30], "b": [31.0, 32.1, 30.9]}, BEATS,
                    published={"a": 30.0, "b": Spread(mean=31, std=0.2)})  # fmt: skip
    (section,) = json.loads(as_json(compare([results])))["sections"]
    cell = section["rows"][1]["cells"]["AP"]
    assert (cell["published"], cell["published_std"], cell["values"]) == (31, 0.2, [31.0, 32.1, 30.9])
    assert cell["difference"]["low"] < cell["difference"]["mean"] < cell["difference"]["high"]
    (claim,) = section["claims"]
    assert claim["verdict"] == "holds" and claim["p"] < claim["level"] and claim["detectable"] > 0


def test_one_seed_and_nothing_measured_are_null() -> None:
    results = table({"a": [30.0], "b": [None]}, BEATS)
    (section,) = json.loads(as_json(compare([results])))["sections"]
    assert section["rows"][0]["cells"]["AP"]["measured"] == {
        "n": 1, "mean": 30.0, "deviation": None, "low": None, "high": None}  # fmt: skip
    assert section["rows"][1]["cells"]["AP"]["measured"] is None and section["claims"][0]["difference"] is None


class Tables(HTMLParser):
    """The text of every cell, table by table; an element that is not closed fails."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.cells[-1] += data


def test_html_has_every_cell_of_the_table_and_stands_alone() -> None:
    page = as_html(compare([load(STORED)]))
    found = Tables()
    found.feed(page)
    assert found.open == []
    texts = {" ".join(cell.split()) for cell in found.cells}
    assert {"35.1", "SA(1-1-1)", "ours", "paper", "not settled"} <= texts
    assert not re.search(r"(src|href)\s*=|@import|url\(", page)


def test_html_is_escaped() -> None:
    evil = "<script>alert(1)</script><img src=x>"
    results = load(STORED)
    row = results.rows[0].model_copy(update={"label": evil, "reason": evil})
    claim = ClaimRecord.model_validate({**results.claims[0].model_dump(), "quote": evil})
    changed = results.model_copy(update={
        "rows": (row, *results.rows[1:]), "title": evil, "claims": (claim,), "overrides": (evil,),
        "data": results.data.model_copy(update={"name": evil})})  # fmt: skip
    page = as_html(compare([changed]))
    assert evil not in page and "alert(1)&lt;/script&gt;" in page and "<img" not in page


@pytest.mark.parametrize("form", ["html", "json"])
def test_commands(form: str) -> None:
    result = CliRunner().invoke(app, ["compare", str(STORED), "--format", form])
    assert result.exit_code == 0
    assert result.output.startswith("<!doctype html>" if form == "html" else "{")


if __name__ == "__main__":
    SCHEMA.write_text(described(), encoding="utf-8")
