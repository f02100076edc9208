"""The program's ends: odd terminals, closed and full streams, Ctrl-C, and text that a terminal would obey."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cli import bench, complaint

from benchsuite.errors import LONGEST, InputError, harmless, visible
from benchsuite.report.columns import GAP, fitting, widths
from benchsuite.verbs.terminal import print_json, print_things, table

ROOT = Path(__file__).parents[1]
MAIN = "from benchsuite.cli.entry import main; main()"
# clears the screen, sets the title, C1's way to begin both, turns the writing round, ends the line
NASTY = "\x1b[2J\x1b]0;owned\x07 \x9b31m \u202egnp.\u202c \u2028 \r\n \x00 \ud800 \x7f"


def process(*words: str, code: str = MAIN, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """`bench WORDS` as a process of its own, streams and all."""
    environ = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, env=environ, timeout=120)


@given(st.text(max_size=200) | st.just(NASTY))
def test_what_is_told_is_one_harmless_line(text: str) -> None:
    for shown in (visible(text), str(InputError(text))):
        assert all(harmless(sign) for sign in shown)
        assert len(shown.splitlines()) <= 1
        assert visible(shown) == shown


def test_visible_text_is_the_text_where_nothing_is_wrong() -> None:
    for text in ("plain", "猫 und Hühner − ±½ →", "naïve\u00a0space", "👩\u200d🌾"):
        assert visible(text) == text
    assert visible(NASTY).startswith("\\x1b[2J\\x1b]0;owned\\x07 \\x9b31m \\u202egnp.")


def test_a_giant_value_is_shortened_and_the_cure_stays() -> None:
    told = str(InputError(f"x: {'9' * 100_000}: is too much; take less"))
    assert len(told) == LONGEST
    assert told.startswith("x: 999") and told.endswith("take less")


def test_tables_and_sentences_take_any_text_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    markup = "[/nothing] [red]x"
    print_things(table(NASTY, (NASTY, markup), [(markup, NASTY)]), f"{markup} {NASTY}")
    printed = capsys.readouterr().out
    assert "[/nothing]" in printed and "[red]" in printed
    assert all(harmless(sign) for sign in printed.replace("\n", ""))


def test_json_says_the_same_in_signs_that_do_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    value = {NASTY: [NASTY, "猫", "\U000e0041"]}
    print_json(value)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value
    assert "猫" in printed and all(harmless(sign) for sign in printed.replace("\n", ""))


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "xx_YY.nothing"},
    ],
    ids=str,
)
def test_a_terminal_without_our_signs_gets_like_ones(environment: dict[str, str]) -> None:
    shown = process("show", "pod-table5", **environment)
    assert shown.returncode == 0, shown.stderr
    assert b"FRCNN, R50-C4, 2x" in shown.stdout or "2×".encode() in shown.stdout or b"2\xd7" in shown.stdout
    told = process("show", "pod→table5", **environment)
    assert told.returncode == 2 and len(told.stderr.splitlines()) == 1
    form = process("show", "pod-table5", "--json", **environment)
    assert json.loads(form.stdout)["rows"][0]["label"] == "FRCNN, R50-C4, 2×"


@pytest.mark.parametrize(
    ("redirection", "words", "expected"),
    [
        (">&-", "list", 0),
        ("2>&-", "list", 0),
        ("2>&-", "show nothing", 2),
        ("2>/dev/full", "show nothing", 2),
        (">/dev/full", "list", 2),
        (">/dev/full", "show har-table1 --json", 2),
        ("| true", "show har-table1", 1),
    ],
)
def test_streams_that_are_gone_end_in_an_exit_code(redirection: str, words: str, expected: int) -> None:
    line = f"set -o pipefail; {sys.executable} -c '{MAIN}' {words} {redirection}"
    found = subprocess.run(["bash", "-c", line], capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert b"Traceback" not in found.stderr and b"Exception" not in found.stderr
    assert found.returncode in ({0, 1} if "|" in redirection else {expected})
    assert len(found.stderr.splitlines()) == (1 if redirection == ">/dev/full" else 0)


INTERRUPTED_AT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
class Interrupts:
    def find_spec(self, name, *rest):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
"""


@pytest.mark.parametrize(
    "module", ["typer", "benchsuite.errors", "benchsuite.recipe.loading", "pydantic", "yaml", "rich.table"]
)
def test_ctrl_c_while_python_imports_is_no_traceback(module: str) -> None:
    found = process("show", "har-table1", code=INTERRUPTED_AT.format(module=module) + MAIN)
    assert found.returncode == 130
    assert b"Traceback" not in found.stderr and len(found.stderr.splitlines()) <= 1


ITSELF = "import os, signal, benchsuite.cli.app as cli; signal.signal(signal.SIGINT, signal.{handler})\n"
STRIKE = "os.kill(os.getpid(), signal.SIGINT)"


@pytest.mark.parametrize(
    "moment",
    [f"cli.main = lambda: {STRIKE}", f"import atexit; cli.main = lambda: atexit.register(lambda: {STRIKE})"],
)
def test_ctrl_c_before_the_first_line_and_after_the_last_is_no_traceback(moment: str) -> None:
    code = ITSELF.format(handler="default_int_handler") + moment + "\nfrom benchsuite.cli.entry import main; main()"
    found = process(code=code)
    assert (found.returncode, found.stderr) == (130, b"")


def test_ctrl_c_in_pythons_last_moments_changes_nothing() -> None:
    """When Python takes its modules apart it has taken the handlers away."""
    late = f"class Late:\n  def __del__(self, os=os, signal=signal): {STRIKE}\n"
    code = ITSELF.format(handler="default_int_handler") + late + "cli.late, cli.main = Late(), int\n"
    found = process(code=code + "from benchsuite.cli.entry import main; main()")
    assert (found.returncode, found.stderr) == (0, b"")


def test_interrupts_that_were_ignored_stay_so() -> None:
    for handler in ("SIG_IGN", "default_int_handler"):
        asked = f"cli.main = lambda: exit(signal.getsignal(signal.SIGINT) is not signal.{handler})\n"
        code = ITSELF.format(handler=handler) + asked + "from benchsuite.cli.entry import main; main()"
        assert process(code=code).returncode == 0


def test_nothing_comes_before_ctrl_c_is_told_by_itself() -> None:
    """Each import before would be a time in which it is a traceback."""
    code = "import sys; before = {*sys.modules}; import benchsuite.cli.entry\nprint(*sorted({*sys.modules} - before))"
    assert process(code=code).stdout.split() == [b"benchsuite", b"benchsuite.cli", b"benchsuite.cli.entry"]


def test_progress_outlives_its_reader() -> None:
    code = (
        "from benchsuite.engine.progress import Lines; from benchsuite.verbs.terminal import streams\n"
        "with streams():\n  for _ in range(1000): Lines().note('x' * 1000)\nprint('done')"
    )
    line = f'{sys.executable} -c "{code}" 2> >(true); echo $?'
    found = subprocess.run(["bash", "-c", line], capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert found.stdout.split() == [b"done", b"0"]


@pytest.mark.parametrize(
    "words",
    [["nosuch"], ["run"], ["run", "har-table1", "--teir", "x"], ["plot", "x", "--images", "0"], ["compare"],
     ["plot", "x", "--format", "gif"], ["show", NASTY.replace("\x00", "")], ["data", "nosuch"], ["run", "x", "--set"]],
)  # fmt: skip
def test_wrong_usage_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint(capsys, *words).startswith("bench: ")


def test_no_words_at_all_show_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench() == 2
    captured = capsys.readouterr()
    assert "Train, predict" in captured.out + captured.err or "Run tables" in captured.out + captured.err


def test_sentences_break_between_words_on_a_terminal_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    sentence = "smoke tier on generated (synthetic) train (64 images)"
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    print_things(sentence)
    assert capsys.readouterr().out == f"{sentence}\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    print_things(sentence)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["smoke tier on generated", "(synthetic) train (64 images)"]


@given(needs=st.lists(st.integers(1, 30), min_size=1, max_size=12), kept=st.integers(0, 3), width=st.integers(1, 120))
def test_columns_in_groups_that_fit(needs: list[int], kept: int, width: int) -> None:
    leading = list(range(min(kept, len(needs))))
    groups = fitting(needs, leading, width)
    assert [index for group in groups for index in group[len(leading) :]] == list(range(len(leading), len(needs)))
    assert all(group[: len(leading)] == leading for group in groups)
    for group in groups:
        alone = len(group) <= len(leading) + 1
        assert alone or sum(needs[index] for index in group) + GAP * (len(group) - 1) <= width


@pytest.mark.parametrize("width", ["40", "80"])
@pytest.mark.parametrize("words", [["show", "har-table1"], ["inspect", "har-table1"], ["show", "pod-table3"]])
def test_numbers_stay_whole_on_narrow_terminals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], width: str
) -> None:
    def numbers() -> list[str]:
        assert bench(*words) == 0
        return sorted(re.findall(r"(?<=\s)[+\d][\d,.]{3,}(?=\s)", capsys.readouterr().out))

    monkeypatch.setenv("COLUMNS", "300")
    wide = numbers()
    monkeypatch.setenv("COLUMNS", width)
    assert numbers() == wide and len(wide) > 9


@given(data=st.data(), needs=st.lists(st.integers(1, 30), min_size=1, max_size=8), width=st.integers(1, 200))
def test_columns_get_what_they_need_and_no_more_than_they_want(
    data: st.DataObject, needs: list[int], width: int
) -> None:
    wants = [need + data.draw(st.integers(0, 30)) for need in needs]
    found = widths(needs, wants, width)
    assert all(need <= got <= want for need, got, want in zip(needs, found, wants, strict=True))
    least = sum(needs) + GAP * (len(needs) - 1)
    assert sum(found) + GAP * (len(needs) - 1) <= max(width, least)
    assert found == wants or sum(found) + GAP * (len(needs) - 1) >= width, "nothing is left where something is wanted"


def test_words_stay_whole_where_there_is_room(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for width, words, whole in (
        ("100", ["show", "padet-table6"], ["ResNet-101-FPN,", "Mask-RCNN,", "test-dev"]),
        ("60", ["compare", str(ROOT / "results" / "har-table1.mini.bccd-lite0.json")], ["SA(1-2-5-2-1)", "Baseline"]),
    ):
        monkeypatch.setenv("COLUMNS", width)
        assert bench(*words) == 0
        lines = capsys.readouterr().out.splitlines()
        assert all(any(word in line for line in lines) for word in whole)
        assert not any(line.startswith(("Baselin ", "SA(1-1- ")) for line in lines)


def test_signs_that_take_two_cells_stay_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    print_things(table("", ("名前", "AP"), [("検出器検出器検出器", "41.25"), ("b", "3")]))
    assert [line.split() for line in capsys.readouterr().out.splitlines()][3] == ["検出器検出器検出器", "41.25"]
