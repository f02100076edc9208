"""Tables as HTML that stands alone: no network, no server; sorted by a click, and escaped throughout."""

from dataclasses import dataclass
from typing import Any

from benchsuite.report.compare import Comparison
from benchsuite.report.grids import Grid, grids


@dataclass(frozen=True)
class SortableTable:
    """A grid whose lines are grouped by the row of the published table that they are about: groups are what is
    sorted."""

    grid: Grid
    groups: tuple[tuple[tuple[str, ...], ...], ...]

    @classmethod
    def of(cls, grid: Grid) -> "SortableTable":
        """A line whose first cell is empty belongs to the one above."""
        groups: list[list[tuple[str, ...]]] = []
        for line in grid.lines:
            if line[0] or not groups:
                groups.append([])
            groups[-1].append(line)
        return cls(grid, tuple(tuple(group) for group in groups))


def rendered(template: str, **values: Any) -> str:
    """A template of this folder, filled in; every value is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("benchsuite.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template(template).render(**values)


def as_html(comparison: Comparison) -> str:
    """The tables of `bench compare` as one page."""
    titles = dict.fromkeys(section.results.recipe for section in comparison.sections)
    return rendered("compare.html", titles=list(titles), tables=[SortableTable.of(each) for each in grids(comparison)])
