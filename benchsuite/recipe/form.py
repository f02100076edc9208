"""What the words and numbers of a recipe may be."""

import re
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from benchsuite.errors import InputError
from benchsuite.settings import MOST, Strict, flat_errors

TIERS = ("smoke", "mini", "paper")
LONGEST_ID = 80


class Outer(Strict):
    """Base of a recipe's outer form."""

    model_config = ConfigDict(arbitrary_types_allowed=True)


def _an_id(text: str) -> str:
    if not re.fullmatch(r"[\w+-][\w.+-]*", text) or len(text) > LONGEST_ID:
        raise ValueError(
            "an id names files: letters, digits, '-', '_', '.' and '+', no '.' at the beginning, at most "
            f"{LONGEST_ID} signs; write another"
        )
    return text


def _each_once(seeds: tuple[int, ...]) -> tuple[int, ...]:
    twice = [seed for index, seed in enumerate(seeds) if seed in seeds[:index]]
    if twice:
        raise ValueError(f"seed {twice[0]} stands twice; name it once")
    return seeds


Id = Annotated[str, AfterValidator(_an_id)]
Seed = Annotated[int, Field(ge=0, le=MOST, strict=True)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_each_once)]
_SEEDS: TypeAdapter[tuple[int, ...]] = TypeAdapter(Seeds)


def seeds_in(values: object, what: str) -> tuple[int, ...]:
    """Seeds, as they may be; InputError, beginning with `what`, for what are none."""
    try:
        return _SEEDS.validate_python(values)
    except ValidationError as error:
        _, message, value = flat_errors(error)[0]
        raise InputError(f"{what}: {value!r}: {message[0].lower()}{message[1:]}; seeds are such as [0, 1, 2]") from None
