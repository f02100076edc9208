"""Settings: frozen, typed, one small class above each thing that can be configured.

A *part* is a settings class chosen by name. A field typed with a slot (a direct subclass of `Part`, such as
`Backbone`) takes a mapping whose `kind` names one of the slot's subclasses: `kind: resnet.ResNet` is the class
`ResNet` in the module `resnet` of one of the slot's packages; a user's own part is `kind: mypkg.mymodule:MyPart`.
There is no registry: the name is looked up by import, and what is not a settings class of that slot is refused.
"""

import hashlib
import importlib
import inspect
import json
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache, wraps
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, TypeVar, TypeVarTuple, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from benchsuite.errors import nearest

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
Switch = Annotated[Literal[True] | None, BeforeValidator(lambda value: None if value is False else value)]
"""A setting that is on or off; off is None, which no key mentions."""
P = TypeVar("P", bound="Part")
S = TypeVar("S", bound="Settings")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")
_REMEMBERED = "_remembered"
MOST = 2**32 - 1
"""The largest whole number that a setting takes where it has no bound of its own; also the largest seed."""
NO_SUCH_KIND = "unknown kind"
"""What the error begins with where a `kind` names nothing that can be used."""
LONGEST_NAME = 200


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kind, found = schema.get("type"), {name: _strict(item) for name, item in schema.items()}
    if kind in ("int", "float", "bool"):
        found["strict"] = True
    if kind == "int" and not {"le", "lt"} & schema.keys():
        found["le"] = MOST
    if kind == "literal" and not any(isinstance(value, bool) for value in schema["expected"]):
        return core_schema.no_info_before_validator_function(_no_truth, cast(CoreSchema, found))
    return found


def _no_truth(value: object) -> object:
    if isinstance(value, bool):  # which Python takes for 0 or 1
        raise ValueError("a truth value is none of the choices")
    return value


class Strict(BaseModel):
    """Base of what is read from files that people write: frozen, unknown keys refused, and every number one: neither
    `true` nor `'0.01'`, none without end, no whole one beyond MOST."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return cast(CoreSchema, _strict(handler(source)))


class Settings(Strict):
    """Base of all settings. Raise `version` when behaviour changes under equal
    settings, so that old results are not taken for new ones. A field with `exclude=True` says where something is,
    not what it is, and stays out of keys."""

    version: ClassVar[int] = 1

    def __copy__(self) -> Self:
        copied = super().__copy__()
        copied.__dict__.pop(_REMEMBERED, None)
        return copied

    def changed(self, **changes: Any) -> Self:
        """The same settings but for `changes`, validated."""
        return type(self).model_validate(dict(self) | changes)

    def identity(self) -> Json:
        """Content beyond the settings that belongs into a key (a dataset's fingerprint, the hash of weights)."""
        return None

    def require(self) -> None:
        """MissingData, one line with the cure, if something these settings need is not on this machine; InputError if
        it is and does not do."""

    def deviations(self) -> tuple[str, ...]:
        """Where building from these settings departs from the paper (no pretrained weights here, say)."""
        return ()


class Part(Settings):
    """A settings class that a recipe selects by `kind`. A direct subclass is a slot, its subclasses the choices."""

    packages: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        plain = super().__get_pydantic_core_schema__(source, handler)

        def choose(value: Any, validate: core_schema.ValidatorFunctionWrapHandler) -> Any:
            if not isinstance(value, Mapping):
                return validate(value)
            fields = dict(value)
            chosen = fields.pop("kind", None)
            if chosen is None and _selectable(cls):
                return validate(fields)
            part = find(cls, chosen)
            if part is cls:
                return validate(fields)
            made = part.model_validate({"kind": chosen, **fields})
            if not isinstance(made, cls):  # a part that stands for another, which is of another slot
                raise ValueError(f"kind '{chosen}' became a {made.kind()}, which is none of: {', '.join(choices(cls))}")
            return made

        return core_schema.no_info_wrap_validator_function(choose, plain)

    @classmethod
    def kind(cls) -> str:
        """The name under which a recipe selects this class, for instance `retinanet.Head`."""
        package, _, module = cls.__module__.rpartition(".")
        if package in cls.packages:
            return f"{module}.{cls.__name__}"
        return f"{cls.__module__}:{cls.__name__}"


def slots() -> list[type[Part]]:
    """The slots known so far: direct subclasses of `Part`."""
    return Part.__subclasses__()


def find(slot: type[P], kind: object) -> type[P]:
    """The settings class that `kind` names for `slot`; ValueError, listing the choices, if it names none."""
    if not isinstance(kind, str):
        raise ValueError(f"needs `kind`, one of: {', '.join(choices(slot))}")
    if ":" in kind:
        module_name, _, name = kind.partition(":")
        modules = [module_name]
    else:
        module, _, name = kind.rpartition(".")
        modules = [f"{package}.{module}" for package in slot.packages if module and "." not in module]
    there: ModuleType | None = None
    others: list[type[Part]] = []
    for module_name in modules:
        there = _module(module_name, kind)
        found = None if there is None else vars(there).get(name)
        if isinstance(found, type) and issubclass(found, slot) and _selectable(found):
            return found
        if isinstance(found, type) and issubclass(found, Part) and _selectable(found):
            others.append(found)
    if ":" in kind and there is None:
        raise ValueError(
            f"{NO_SUCH_KIND} '{kind}': there is no module {modules[0]}, neither installed nor beside the recipe"
        )
    if others:
        its = next(each.__name__ for each in others[0].__mro__ if Part in each.__bases__)
        raise ValueError(
            f"{NO_SUCH_KIND} '{kind}': is for {its}, and here goes {slot.__name__}: {', '.join(choices(slot))}"
        )
    held = vars(there) if ":" in kind and there is not None else {}
    own = [each for each, value in held.items() if isinstance(value, type) and issubclass(value, slot)
           and _selectable(value) and value.__module__ == modules[0]]  # fmt: skip
    raise ValueError(
        f"{NO_SUCH_KIND} '{kind}'; {nearest(kind, [*(f'{modules[0]}:{each}' for each in own), *choices(slot)])}"
    )


def look_beside(folder: Path) -> None:
    """Let kinds name modules in `folder`, where a recipe lies; installed ones go first."""
    if str(folder) not in _beside:
        _beside.append(str(folder))


_beside: list[str] = []


def _module(name: str, kind: str) -> ModuleType | None:
    """The module, None where there is none; ValueError, one line, where it is Python's own or its import fails."""
    words = name.split(".")
    if len(name) > LONGEST_NAME or not all(word.isidentifier() for word in words):
        return None
    if words[0] in {*sys.stdlib_module_names, "test"} or any(word.startswith("__") for word in words):
        raise ValueError(f"{NO_SUCH_KIND} '{kind}': {name} is Python's own and not imported; name a module of yours")
    try:
        return _imported(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may end in any way; `exit()` is one
        told = f"{type(error).__name__}: {error}".rstrip(": ")
        raise ValueError(
            f"{NO_SUCH_KIND} '{kind}': importing {name} failed with {told} ({_line_of(error)}); mend it"
        ) from error


def _imported(name: str) -> ModuleType | None:
    if name in sys.modules or name in _absent:
        return sys.modules.get(name)
    for folders in ([], [folder for folder in _beside if folder not in sys.path]):
        sys.path.extend(folders)
        importlib.invalidate_caches()
        try:
            with _off_stdout():
                return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):  # it is there, and lacks another
                raise
    if name.startswith("benchsuite."):  # a user's module may yet be written
        _absent.add(name)
    return None


_absent: set[str] = set()


@contextmanager
def _off_stdout() -> Iterator[None]:
    """What an import prints goes to stderr: stdout may be JSON for a program."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


_OURS = (__file__, importlib.__file__)


def _line_of(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [each for each in frames if not each.filename.startswith("<") and each.filename not in _OURS]
    return f"{Path(theirs[-1].filename).name}:{theirs[-1].lineno}" if theirs else "no line of it"


@cache
def choices(slot: type[Part]) -> tuple[str, ...]:
    """Every kind that `slot` accepts from the project's own packages; imports them, so only for errors and help."""
    for package in slot.packages:
        for path in importlib.import_module(package).__path__:
            for module in pkgutil.iter_modules([path]):
                if not module.name.startswith("__"):
                    importlib.import_module(f"{package}.{module.name}")
    return tuple(sorted(part.kind() for part in _below(slot) if ":" not in part.kind() and _selectable(part)))


def _selectable(part: type) -> bool:
    """Slots and what is abstract stand for others and are no choice themselves."""
    return part not in slots() and not inspect.isabstract(part)


def _below(part: type[Part]) -> Iterator[type[Part]]:
    for sub in part.__subclasses__():
        yield sub
        yield from _below(sub)


def canonical(value: object) -> Json:
    """JSON form of settings, all defaults written out, with kind, version and identity of every part. A field that is
    None is left out: a new optional part changes no key of what goes without it."""
    if isinstance(value, Settings):
        return _form_of(value)
    if isinstance(value, Mapping):
        return {str(name): canonical(value[name]) for name in value}
    if isinstance(value, (tuple, list)):
        return [canonical(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((canonical(item) for item in value), key=repr)
    if isinstance(value, Path):
        return value.as_posix()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} has no canonical form")


def once(method: Callable[[S, *Ts], R]) -> Callable[[S, *Ts], R]:
    """A method of settings that computes once for the same arguments: what is frozen gives the same again."""

    @wraps(method)
    def remembered(self: S, *arguments: *Ts) -> R:
        known: dict[Any, R] = self.__dict__.setdefault(_REMEMBERED, {})
        key = method.__qualname__, arguments
        if key not in known:
            known[key] = method(self, *arguments)
        return known[key]

    return remembered


@once
def _form_of(value: Settings) -> Json:
    form: dict[str, Json] = {"kind": value.kind()} if isinstance(value, Part) else {}
    form |= {"version": value.version} if value.version != 1 else {}
    identity = value.identity()
    form |= {"identity": identity} if identity is not None else {}
    fields = [name for name, field in type(value).model_fields.items() if not field.exclude]
    return form | {name: canonical(set_) for name in fields if (set_ := getattr(value, name)) is not None}


def walk(value: object) -> Iterator[Settings]:
    """Every settings object in `value`, outermost first."""
    if isinstance(value, Settings):
        yield value
        for name in type(value).model_fields:
            yield from walk(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from walk(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from walk(item)


def content_key(form: Json) -> str:
    """24 hexadecimal digits of the SHA-256 of the canonical JSON text of `form`."""
    text = json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def flat_errors(error: ValidationError) -> list[tuple[tuple[str | int, ...], str, object]]:
    """(path, message, value found) of every mistake, those inside nested parts included."""
    found: list[tuple[tuple[str | int, ...], str, object]] = []
    for item in error.errors():
        path = tuple(item["loc"])
        inner = item.get("ctx", {}).get("error")
        if isinstance(inner, ValidationError):
            found += [((*path, *deeper), message, value) for deeper, message, value in flat_errors(inner)]
        else:
            found.append((path, item["msg"].removeprefix("Value error, "), item["input"]))
    return found
