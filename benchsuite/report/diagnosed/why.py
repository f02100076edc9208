"""Where a row gains over its baseline: by kind of error (TIDE), overlap, size and class, with paired intervals."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchsuite.report.diagnosed import Part, Why
from benchsuite.report.figures._style import ACCENT, OURS, WIDTH, caption, headline, style
from benchsuite.report.grids import signed

GROUPS = {"error": "by kind of error", "overlap": "by overlap asked for", "size": "by size", "class": "by class"}
ACROSS, MOST = 2, 12
"""Panels beside each other; classes that are shown, those that changed most."""


def draw(found: Why, title: str) -> Figure:
    """A panel a group: the gain of each part and its interval; behind sizes and classes that of the whole."""
    (total,) = found.of("total")
    groups = {group: _shown(found.of(group)) for group in GROUPS if found.of(group)}
    with style():
        down, across = -(-len(groups) // ACROSS), min(ACROSS, len(groups))
        tallest = max((len(parts) for parts in groups.values()), default=1)
        figure = Figure(figsize=(WIDTH, 0.8 + (0.65 + 0.19 * max(tallest, 5)) * down), dpi=300, layout="constrained")
        headline(figure, f"{found.row} − {found.baseline}: {sentence(found)}")
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for axes in panels[len(groups) :]:
            axes.set_visible(False)
        for axes, (group, parts) in zip(panels, groups.items(), strict=False):
            left_out = len(found.of(group)) - len(parts)
            _panel(axes, parts, total if group in ("size", "class") else None)
            axes.set_title(GROUPS[group] + (f", the {len(parts)} that changed most" if left_out else ""))
            measured = {"error": found.errors_on, "overlap": "AP at that IoU"}.get(group, found.column)
            axes.set_xlabel(f"gain in {measured} (points)")
        caption(figure, f"{title}. {_explained(found)}")
    return figure


def sentence(found: Why) -> str:
    """`+1.3 AP [0.2, 2.4]: localisation +0.9 [0.4, 1.4], …`, the kinds of error whose intervals exclude 0 first named;
    where there is none, that says so."""
    (total,) = found.of("total")
    clear = [part for part in found.of("error") if part.low > 0 or part.high < 0]
    named = ", ".join(_told(part) for part in sorted(clear, key=lambda part: -abs(part.gain)))
    return f"{_told(total)}: {named or 'no kind of error differs clearly'}"


def _told(part: Part) -> str:
    low, high = signed(part.low, 1), signed(part.high, 1)
    if part.group == "total":
        return f"{signed(part.gain, 1)} {part.name} [{low}, {high}]"
    return f"{part.name} {signed(part.gain, 1)} [{low}, {high}]"


def _explained(found: Why) -> str:
    return (
        f"Lines: 95 % intervals over {found.over}, each for itself, in colour where they exclude 0; band: the whole. "
        f"Errors: points of {found.errors_on} that they cost {found.baseline} more (TIDE); they do not add up."
    )


def _shown(parts: list[Part]) -> list[Part]:
    chosen = sorted(parts, key=lambda part: -abs(part.gain))[:MOST]
    return [part for part in parts if part in chosen]


def _panel(axes: Axes, parts: list[Part], total: Part | None) -> None:
    places = range(len(parts))
    axes.axvline(0, color="black", linewidth=0.6)
    if total is not None:
        axes.axvspan(total.low, total.high, color="#EDEDED", zorder=0, linewidth=0)
        axes.axvline(total.gain, color="#9A9A9A", linewidth=0.8, zorder=1)
    for place, part in zip(places, parts, strict=True):
        clear = part.low > 0 or part.high < 0
        colour = (OURS if part.gain > 0 else ACCENT) if clear else "#9A9A9A"
        axes.plot([part.low, part.high], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
        axes.plot(part.gain, place, "o", color=colour, markersize=4)
    axes.set_yticks(places, [part.name for part in parts])
    axes.set_ylim(len(parts) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
