"""Tables on narrow terminals."""

from collections.abc import Sequence

GAP = 3  # cells between columns


def fitting(needs: Sequence[int], kept: Sequence[int], width: int) -> list[list[int]]:
    """The columns, which need so many cells each, in groups that fit into `width`, each led by the `kept` ones; one
    group where all fit. A column that alone is too wide has a group of its own."""
    if sum(needs) + GAP * (len(needs) - 1) <= width:
        return [list(range(len(needs)))]
    groups = [list(kept)]
    for index in (index for index in range(len(needs)) if index not in kept):
        chosen = [*groups[-1], index]
        if len(groups[-1]) > len(kept) and sum(needs[each] for each in chosen) + GAP * (len(chosen) - 1) > width:
            chosen = [*kept, index]
            groups.append(chosen)
        groups[-1] = chosen
    return groups


def widths(needs: Sequence[int], wants: Sequence[int], width: int) -> list[int]:
    """How wide each column is made: at least what it needs; what is left of `width` goes to the first one and then to
    those that want the least more, up to what they want."""
    found, left = list(needs), width - sum(needs) - GAP * (len(needs) - 1)
    for index in sorted(range(len(needs)), key=lambda index: (index > 0, wants[index] - needs[index])):
        more = max(0, min(left, wants[index] - needs[index]))
        found[index], left = found[index] + more, left - more
    return found


def width_of(text: str) -> int:
    """How many cells of a terminal a text takes: a sign of Chinese takes two."""
    from rich.cells import cell_len  # here, for it takes long to import

    return cell_len(text)


def unbroken(text: str) -> int:
    """Cells of the longest word."""
    return max(map(width_of, text.split()), default=0)
