"""Mistakes in settings as sentences of one line: where, what was found, what would have been accepted."""

from collections.abc import Container, Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from benchsuite.errors import InputError, nearest
from benchsuite.recipe.yamlfile import Document
from benchsuite.settings import NO_SUCH_KIND, Part, find, flat_errors

_UNKNOWN = "Extra inputs are not permitted"


def explain(error: ValidationError, document: Document, settings: type[BaseModel]) -> InputError:
    """The first mistake as one line: file and line, path, what was found and what would have been accepted."""
    # a misspelt key first: that another is missing then follows from it
    path, message, value = min(flat_errors(error), key=lambda each: each[1] != _UNKNOWN)
    place, dotted = document.origin(path), ".".join(str(step) for step in path)
    if message == _UNKNOWN:
        accepted = sorted(set(_fields_at(settings, document, path[:-1])))
        return InputError(f"{place}: unknown key `{dotted}`; {nearest(str(path[-1]), accepted)}")
    if message == "Field required":
        return InputError(f"{place}: `{dotted}` is missing; add it")
    while path and path[-1] not in _keys(document.at(*path[:-1]).value):  # the branch of a choice, none of the file's
        path = path[:-1]
    dotted = ".".join(str(step) for step in path)
    if isinstance(value, dict) and (NO_SUCH_KIND in message) and "kind" in value:
        place, dotted, value = document.origin((*path, "kind")), f"{dotted}.kind".lstrip("."), value["kind"]
    message = message[0].lower() + message[1:]
    return InputError(f"{place}: `{dotted}` is {_short(value)}: {message}")


def _keys(value: object) -> Container[object]:
    return range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ()


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _fields_at(settings: type[BaseModel], document: Document, path: tuple[str | int, ...]) -> Iterator[str]:
    """Names of the fields that the settings at `path` take, followed through parts chosen by `kind`."""
    current, value = _chosen(settings, document.value), document.value
    for depth, step in enumerate(path, 1):
        value = document.at(*path[:depth]).value
        annotation: Any = current
        if isinstance(step, str) and current is not None:
            annotation = current.model_fields[step].annotation if step in current.model_fields else None
        current = _chosen(annotation, value)
    if current is not None:
        yield from current.model_fields


def _chosen(annotation: Any, value: Any) -> type[BaseModel] | None:
    """The settings class that a field's annotation and a value's `kind` come to."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            chosen = isinstance(value, dict) and "kind" in value and issubclass(candidate, Part)
            return find(candidate, value["kind"]) if chosen and issubclass(candidate, Part) else candidate
    return None
