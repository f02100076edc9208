"""The machine and the versions a result was made with, and the switches that make it repeat."""

import os
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

from benchsuite.errors import InputError
from benchsuite.settings import Json

MOST_THREADS = 4096
PACKAGES = ("benchsuite", "torch", "torchvision", "timm", "numpy", "hotcoco", "pycocotools")


def environment(*, gpu: bool = False) -> dict[str, Json]:
    """What is recorded beside results: versions, processor, commit; names of GPUs only if asked, which loads torch.

    Holds no host name and no path.
    """
    found: dict[str, Json] = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: version(name) for name in PACKAGES},
        "cpu": _cpu_model(),
        "cores": cores(),
        "commit": _commit(),
    }
    return found | ({"gpus": gpus()} if gpu else {})


def device_name(device: str = "auto") -> str:
    """What timings on `device` (cpu, cuda, cuda:N or auto) are timings of: the GPU's name, or the processor's."""
    kind, number = device_of(device)
    names, index = [] if kind == "cpu" else gpus(), number or 0
    return str(names[index]) if index < len(names) else f"{_cpu_model()}, {cores()} cores"


def device_of(text: str) -> tuple[str, int | None]:
    """`cpu`, `cuda` or `auto`, and the number of one GPU; InputError for another text."""
    kind, colon, number = text.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (colon and (kind != "cuda" or not number.isdecimal())):
        raise InputError(f"--device {text}: unknown device; one of: auto, cpu, cuda, cuda:N")
    return kind, int(number) if number else None


def cores() -> int:
    """CPU cores that this process may use; `OMP_NUM_THREADS`, where set, is obeyed. InputError where that is no number,
    for which OpenMP takes any."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked:
        first = asked.partition(",")[0].strip()  # of nested teams: the outer one's
        if not first.isdecimal() or not 0 < int(first[:9]) <= MOST_THREADS:
            raise InputError(f"OMP_NUM_THREADS='{asked}': is no number of threads; unset it, or set one such as 2")
        return int(first)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def determinism(device: str, asked: bool) -> bool:
    """Whether equal work gives equal bits on `device`; call before its first work there.

    A CPU needs no switch: there, equal thread counts give equal bits. On a GPU they are to be `asked` for, as they cost
    time; some operations have no deterministic form, torch then warns in the job's log.
    """
    import torch

    torch.backends.cudnn.benchmark = False
    if device == "cpu":
        return True
    if asked:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(asked, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time
    return asked


def tidy(device: str) -> None:
    """After a job: give back what torch keeps of a GPU's memory, for the next job or another's, and forget its peak."""
    import torch

    if device != "cpu" and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@cache
def version(package: str) -> str | None:
    """Version of an installed package, None where it is not installed."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


@cache
def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model", "cpu model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def gpus() -> list[Json]:
    """Names of the GPUs with the driver's version; loads torch."""
    import torch

    if not torch.cuda.is_available():
        return []
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = next(iter(_output(asked).splitlines()), "")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [f"{name}, driver {driver}" if driver else name for name in names]


@cache
def _commit() -> str | None:
    """The commit of the project's own checkout, with `+changes` where files differ from it; None if there is none."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None
    commit = _output(["git", "-C", str(folder), "rev-parse", "HEAD"])
    if not commit:
        return None
    changes = _output(["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"])
    return commit[:12] + ("+changes" if changes else "")


def _output(command: list[str]) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        # git would look into the repository that $GIT_DIR names, whatever folder it is given
        environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True, env=environ)
        return found.stdout.strip()
    return ""
