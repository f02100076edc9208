"""A comparison as text for the terminal, as Markdown, LaTeX, CSV, HTML or JSON."""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from benchsuite.errors import InputError, nearest, shortened
from benchsuite.report.columns import fitting, unbroken, width_of, widths
from benchsuite.report.compare import Comparison, Section
from benchsuite.report.document import checked
from benchsuite.report.grids import MISSING, Grid, footnotes, grids, label, meaning, number, provenance
from benchsuite.report.html import as_html

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDE = 110  # columns of a terminal in which a table of sentences can be read
LONGEST_TEXT = 500  # letters of a cell, a caption or a remark
STYLES = {"paper": "dim", "holds": "green", "fails": "red", "not settled": "yellow", "verdict": "italic"}


def render(comparison: Comparison, form: str = "text", values_only: bool = False) -> None:
    """Print a comparison to stdout as `text` (`values_only`: without differences and claims), `markdown`, `latex`,
    `csv`, `html` or `json`; InputError for another form."""
    writers = {"markdown": markdown, "latex": latex, "csv": as_csv, "html": as_html, "json": as_json}
    if form in writers:
        print(writers[form](comparison), end="")
        return
    if form != "text":
        raise InputError(f"--format {form}: is no form of table; {nearest(form, ['text', *writers])}")
    from rich.console import Console

    console = Console(highlight=False, emoji=False)
    for part in terminal(comparison, values_only, console.width):
        console.print(part)


def terminal(comparison: Comparison, values_only: bool = False, width: int = WIDE) -> "list[RenderableType]":
    """The tables for a terminal, to be printed in turn; sentences stand one below the other where it is narrow."""
    from rich.text import Text

    parts: list[RenderableType] = []
    for grid in grids(comparison, values_only):
        captions = [Text(shortened(line, LONGEST_TEXT)) for line in grid.caption.splitlines()]
        parts += [Text(shortened(grid.title, LONGEST_TEXT), style="bold"), *captions]
        notes = (Text(shortened(note, LONGEST_TEXT), style="dim") for note in grid.notes)
        told = _rich_blocks(grid) if grid.prose and width < WIDE else _rich_tables(grid, width)
        parts += [*told, *notes, Text()]
    return parts


def _rich_blocks(grid: Grid) -> "list[RenderableType]":
    """A line's first cell, its middle ones under their heads, its last."""
    from rich.padding import Padding
    from rich.text import Text

    parts: list[RenderableType] = []
    for first, verdict, *middle, last in grid.lines:
        numbers = [f"{head} {text}" for head, text in zip(grid.head[2:-1], middle, strict=True) if text != MISSING]
        said = Text.assemble((verdict, STYLES.get(verdict, "")), *(f" · {text}" for text in numbers))
        parts += [Text(first), Padding(said, (0, 0, 0, 2)), *([Padding(Text(last), (0, 0, 0, 2))] if last else [])]
    return parts


def _rich_tables(grid: Grid, width: int) -> "list[RenderableType]":
    """One below the other, each with as many columns of numbers as there is room for; one where all fit."""
    columns = list(zip(grid.head, *grid.lines, strict=True))
    wants = [max(map(width_of, texts)) for texts in columns]
    needs = [wants[index] if index in grid.words else max(map(unbroken, texts)) for index, texts in enumerate(columns)]
    kept = sorted(grid.words)
    if grid.prose or len(fitting(needs, kept, width)) == 1:
        return [_rich_table(grid)]
    needs[0] = min(needs[0], width // 2)  # longer names fold
    parts = []
    for group in fitting(needs, kept, width):
        sides = widths([needs[index] for index in group], [wants[index] for index in group], width)
        parts.append(_rich_table(_columns(grid, group), sides))
    return parts


def _columns(grid: Grid, chosen: Sequence[int]) -> Grid:
    head, *lines = (tuple(line[index] for index in chosen) for line in (grid.head, *grid.lines))
    return replace(grid, head=head, lines=tuple(lines))


def _rich_table(grid: Grid, sides: Sequence[int] = ()) -> "RenderableType":
    """With columns as wide as `sides` say, where they are given."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, head in enumerate(grid.head):
        # On a narrow terminal a table of numbers breaks before the ±, a table of sentences between words.
        folds = bool(sides) or (index in grid.words - {1} if grid.prose else index not in grid.words)
        side: Literal["left", "right"] = "left" if index in grid.words else "right"
        table.add_column(
            Text(head), justify=side, no_wrap=not folds, overflow="fold", width=sides[index] if sides else None
        )
    for line in grid.lines:
        style = STYLES.get(line[1], "")
        table.add_row(*(Text(text, style="" if index == 0 else style) for index, text in enumerate(line)))
    return table


def markdown(comparison: Comparison) -> str:
    """The tables as GitHub's Markdown."""
    return "\n".join(_markdown_grid(grid) for grid in grids(comparison))


def _markdown_grid(grid: Grid) -> str:
    cells = [tuple(_escape(text) for text in line) for line in (grid.head, *grid.lines)]
    widths = [max(3, *(len(line[index]) for line in cells)) for index in range(len(grid.head))]
    rule = [("-" * width) if index in grid.words else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    padded = [
        [text.ljust(width) if index in grid.words else text.rjust(width)
         for index, (text, width) in enumerate(zip(line, widths, strict=True))]
        for line in cells
    ]  # fmt: skip
    lines = [f"| {' | '.join(line)} |" for line in (padded[0], rule, *padded[1:])]
    above = [f"### {_escape(grid.title)}", "", *(f"{_escape(text)}  " for text in grid.caption.splitlines())]
    below = ["", *(f"{_escape(note)}  " for note in grid.notes)] if grid.notes else []
    return "\n".join([*above, *([""] if grid.caption else []), *lines, *below, ""])


def _escape(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\|*_`<\[])", r"\\\1", shortened(text, LONGEST_TEXT))


def latex(comparison: Comparison) -> str:
    """The paper's table, measured beside published, for `booktabs`: one table environment a results file."""
    labels: dict[str, int] = {}
    tables = []
    for section in comparison.sections:
        name = f"{re.sub(r'[^A-Za-z0-9-]', '-', section.results.recipe)}-{section.results.tier}"
        labels[name] = labels.get(name, 0) + 1
        tables.append(_latex_table(section, name if labels[name] == 1 else f"{name}-{labels[name]}"))
    return "\n".join(tables)


def _latex_table(section: Section, name: str) -> str:
    results = section.results
    notes, names = footnotes(results)
    columns = results.columns
    rules = "".join(rf"\cmidrule(lr){{{2 * n + 2}-{2 * n + 3}}}" for n in range(len(columns)))
    lines = [
        r"\begin{table}[t]",
        r"  \centering",
        rf"  \caption{{{_tex(results.title)} ({_tex(results.paper.cite)}, Table~{_tex(results.table)}). "
        rf"{_tex(provenance(results))}. {_tex(meaning(results))}}}",
        rf"  \label{{tab:{name}}}",
        rf"  \begin{{tabular}}{{l{'rr' * len(columns)}}}",
        r"    \toprule",
        "    " + "".join(rf" & \multicolumn{{2}}{{c}}{{{_tex(label(column))}}}" for column in columns) + r" \\",
        f"    {rules}",
        "    " + " & ours & paper" * len(columns) + r" \\",
        r"    \midrule",
    ]
    for row in results.rows:
        cells = [_latex_pair(section, row.id, column.id, column.decimals) for column in columns]
        lines.append(f"    {_tex(names[row.id])} & {' & '.join(cells)} " + r"\\")
    lines += [r"    \bottomrule", r"  \end{tabular}"]
    lines += [rf"  \par\footnotesize {_tex(note)}" for note in notes]
    return "\n".join([*lines, r"\end{table}", ""])


def _latex_pair(section: Section, row: str, column: str, decimals: int) -> str:
    cell = section.cells[row, column]
    ours = number(cell.measured.mean if cell.measured else None, decimals)
    if cell.measured is not None and cell.measured.deviation is not None:
        ours += rf"$_{{\pm {number(cell.measured.deviation, decimals)}}}$"
    paper = number(cell.published, decimals)
    paper += "" if cell.published_std is None else rf"$_{{\pm {number(cell.published_std, decimals)}}}$"
    return f"{ours} & {paper}".replace(MISSING, "--").replace("−", "$-$")


def _tex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "·": r"$\cdot$",
               "τ": r"$\tau$", "−": "$-$", "±": r"$\pm$", "…": r"\dots{}", "×": r"$\times$",
               "–": "--", "[": "{[}"}  # fmt: skip
    signs = r"[\[\\~^·τ−±…×–&%$#_{}]"
    return re.sub(signs, lambda found: special.get(found[0], "\\" + found[0]), shortened(text, LONGEST_TEXT))


def as_json(comparison: Comparison) -> str:
    """What a program reads, as `docs/compare.schema.json` describes it."""
    return json.dumps(checked(comparison.form()), indent=1) + "\n"


CSV_HEAD = (
    "recipe", "tier", "data", "protocol", "row", "role", "status", "column", "seeds", "measured", "measured_std",
    "published", "difference", "difference_low", "difference_high", "published_difference", "fidelity",
)  # fmt: skip


def as_csv(comparison: Comparison) -> str:
    """One line a cell, all digits; what is missing is empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for section in comparison.sections:
        results = section.results
        for row in results.rows:
            for column in results.columns:
                cell = section.cells[row.id, column.id]
                measured, difference = cell.measured, cell.difference
                writer.writerow([
                    results.recipe, results.tier, results.data.name, results.protocol, row.id, row.role, row.status,
                    column.id, measured.n if measured else 0, measured.mean if measured else None,
                    measured.deviation if measured else None, cell.published, difference.mean if difference else None,
                    difference.low if difference else None, difference.high if difference else None,
                    cell.published_difference, cell.fidelity,
                ])  # fmt: skip
    return stream.getvalue()
