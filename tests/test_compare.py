"""Verdicts, differences and their limits, on results made for the purpose."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchsuite.cli.app import app
from benchsuite.errors import InputError
from benchsuite.recipe.recipe import Column, Spread
from benchsuite.report.compare import compare
from benchsuite.report.grids import grids
from benchsuite.report.results import (
    ClaimRecord,
    DataRecord,
    ImageInterval,
    ImagesTogether,
    Measured,
    Results,
    RowRecord,
    load,
)
from benchsuite.report.saving import save
from benchsuite.report.statistics import t_quantile
from benchsuite.report.tables import markdown
from benchsuite.report.verdicts import ClaimVerdict

STORED = Path(__file__).parent / "fixtures" / "results" / "har-table1.mini.schema1.json"


def table(
    measured: Mapping[str, Sequence[float | None]], *claims: ClaimRecord, tier: str = "mini", own: bool = False,
    published: Mapping[str, float | Spread] | None = None, better: str = "higher",
) -> Results:  # fmt: skip
    """Results of one column, AP; row `a` is the baseline."""
    seeds = tuple(range(len(next(iter(measured.values())))))
    rows = [
        RowRecord(id=name, status="done", baseline=None if name == "a" else "a",
            measured={"AP": Measured.of(values)}, published={"AP": (published or {}).get(name)})
        for name, values in measured.items()
    ]  # fmt: skip
    stored = load(STORED)
    return Results.model_validate({
        **dict(stored), "tier": tier, "seeds": seeds, "rows": rows, "claims": claims,
        "columns": [Column.model_validate({"id": "AP", "better": better})],
        "data": DataRecord(name="d", fingerprint="f", papers_own=own),
    })  # fmt: skip


def verdict(results: Results) -> ClaimVerdict:
    (claim,) = compare([results]).sections[0].claims
    return claim


BEATS = ClaimRecord(better="b", than="a", on="AP")


@pytest.mark.parametrize(
    ("b", "by", "expected"),
    [
        ([31.0, 32.1, 30.9], 0.0, "holds"),
        ([29.0, 30.1, 28.9], 0.0, "fails"),
        ([30.5, 31.0, 29.6], 0.0, "not settled"),
        ([31.0, 32.1, 30.9], 0.5, "holds"),
        ([31.0, 32.1, 30.9], 1.0, "not settled"),
        ([31.0, 32.1, 30.9], 2.0, "fails"),
    ],
)
def test_a_comparison(b: list[float], by: float, expected: str) -> None:
    claim = ClaimRecord(better="b", than="a", on="AP", by=by)
    assert verdict(table({"a": [30.0, 31.0, 30.0], "b": b}, claim)).verdict == expected


@pytest.mark.parametrize(
    ("b", "expected"),
    [([30.1, 31.0, 30.05], "holds"), ([33.0, 34.1, 33.05], "fails"), ([30.5, 31.9, 29.7], "not settled")],
)
def test_closeness(b: list[float], expected: str) -> None:
    claim = ClaimRecord(close="b", to="a", within=0.3, on="AP")
    assert verdict(table({"a": [30.0, 31.0, 30.0], "b": b}, claim)).verdict == expected


def test_lower_may_be_better() -> None:
    results = table({"a": [30.0, 31.0, 30.0], "b": [29.0, 30.1, 28.9]}, BEATS, better="lower")
    assert verdict(results).verdict == "holds"


def test_differences_are_paired_not_pooled() -> None:
    # Seeds differ by 10, rows by 1: only pairing shows it.
    assert verdict(table({"a": [20.0, 30.0, 40.0], "b": [21.0, 31.1, 40.9]}, BEATS)).verdict == "holds"


def test_one_seed_settles_nothing() -> None:
    found = verdict(table({"a": [10.0], "b": [90.0]}, BEATS))
    assert found.verdict == "not settled"
    assert found.note == "one seed settles nothing"


def test_only_common_seeds_count() -> None:
    found = verdict(table({"a": [30.0, None, 30.0], "b": [31.0, 32.0, None]}, BEATS))
    assert found.difference is not None and found.difference.n == 1
    assert found.verdict == "not settled"


def test_not_measured() -> None:
    found = verdict(table({"a": [30.0, 31.0], "b": [None, None]}, BEATS))
    assert (found.verdict, found.note, found.difference) == ("not settled", "not measured", None)


def test_smoke_settles_nothing() -> None:
    results = table({"a": [30.0, 31.0, 30.0], "b": [41.0, 42.1, 40.9]}, BEATS, tier="smoke")
    assert verdict(results).verdict == "not settled"
    assert "mean nothing" in verdict(results).note
    assert compare([results]).sections[0].agreements == {}


def test_equal_differences_say_so() -> None:
    found = verdict(table({"a": [30.0, 31.0, 32.5], "b": [31.0, 32.0, 33.5]}, BEATS))
    assert found.verdict == "holds"
    assert found.note == "the difference is the same for all seeds"
    assert verdict(table({"a": [30.0, 31.0, 32.5], "b": [30.0, 31.0, 32.5]}, BEATS)).verdict == "not settled"
    two = verdict(table({"a": [30.0, 31.0], "b": [31.0, 32.0]}, BEATS))
    assert (two.verdict, two.note) == ("not settled", "two seeds of equal differences settle nothing; take a third")


@pytest.mark.parametrize(
    "values", [([30.1, 31.2, 29.7], [30.4, 31.5, 30.0]), ([0.1 + 0.2, 1.1 + 2.2, 5.0], [0.6, 3.6, 5.3])]
)
def test_what_floats_leave_settles_nothing(values: tuple[list[float], list[float]]) -> None:
    """Every difference is 0.3 as decimals, and 0.3 is the bound."""
    measured = table(dict(zip("ab", values, strict=True)))
    for claim in (
        ClaimRecord(better="b", than="a", on="AP", by=0.3),
        ClaimRecord(close="b", to="a", on="AP", within=0.3),
    ):
        found = verdict(measured.model_copy(update={"claims": (claim,)}))
        assert (found.verdict, found.p) == ("not settled", 1.0)


def test_rows_of_one_training_are_a_pair() -> None:
    """A network tested in two ways: its noise is in both. To the others it is one row."""
    rows = {"a": [30.0, 31.0, 30.4], "b": [41.0, 42.1, 40.2], "b-ms": [43.1, 44.0, 42.2], "c": [43.5, 42.6, 44.9]}
    claims = [ClaimRecord(better="b-ms", than=than, on="AP") for than in ("b", "a")]
    plain = table(rows, *claims)
    shared = plain.model_copy(update={
        "rows": tuple(row.model_copy(update={"trained": "of b" if "b" in row.id else row.id}) for row in plain.rows)
    })  # fmt: skip
    pair, other = compare([shared]).sections[0].claims
    assert pair.difference is not None and pair.df == 2 and pair.verdict == "holds"
    assert (pair.difference.low, pair.difference.high) == pytest.approx((1.752, 2.248), abs=1e-3)
    without = verdict(table({name: rows[name] for name in ("a", "b-ms", "c")}, claims[1]))
    assert other.difference == without.difference
    assert compare([plain]).sections[0].claims[0].verdict == "not settled"


def test_claims_of_a_table_share_one_error_rate() -> None:
    measured = {"a": [30.0, 31.0, 30.0], "b": [31.0, 32.3, 30.8]}
    alone = verdict(table(measured, BEATS))
    claims = compare([table(measured, *[BEATS] * 10)]).sections[0].claims
    assert alone.verdict == "holds"
    assert {claim.verdict for claim in claims} == {"not settled"}
    assert "were it the only claim" in claims[0].note


def test_open_claims_are_held_to_the_level_that_settled_ones_left() -> None:
    """What they could have seen is what would have settled them."""
    measured = {"a": [30.0, 31.0, 30.0], "b": [30.5, 31.0, 30.6], "c": [60.0, 61.1, 60.0]}
    clear = BEATS.model_copy(update={"better": "c"})
    claims = compare([table(measured, clear, BEATS, BEATS)]).sections[0].claims
    assert [claim.verdict for claim in claims] == ["holds", "not settled", "not settled"]
    assert [claim.level for claim in claims] == pytest.approx([0.05 / 3, 0.05 / 2, 0.05 / 2])
    assert claims[1].difference is not None and claims[1].difference.error is not None and claims[1].df is not None
    reach = t_quantile(0.05 / 2, claims[1].df) * claims[1].difference.error
    assert claims[1].detectable == claims[2].detectable == reach


def test_an_unsettled_claim_names_what_would_settle_it() -> None:
    found = verdict(table({"a": [30.0, 31.0, 30.0], "b": [30.5, 31.0, 30.6]}, BEATS))
    assert found.detectable is not None and found.difference is not None
    assert found.detectable > abs(found.difference.mean)
    assert "seeds would settle it" in found.note


def test_the_other_rows_of_a_table_help_to_settle_a_claim() -> None:
    rows = {"a": [30.0, 31.0, 30.0], "b": [30.85, 31.3, 30.9]}
    alone = verdict(table(rows, BEATS))
    others = {"c": [30.1, 31.2, 30.1], "d": [30.4, 31.3, 30.3], "e": [30.3, 31.2, 30.2]}
    together = verdict(table(rows | others, BEATS))
    assert (alone.verdict, together.verdict) == ("not settled", "holds")
    assert alone.difference is not None and together.difference is not None
    assert alone.difference.mean == pytest.approx(together.difference.mean)
    assert (alone.df, together.df) == (2, 2.5)


def test_a_cell_and_a_claim_tell_the_same_of_a_difference() -> None:
    """Else a plot shows an interval off zero whose claim the table calls not settled."""
    rows = {"a": [30.9, 31.3, 30.9], "b": [30.0, 31.0, 30.0], "c": [30.1, 31.2, 30.1], "d": [30.4, 31.3, 30.9]}
    (section,) = compare([table(rows, BEATS)]).sections
    assert section.cells["b", "AP"].difference == section.claims[0].difference is not None


def test_the_interval_of_seeds_and_images_is_wider_than_either() -> None:
    rows = {"a": [30.0, 31.0, 30.0], "b": [31.0, 32.1, 30.9]}
    together = ImagesTogether(seeds=(0, 1, 2), low=0.5, high=1.4)
    found = verdict(table(rows, BEATS.model_copy(update={"images_together": together})))
    assert found.both is not None and found.difference is not None
    assert found.difference.low is not None and found.difference.high is not None
    assert found.both[0] <= min(found.difference.low, 0.5) and found.both[1] >= max(found.difference.high, 1.4)
    fewer = together.model_copy(update={"seeds": (0, 1)})
    assert verdict(table(rows, BEATS.model_copy(update={"images_together": fewer}))).both is None
    of_now = tuple(ImageInterval(seed=s, difference=d, low=d - 1, high=d + 1) for s, d in enumerate((1.0, 1.1, 0.9)))
    told = {"images_together": together, "images": of_now}
    assert verdict(table(rows, BEATS.model_copy(update=told))).both is not None
    stale = (of_now[0].model_copy(update={"difference": 2.0}), *of_now[1:])
    found = verdict(table(rows, BEATS.model_copy(update={**told, "images": stale})))
    assert found.both is None and found.claim.images == of_now[1:], "an earlier run's values are not these"


def test_what_a_settled_claim_could_have_seen_it_would_have_settled() -> None:
    """Had its difference been smaller, the other settled claims would still have passed before it."""
    rows = {"a": [30.0, 30.4, 29.8, 30.1], "c": [36.0, 36.5, 35.7, 36.3], "d": [35.2, 35.3, 34.6, 35.1]}
    others = [ClaimRecord(better=row, than="a", on="AP") for row in "cd"]
    b = [38.1, 38.3, 37.9, 38.5]

    def close(within: float) -> ClaimVerdict:
        claim = ClaimRecord(close="b", to="a", within=within, on="AP")
        return compare([table(rows | {"b": b}, claim, *others)]).sections[0].claims[0]

    least = close(20.0).equivalent_within
    assert least is not None and close(least * 1.001).verdict == "holds" and close(least * 0.999).verdict != "holds"


def test_rows_said_to_be_close_are_equivalent_within_something() -> None:
    claim = ClaimRecord(close="b", to="a", within=0.3, on="AP")
    found = verdict(table({"a": [30.0, 31.0, 30.0], "b": [30.2, 31.0, 30.1]}, claim))
    assert found.difference is not None and found.equivalent_within is not None and found.detectable is not None
    assert found.verdict == "not settled"
    assert found.equivalent_within == pytest.approx(found.difference.mean + found.detectable)
    wider = claim.model_copy(update={"within": found.equivalent_within * 1.01})
    assert verdict(table({"a": [30.0, 31.0, 30.0], "b": [30.2, 31.0, 30.1]}, wider)).verdict == "holds"
    assert verdict(table({"a": [30.0, 31.0, 30.0], "b": [30.2, 31.0, 30.1]}, BEATS)).equivalent_within is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([36.54, 36.64, 36.6], "reproduced"),
        ([36.0, 37.0, 35.8], "within noise"),
        ([30.0, 30.1, 30.2], "off"),
        ([36.6], "not settled"),
        ([36.55, 36.55], "reproduced"),
    ],
)
def test_fidelity_knows_rounding(values: list[float], expected: str) -> None:
    results = table({"a": values}, tier="paper", own=True, published={"a": 36.6})
    assert compare([results]).sections[0].cells["a", "AP"].fidelity == expected


def test_a_printed_deviation_widens_the_tolerance() -> None:
    results = table({"a": [36.0, 36.1]}, tier="paper", own=True, published={"a": Spread(mean=36.6, std=0.6)})
    assert compare([results]).sections[0].cells["a", "AP"].fidelity == "reproduced"


@pytest.mark.parametrize(("tier", "own"), [("mini", True), ("paper", False), ("smoke", True)])
def test_no_absolute_verdict_elsewhere(tier: str, own: bool) -> None:
    results = table({"a": [36.6, 36.6]}, tier=tier, own=own, published={"a": 36.6})
    assert compare([results]).sections[0].cells["a", "AP"].fidelity is None


def test_published_differences_have_no_floating_point_dust() -> None:
    (section,) = compare([load(STORED)]).sections
    cells = section.cells
    assert [claim.published for claim in section.claims] == [1.3, 0.0, 0.1, 1.5, 2.2]
    assert cells["sa-1-2-5-2-1", "AP"].published_difference == 1.5
    assert cells["baseline", "AP"].published_difference is None
    assert cells["elsewhere", "AP"].published_difference is None
    assert cells["elsewhere", "AP"].measured is None


@pytest.mark.parametrize(
    ("values", "code"), [([30.0, 30.1, 30.2], 1), ([30.0, 34.9, 40.0], 0), ([35.1, 35.14, 35.12], 0), ([1.0], 0)]
)
def test_check_fails_for_a_cell_that_is_off(values: list[float], code: int, tmp_path: Path) -> None:
    file = save(table({"a": values}, tier="paper", own=True, published={"a": 35.1}), tmp_path)
    found = CliRunner().invoke(app, ["compare", str(file), "--check"])
    assert found.exit_code == code, found.output
    assert CliRunner().invoke(app, ["compare", str(file)]).exit_code == 0


def test_a_claim_is_said_in_one_way_by_id_or_by_label() -> None:
    claim = ClaimRecord(better="b", than="a", on="AP", by=0.5)
    assert claim.sentence() == "b beats a on AP by more than 0.5"
    assert claim.sentence("B-Net", "A-Net", "mask AP") == "B-Net beats A-Net on mask AP by more than 0.5"
    close = ClaimRecord(close="b", to="a", within=0.25, on="AP")
    assert close.sentence(column="box AP") == "b is within 0.25 of a on box AP"
    both = table({"a": [30.0], "b": [31.0]}, claim, close)
    assert [each.text for each in compare([both]).sections[0].claims] == [claim.sentence(), close.sentence()]


def test_failed_only_where_a_claim_fails() -> None:
    good = table({"a": [30.0, 31.0, 30.0], "b": [31.0, 32.1, 30.9]}, BEATS)
    bad = table({"a": [31.0, 32.1, 30.9], "b": [30.0, 31.0, 30.0]}, BEATS)
    assert not compare([good, load(STORED)]).failed
    assert compare([good, bad]).failed


def test_groups_never_join_recipes_or_protocols() -> None:
    stored = load(STORED)
    others = [
        stored.model_copy(update=change) for change in ({"tier": "paper"}, {"protocol": "voc07"}, {"recipe": "x"})
    ]
    assert [len(group) for group in compare([stored, *others]).groups] == [2, 1, 1]


def test_form_is_json() -> None:
    import json

    form = compare([load(STORED)]).form()
    (section,) = json.loads(json.dumps(form))["sections"]
    assert section["rows"][0]["cells"]["AP"]["published"] == 35.1
    assert section["claims"][0]["verdict"] == "not settled"


ROWS = {"a": [30.0, 31.0, 30.0], "b": [31.0, 32.1, 30.9], "c": [29.0, 30.2, 29.1], "d": [30.5, 31.4, 30.6]}


def test_tiers_are_held_against_each_other() -> None:
    """Mini says of c what the paper tier says not: 2 of 3 signs, and its claim is settled alike."""
    mini = table(ROWS, BEATS)
    paper = table(ROWS | {"c": [40.0, 41.2, 40.1]}, BEATS, tier="paper")
    comparison = compare([mini, paper])
    (form,) = comparison.form()["tiers"]
    assert (form["lower"]["tier"], form["higher"]["tier"]) == ("mini", "paper")
    assert (form["agreement"]["AP"]["signs"], form["agreement"]["AP"]["signed"]) == (2, 3)
    assert (form["claims_alike"], form["claims_settled_in_both"]) == (1, 1)
    claims = {grid.title: grid.notes for grid in grids(comparison) if grid.title.startswith("Claims")}
    (told,) = (notes[-1] for title, notes in claims.items() if "mini" in title)
    assert told == (
        "Differences of mini (d) against paper (d): AP 2 of 3 signs, τ −0.33; 1 of 1 claims that both settle alike."
    )
    assert not any("against" in note for title, notes in claims.items() if "paper" in title for note in notes)


@pytest.mark.parametrize("change", [{"tier": "smoke"}, {"recipe": "x"}, {"protocol": "voc07"}])
def test_what_is_not_another_tier_of_the_table_is_not(change: dict[str, str]) -> None:
    other = table(ROWS, BEATS, tier="paper").model_copy(update=change)
    assert compare([table(ROWS, BEATS), other]).form()["tiers"] == []


@pytest.mark.parametrize(("paper", "beside"), [(0.5, False), (-0.2, True), (2.5, True), (None, False)])
def test_a_claim_says_whether_the_papers_difference_can_be(paper: float | None, beside: bool) -> None:
    """Not settled is not all that seeds say: a gain of the paper's size may be out of question."""
    published = {"a": 30.0, **({} if paper is None else {"b": 30.0 + paper})}
    comparison = compare([table({"a": [30.0, 31.0, 30.0], "b": [30.5, 31.4, 30.9]}, BEATS, published=published)])
    (found,) = comparison.sections[0].claims
    assert found.beside == beside
    assert comparison.form()["sections"][0]["claims"][0]["published"] == pytest.approx(paper)
    (grid,) = (grid for grid in grids(comparison) if grid.title.startswith("Claims"))
    assert ("lies outside" in grid.lines[0][4]) == beside
    (same,) = compare([table({"a": [0.0, 0.0], "b": [0.0, 0.0]}, BEATS, published={"a": 1, "b": 3})]).sections[0].claims
    assert not same.beside


def test_every_settled_or_open_claim_says_what_could_have_been_seen() -> None:
    """In text, Markdown and JSON, with the bound of equivalence where rows are said to be close."""
    close = ClaimRecord(close="c", to="a", within=0.3, on="AP")
    comparison = compare([table(ROWS, BEATS, close)])
    (grid,) = (grid for grid in grids(comparison) if grid.title.startswith("Claims"))
    assert all("could have seen" in line[4] for line in grid.lines) and "equivalent within" in grid.lines[1][4]
    assert "could have seen" in markdown(comparison)
    beats, closeness = comparison.form()["sections"][0]["claims"]
    assert beats["detectable"] > 0 and beats["equivalent_within"] is None
    assert closeness["detectable"] > 0 and closeness["equivalent_within"] > 0


@pytest.mark.parametrize(("change", "told"), [
    ({"rows": lambda rows: [*rows, rows[0]]}, "a row stands twice"),
    ({"rows": lambda rows: rows[1:]}, "has the baseline 'a', which is no row"),
    ({"rows": lambda rows: [rows[0] | {"measured": {"AP": {"mean": float("nan"), "values": [float("nan")] * 3}}}]},
     "rows.0.measured.AP"),
    ({"tier": lambda tier: "huge"}, "tier"),
])  # fmt: skip
def test_results_that_cannot_be(
    change: dict[str, Callable[[Any], Any]], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = table({"a": [30.0, 31.0, 30.0], "b": [31.0, 32.1, 30.9]}).model_dump(mode="json", by_alias=True)
    file = tmp_path / "t.json"
    file.write_text(json.dumps(content | {name: new(content[name]) for name, new in change.items()}))
    found = CliRunner().invoke(app, ["compare", str(file)])
    assert isinstance(found.exception, InputError) and told in str(found.exception), found.exception
    assert "\n" not in str(found.exception)


def test_a_baseline_that_was_not_measured_leaves_no_difference() -> None:
    section = compare([table({"a": [None, None], "b": [31.0, 32.1]}, BEATS)]).sections[0]
    assert section.cells["b", "AP"].difference is None and section.claims[0].note == "not measured"
    assert section.claims[0].verdict == "not settled"
