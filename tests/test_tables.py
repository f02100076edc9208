"""Tables as Markdown, LaTeX, CSV and for the terminal."""

import csv
import io
import re
from collections import Counter
from pathlib import Path

import pytest

from benchsuite.errors import InputError
from benchsuite.report.compare import compare
from benchsuite.report.grids import footnotes, number, signed
from benchsuite.report.results import ImageInterval, Measured, Results, load
from benchsuite.report.tables import as_csv, latex, markdown, render

FOLDER = Path(__file__).parent / "fixtures" / "results"


@pytest.fixture
def stored() -> Results:
    return load(FOLDER / "har-table1.mini.schema1.json")


def lines(text: str) -> list[str]:
    return text.splitlines()


def test_markdown_is_the_golden_table(stored: Results) -> None:
    assert markdown(compare([stored])) == (FOLDER / "har-table1.mini.md").read_text(encoding="utf-8")


def test_every_markdown_line_of_a_table_has_equal_cells(stored: Results) -> None:
    other = stored.model_copy(update={"tier": "smoke"})
    blocks = re.findall(r"(?:^\|.*\n)+", markdown(compare([stored, other])), re.MULTILINE)
    assert len(blocks) == 3 + 3 + 2
    for block in blocks:
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in lines(block)}
        assert len(counts) == 1


def test_pipes_in_names_do_not_break_the_table(stored: Results) -> None:
    rows = tuple(row.model_copy(update={"label": "a|b*c"}) for row in stored.rows)
    assert r"a\|b\*c" in markdown(compare([stored.model_copy(update={"rows": rows})]))


def test_a_cell_not_run_shows_a_dash_and_the_row_says_why(stored: Results) -> None:
    text = markdown(compare([stored]))
    (line,) = [line for line in lines(text) if line.startswith("| SA(1-2-5) (not run)")]
    assert line.split("|")[2].strip() == "ours"
    assert {cell.strip() for cell in line.split("|")[3:-1]} == {"–"}
    assert r"\[1] left out by --rows" in text


def test_published_and_measured_never_swap(stored: Results) -> None:
    """With nothing measured, no line marked `ours` holds a number in any table."""
    rows = tuple(
        row.model_copy(update={"measured": {}, "status": "not_run"}) for row in stored.rows if row.role == "run"
    )
    text = markdown(compare([stored.model_copy(update={"rows": rows})]))
    ours = [line for line in lines(text) if "| ours " in line and "verdict" not in line]
    assert ours
    assert not any(re.search(r"\d", "".join(line.split("|")[3:])) for line in ours)


def test_smoke_is_labelled(stored: Results, capsys: pytest.CaptureFixture[str]) -> None:
    smoke = compare([stored.model_copy(update={"tier": "smoke"})])
    for form in ("text", "markdown", "latex"):
        render(smoke, form)
        assert "smoke: numbers mean nothing" in re.sub(r"\s+", " ", capsys.readouterr().out)


def test_fidelity_has_a_line_at_the_paper_tier(stored: Results) -> None:
    data = stored.data.model_copy(update={"papers_own": True})
    text = markdown(compare([stored.model_copy(update={"tier": "paper", "data": data})]))
    assert "| verdict |" in text and "not the paper's" not in text


def test_files_of_one_recipe_stand_side_by_side(stored: Results) -> None:
    text = markdown(compare([stored, stored.model_copy(update={"overrides": ("solver.lr=0.1",)})]))
    assert "differences on AP, side by side" in text
    assert "solver.lr=0.1" in text


def test_latex_is_balanced_and_has_all_cells(stored: Results) -> None:
    text = latex(compare([stored]))
    assert text.count("{") == text.count("}")
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    rows = [line for line in lines(body) if line.endswith(r"\\")]
    assert len(rows) == len(stored.rows)
    assert {line.count("&") for line in rows} == {2 * len(stored.columns)}
    assert r"36.5 & 54.6" not in text  # ours and paper alternate
    assert not re.search(r"[±–−·τ]", text)


def test_latex_escapes(stored: Results) -> None:
    assert r"a\_b \& 5\%" in latex(compare([stored.model_copy(update={"title": "a_b & 5%"})]))


def test_csv_reads_back(stored: Results) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(compare([stored])))))
    assert len(rows) == len(stored.rows) * len(stored.columns)
    first = rows[0]
    measured = stored.row("baseline").measured["AP"]
    assert isinstance(measured, Measured)
    assert float(first["measured"]) == pytest.approx(measured.mean)
    assert (first["row"], first["published"], first["difference"]) == ("baseline", "35.1", "")
    missing = next(row for row in rows if row["row"] == "sa-1-2-5")
    assert (missing["status"], missing["measured"], missing["seeds"]) == ("not_run", "", "0")


def test_terminal_shows_every_verdict(stored: Results, capsys: pytest.CaptureFixture[str],
                                      monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "200")
    compared = compare([stored])
    render(compared)
    text = capsys.readouterr().out
    verdicts = [claim.verdict for claim in compared.sections[0].claims]
    assert (verdicts.count("holds"), verdicts.count("not settled")) == (1, len(stored.claims) - 1)
    assert all(text.count(verdict) == verdicts.count(verdict) for verdict in set(verdicts))
    assert "28.2 ±0.4" in text


@pytest.mark.parametrize("width", [44, 60, 80])
def test_a_narrow_terminal_loses_no_column(stored: Results, width: int, capsys: pytest.CaptureFixture[str],
                                           monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", str(width))
    render(compare([stored]), values_only=True)
    text = capsys.readouterr().out
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    numbers = [number(value, 1) for row in stored.rows for value in row.published.values() if isinstance(value, float)]
    assert len(numbers) > 20 and not Counter(numbers) - Counter(re.findall(r"\d+\.\d", text))
    heads = [line.split() for line in text.splitlines() if "AP" in line and "ours" not in line]
    assert [head for line in heads for head in line if head.startswith("AP")] == [each.id for each in stored.columns]


@pytest.mark.parametrize("width", [40, 80, 109, 110])
def test_claims_can_be_read_on_any_terminal(stored: Results, width: int, capsys: pytest.CaptureFixture[str],
                                            monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Sentences fold between words and are never cut; the table's numbers may be wider than so narrow a terminal."""
    monkeypatch.setenv("COLUMNS", str(width))
    compared = compare([stored])
    render(compared)
    _, claims = capsys.readouterr().out.split("Claims (")
    assert "…" not in claims and max(map(len, claims.splitlines()[1:])) <= width
    words = "".join(claims.split())
    for claim in compared.sections[0].claims:
        assert width == 110 or "".join(f"{claim.text} {claim.verdict} · paper".split()) in words
        assert width == 110 or "".join(claim.note.split()) in words


def test_each_seed_over_images_while_they_are_few(stored: Results) -> None:
    def remark(seeds: int) -> str:
        images = tuple(ImageInterval(seed=seed, difference=1.0, low=seed - 4.5, high=9.0) for seed in range(seeds))
        claims = tuple(claim.model_copy(update={"images": images}) for claim in stored.claims)
        return markdown(compare([stored.model_copy(update={"claims": claims})]))

    assert "seed 2 +1.00 \\[−2.50, +9.00]" in remark(3)
    many = remark(8)
    assert "over images alone 3 of 8 seeds lie clear of zero" in many and "seed 2" not in many


def test_an_unknown_form_offers_the_nearest(stored: Results) -> None:
    with pytest.raises(InputError, match="did you mean 'markdown'"):
        render(compare([stored]), "markdwn")


def test_common_deviations_are_said_once(stored: Results) -> None:
    notes, names = footnotes(stored)
    assert notes[0].startswith("All rows: trained from scratch")
    assert names["baseline"] == "Baseline"
    assert names["sa-5-2-1"] == "SA(5-2-1) (1 of 3 seeds)"


@pytest.mark.parametrize(
    ("value", "decimals", "plain", "difference"),
    [
        (None, 1, "–", "–"),
        (1.25, 1, "1.2", "+1.2"),
        (-0.04, 1, "0.0", "0.0"),
        (-1.5, 1, "−1.5", "−1.5"),
        (3e7, 0, "30000000", "+30000000"),
    ],
)
def test_numbers(value: float | None, decimals: int, plain: str, difference: str) -> None:
    assert number(value, decimals) == plain
    assert signed(value, decimals) == difference


def test_a_long_name_folds_before_numbers_go(stored: Results, capsys: pytest.CaptureFixture[str],
                                             monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    name = "faster-rcnn_r50_fpn_1x_coco_of_some_other_framework_20200130-047c8118"
    rows = (stored.rows[0].model_copy(update={"label": name}), *stored.rows[1:])
    monkeypatch.setenv("COLUMNS", "80")
    render(compare([stored.model_copy(update={"rows": rows})]), values_only=True)
    text = capsys.readouterr().out
    assert "…" not in text and "28.2" in text and "35.1" in text
    assert max(map(len, text.splitlines())) <= 80 and name in "".join(line[:45].strip() for line in text.splitlines())


def test_labels_of_latex_tables_differ(stored: Results) -> None:
    text = latex(compare([stored, stored]))
    assert r"\label{tab:har-table1-mini}" in text and r"\label{tab:har-table1-mini-2}" in text
