"""What the words and numbers of a recipe may be."""

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from benchsuite.errors import InputError, visible
from benchsuite.settings import MOST, Strict, flat_errors

TIERS = ("smoke", "mini", "paper")
LONGEST_ID = 80
LONGEST_LABEL = 80  # letters of a row's or column's name as it is shown


class Outer(Strict):
    """Base of a recipe's outer form, and of results: its texts are harmless on a terminal, whoever wrote them."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    @field_validator("*")
    @classmethod
    def _harmless(cls, value: object) -> object:
        return _visible(value)


def _visible(value: object) -> object:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {_visible(name): _visible(item) for name, item in value.items()}
    return tuple(_visible(item) for item in value) if isinstance(value, (tuple, list)) else value


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
