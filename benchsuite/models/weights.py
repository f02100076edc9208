"""Weights to start from: files in torch's cache, in a package, or the user's own; checked, and read without pickle."""

import hashlib
import pickle
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from benchsuite.errors import InputError, MissingData

State: TypeAlias = Mapping[str, Tensor]


def hash_in_name(file: str | Path) -> str:
    """First digits of the SHA-256 that torch's hub writes at the end of a file's name: resnet50-0676ba61.pth."""
    return Path(file).stem.rpartition("-")[2]


def cached_weights(url: str) -> Path:
    """The file of `url` in torch's own cache (`TORCH_HOME`). Nothing is downloaded; MissingData where it is absent."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / Path(url).name
    if not file.is_file():
        raise MissingData(f"{file.name}: these weights are not on this machine; download {url} to {folder}")
    return file


def intact(file: Path, digits: str = "") -> Path:
    """`file`, checked against the first digits of its SHA-256, by default those in its name; InputError where they
    differ."""
    found = sha256(file)
    if not found.startswith(digits or hash_in_name(file)):
        raise InputError(f"{file}: its SHA-256 starts with {found[:8]}, unlike its name; download it again")
    return file


def sha256(file: Path) -> str:
    """Of the content, read again only when size or time have changed; MissingData where it is no file."""
    if not file.is_file():
        raise MissingData(f"{file}: no such file of weights; give the path of a .safetensors or .pth file")
    known = file.stat()
    return _sha256(file, known.st_size, known.st_mtime_ns)


def hash_of(file: Path) -> str:
    """First digits of its SHA-256, for keys; `absent` where it is not on this machine: planning goes on without it."""
    try:
        return sha256(file)[:16]
    except MissingData:
        return "absent"


@lru_cache(maxsize=64)
def _sha256(file: Path, size: int, time: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a torch file that holds nothing but tensors; InputError else."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        told = " ".join(str(error).split())[:120]
        raise InputError(f"{file}: cannot be read as weights ({told}); give tensors alone, as .safetensors") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not (isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())):
        raise InputError(f"{file}: holds more than tensors by name; save the network's state_dict alone")
    return {str(name): value for name, value in state.items()}


def load_into(network: nn.Module, state: State, file: Path, but: tuple[str, ...] = ()) -> None:
    """Copy tensors into `network`, by name. What the file has beyond the network (a classifier) is left; so are
    tensors of the network whose names begin with one of `but`. InputError where the network's are missing or of other
    shapes."""
    counters = "num_batches_tracked"
    own = {name: value for name, value in network.state_dict().items() if not name.startswith(but or "\0")}
    missing = [name for name in own if name not in state and not name.endswith(counters)]
    unlike = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or unlike:
        told = f"no {missing[0]}" if missing else _shapes(unlike[0], state, own)
        raise InputError(f"{file}: does not fit {type(network).__name__} ({told}); choose weights of this network")
    network.load_state_dict({name: state[name] for name in own if name in state}, strict=False)


def _shapes(name: str, state: State, own: State) -> str:
    there, here = ("×".join(map(str, side[name].shape)) for side in (state, own))
    return f"another shape of {name}, {there} for {here}"
