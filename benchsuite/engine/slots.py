"""Where jobs run: the machine's devices and cores, cut into places for one worker each."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from benchsuite.engine.environment import cores, device_of
from benchsuite.errors import InputError


@dataclass(frozen=True)
class Place:
    """Where a worker works: a device as jobs see it, and what the process may see of the machine."""

    device: str
    threads: int
    visible: str | None = None  # the value of CUDA_VISIBLE_DEVICES for the worker
    name: str = "cpu"  # the device as the user knows it; places of one name share it


@dataclass(frozen=True)
class Slots:
    """The places where jobs run, one worker each."""

    places: tuple[Place, ...]
    cores: int

    @classmethod
    def on(cls, device: str = "auto", slots: int | None = None, per_job: int = 1) -> "Slots":
        """Places on `cpu`, `cuda` (every visible GPU), `cuda:N` (the N-th of them) or `auto` (GPUs if there are any);
        beside GPUs one on the CPU, for jobs that use none.

        `slots` is how many jobs share a device, by default one; they divide the CPU's cores among them. `per_job` is of
        how many devices a place has the use, where that is not one; on a CPU they are its cores.
        """
        each, machine = 1 if slots is None else slots, cores()
        if each < 1:
            raise InputError(f"--slots {each}: needs a positive number")
        if per_job > 1 and slots is not None:
            raise InputError(f"--per-job {per_job} with --slots {slots}: devices are shared or put together; drop one")
        kind, number = device_of(device)
        gpus = [] if kind == "cpu" else _visible_gpus()
        if number is not None and number >= len(gpus):
            raise InputError(f"--device {device}: there are {len(gpus)} visible GPUs; see `bench doctor`")
        if kind == "cuda" and not gpus:
            raise InputError(f"--device {device}: there is no usable GPU; see `bench doctor`, or use --device cpu")
        if not gpus:
            return cls((Place("cpu", max(1, machine // each)),) * each, machine)
        chosen = list(range(len(gpus))) if number is None else [number]
        if per_job > len(chosen):
            raise InputError(f"--per-job {per_job}: --device {device} is {len(chosen)} GPUs here; ask for fewer")
        groups = [chosen[at : at + per_job] for at in range(0, len(chosen) - per_job + 1, per_job)]
        threads = max(1, machine // (each * len(groups)))
        places = [_on_gpus(group, gpus, threads) for group in groups for _ in range(each)]
        return cls((*places, Place("cpu", threads, "")), machine)

    @property
    def mixed(self) -> bool:
        """Whether there are GPUs and a CPU's place beside them."""
        return len({place.device == "cpu" for place in self.places}) > 1


def _on_gpus(group: Sequence[int], gpus: Sequence[str], threads: int) -> Place:
    name = f"cuda:{group[0]}" + (f"-{group[-1]}" if len(group) > 1 else "")
    return Place("cuda:0", threads, ",".join(gpus[index] for index in group), name)


def _visible_gpus() -> list[str]:
    """The entries of CUDA_VISIBLE_DEVICES that are there, or the numbers of all GPUs."""
    import torch

    count = torch.cuda.device_count()
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(index) for index in range(count)] if listed is None else listed.split(",")[:count]
