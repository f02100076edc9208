"""Tensors on disk: safetensors with a few JSON values and a checksum in the header, written whole or not at all, never
pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

import torch
import xxhash
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from benchsuite.disk import is_file, parse_json, whole
from benchsuite.engine.store import remove
from benchsuite.errors import InputError
from benchsuite.settings import Json, Settings, flat_errors


def save(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Json] | None = None) -> None:
    """Write `tensors` (any device and memory format) and `state` to `path`; a kill leaves the old file or the new."""
    # Contiguous copies of their own: safetensors knows no memory format and refuses tensors that share memory.
    held = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    text = json.dumps(state or {})
    with whole(path) as scratch:
        # One entry, two lines: safetensors writes several in any order, and equal tensors are to be equal bytes.
        save_file(held, scratch, metadata={"state": f"{text}\n{_checksum(held, text)}"})


def _checksum(tensors: Mapping[str, Tensor], state: str) -> str:
    """Of names, types, shapes and bytes of contiguous tensors, and of the state."""
    digest = xxhash.xxh3_128(state.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load(path: Path, cure: str) -> tuple[dict[str, Tensor], dict[str, Json]]:
    """The tensors (on the CPU, contiguous) and the state of a file that `save` wrote.

    Raises InputError naming the file and `cure` where it is absent, truncated, changed or something else.
    """
    try:
        if path.exists() and not is_file(path):  # a pipe would wait for a writer
            raise OSError("no regular file")
        with safe_open(path, framework="pt") as file:
            text, _, checksum = (file.metadata() or {}).get("state", "{}").partition("\n")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: truncated or not a safetensors file ({reason}); {cure}") from error
    if checksum and checksum != _checksum(tensors, text):  # others' files have none
        raise InputError(f"{path}: was changed after it was written (its checksum differs); {cure}")
    return tensors, parse_json(text.encode(), f"{path}: its state", cure)


def set_aside(path: Path) -> None:
    """Rename what is at `path`, if anything, to `NAME.aside`, in the place of what was set aside before."""
    if path.exists() or path.is_symlink():
        aside = path.with_name(f"{path.name}.aside")
        remove(aside)
        path.rename(aside)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, cure: str) -> None:
    """Copy `tensors` into the parameters and buffers of `module`, keeping its device and memory format.

    Raises InputError where a name is missing or too many, or a shape differs; `path` and `cure` are for its message.
    """
    own: Mapping[str, Tensor] = module.state_dict()
    for name in sorted(own.keys() ^ tensors.keys()):
        problem = "lacks the tensor" if name in own else "has the unknown tensor"
        raise InputError(f"{path}: {problem} '{name}', so it is of another model; {cure}")
    for name, value in own.items():
        if value.shape != tensors[name].shape:
            found, wanted = list(tensors[name].shape), list(value.shape)
            raise InputError(f"{path}: '{name}' has shape {found}, the model wants {wanted}; {cure}")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])


def load_weights(network: nn.Module, path: Path, partly: bool = False) -> None:
    """Copy the parameters and buffers of a `weights.safetensors` into `network`; `partly` leaves the rest as it is.

    Raises InputError where the file cannot be read or belongs to another model.
    """
    cure = f"delete {path.parent} and run again"
    tensors, _ = load(path, cure)
    own: dict[str, Tensor] = network.state_dict() if partly else {}
    fill(network, own | tensors, path, cure)


Sum = tuple[Annotated[float, Field(allow_inf_nan=True)], Annotated[int, Field(ge=1)]]
"""A sum, and of how many; what a module observes may be NaN."""


class Kept(Settings):
    """What a checkpoint holds beside tensors. Those written before it said whose it is, and what its log held, do not
    name them."""

    iteration: Annotated[int, Field(ge=0)]
    seconds: Annotated[float, Field(ge=0)]
    sums: Mapping[str, Sum]
    key: str | None = None
    log: tuple[Annotated[int, Field(ge=0)], str] | None = None

    @classmethod
    def read(cls, state: Mapping[str, Json], iterations: range, key: str, path: Path, cure: str) -> Self:
        """The state of a checkpoint of this very training, within its iterations; InputError for any other."""
        try:
            kept = cls.model_validate(state)
        except ValidationError as error:
            place, told, _ = flat_errors(error)[0]
            raise InputError(f"{path}: its state {'.'.join(map(str, place))}: {told}; {cure}") from None
        if kept.iteration not in iterations:
            raise InputError(f"{path}: is of iteration {kept.iteration} of {iterations.stop}; {cure}")
        if kept.key not in (None, key):
            raise InputError(f"{path}: is of another training, {kept.key}; {cure}")
        return kept
