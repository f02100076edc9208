"""Tables on narrow terminals."""

from collections.abc import Sequence

GAP = 3  # letters between columns


def fitting(needs: Sequence[int], kept: Sequence[int], width: int) -> list[list[int]]:
    """The columns, which need so many letters each, in groups that fit into `width`, each led by the `kept` ones; one
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


def unbroken(text: str) -> int:
    """Letters of the longest word."""
    return max(map(len, text.split()), default=0)
