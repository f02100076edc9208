"""Tensors on disk: safetensors with a few JSON values in the header, written whole or not at all, never pickle."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from benchsuite.disk import whole
from benchsuite.errors import InputError
from benchsuite.settings import Json


def save(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Json] | None = None) -> None:
    """Write `tensors` (any device and memory format) and `state` to `path`; a kill leaves the old file or the new."""
    # Contiguous copies of their own: safetensors knows no memory format and refuses tensors that share memory.
    held = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    with whole(path) as scratch:
        save_file(held, scratch, metadata={"state": json.dumps(state or {})})


def load(path: Path, cure: str) -> tuple[dict[str, Tensor], dict[str, Json]]:
    """The tensors (on the CPU, contiguous) and the state of a file that `save` wrote.

    Raises InputError naming the file and `cure` where it is absent, truncated or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {}).get("state", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: truncated or not a safetensors file ({reason}); {cure}") from error


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
