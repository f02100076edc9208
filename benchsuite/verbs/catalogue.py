"""What `bench list` prints: the tables that can be run, and everything that can be drawn. Without rich, for speed."""

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchsuite.recipe.heading import Heading

NARROWEST, WIDE = 20, 200  # of the last column; of a line that goes into no terminal


def list_form(recipes: Sequence[Heading]) -> list[dict[str, Any]]:
    """JSON of `bench list`."""
    return [asdict(each) for each in recipes]


def print_list(
    recipes: Sequence[Heading], gathered: Mapping[str, str], figures: Mapping[str, str], pictures: Mapping[str, str]
) -> None:
    """Recipes as a table, then everything that can be drawn: by name, with what it shows."""
    rows = [(each.id, each.paper, each.table, str(each.rows), each.title) for each in recipes]
    _print_table(("recipe", "paper", "table", "rows", "title"), rows)
    print("\nbench show ID   bench run ID   bench plan ID --tier paper\n")
    drawn = [("bench plot " + name, shows) for name, shows in gathered.items()]
    drawn += [("bench plot RECIPE --figure " + name, shows) for name, shows in figures.items()]
    drawn += [(f"bench plot {name} RECIPE/ROW", shows) for name, shows in pictures.items()]
    _print_table(("figures and pictures", "what they show"), drawn)


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns side by side; the last one folds at the terminal's edge."""
    widths = [max(len(line[index]) for line in (head, *rows)) for index in range(len(head) - 1)]
    left = sum(widths) + 2 * len(widths)
    room = max(NARROWEST, shutil.get_terminal_size(fallback=(WIDE, 24)).columns - left)
    rule = ["─" * width for width in (*widths, min(room, max(len(line[-1]) for line in (head, *rows))))]
    for line in (head, rule, *rows):
        first, *others = textwrap.wrap(line[-1], room, break_on_hyphens=False) or [""]
        cells = [text.ljust(width) for text, width in zip(line[:-1], widths, strict=True)]
        print("  ".join([*cells, first]).rstrip())
        for other in others:
            print(" " * left + other)
