"""The machine and the versions a result was made with, the switches that make it repeat, and a check of both."""

import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from benchsuite.errors import BenchError
from benchsuite.settings import Json
from benchsuite.store import Store

PACKAGES = ("benchsuite", "torch", "torchvision", "timm", "numpy", "hotcoco", "pycocotools")
# Datasets of the papers: the folder's name, and files or folders by which the dataset is known.
LAYOUTS = {
    "COCO": ("coco", ("annotations/instances_val2017.json",)),
    "VOC 2007": ("voc", ("VOCdevkit/VOC2007", "VOC2007")),
    "VOC 2012": ("voc", ("VOCdevkit/VOC2012", "VOC2012")),
    "CIFAR-100": ("cifar100", ("cifar-100-python",)),
    "ImageNet": ("imagenet", ("val",)),
}
FREE_BYTES = 2 << 30


def environment(*, gpu: bool = False) -> dict[str, Json]:
    """What is recorded beside results: versions, processor, commit; names of GPUs only if asked, which loads torch.

    Holds no host name and no path.
    """
    found: dict[str, Json] = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": _cpu_model(),
        "cores": cores(),
        "commit": _commit(),
    }
    return found | ({"gpus": _gpus()} if gpu else {})


def device_name(device: str = "auto") -> str:
    """What timings on `device` (cpu, cuda, cuda:N or auto) are timings of: the GPU's name, or the processor's."""
    gpus = [] if device == "cpu" else _gpus()
    _, _, number = device.partition(":")
    index = int(number) if number.isdecimal() else 0
    return str(gpus[index]) if index < len(gpus) else f"{_cpu_model()}, {cores()} cores"


def cores() -> int:
    """CPU cores that this process may use; `OMP_NUM_THREADS`, where set, is obeyed."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def determinism(device: str) -> None:
    """Make equal work give equal bits on `device`, as far as torch can; call before its first work there.

    A CPU needs no switch: there, equal thread counts give equal bits. On a GPU some operations have no deterministic
    form; torch then warns in the job's log.
    """
    import torch

    torch.backends.cudnn.benchmark = False
    if device != "cpu":
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time


@dataclass(frozen=True)
class Check:
    """One line of `bench doctor`: what was looked at, whether it is as it should be, what was found, what to do if not.

    Without what is not `needed` only some things cannot be done.
    """

    name: str
    ok: bool
    found: str
    cure: str = ""
    needed: bool = True

    def form(self) -> dict[str, Json]:
        """For `--json`."""
        return asdict(self)


def doctor(store: Path | None = None) -> list[Check]:
    """Look at versions, torch and torchvision together, GPUs, data, weights and the store; loads torch."""
    kept = Store(store)
    return [*_check_versions(), _check_pair(), _check_gpu(), _check_evaluator(), *_check_data(), _check_weights(),
            _check_store(kept), _check_space(kept)]  # fmt: skip


def _check_versions() -> Iterator[Check]:
    wanted = f"{sys.version_info.major}.{sys.version_info.minor}"
    yield Check("python", sys.version_info >= (3, 11), wanted, "install Python 3.11 or newer")
    for requirement in metadata.requires("benchsuite") or []:
        match = re.fullmatch(r"([\w.-]+)\s*>=\s*([\w.]+)", requirement)
        if match is not None:
            name, minimum = match.groups()
            found = _version(name)
            ok = found is not None and _numbers(found) >= _numbers(minimum)
            yield Check(name, ok, found or "missing", f"pip install '{name}>={minimum}'")


def _check_pair() -> Check:
    def same_boxes() -> str:
        import torch
        from torchvision.ops import nms

        assert nms(torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]]), torch.tensor([0.5, 0.9]), 0.5).tolist() == [1]
        return "torchvision's operators run with this torch"

    return _tried(
        "torch with torchvision", same_boxes, "install the torch and torchvision of one release, from one index"
    )


def _check_gpu() -> Check:
    gpus = _gpus()
    listed = ", ".join(str(gpu) for gpu in gpus) if gpus else "none: jobs run on the CPU"
    return Check("GPU", bool(gpus), listed, "only smoke tiers and small data are practical on a CPU", needed=False)


def _check_evaluator() -> Check:
    def evaluate() -> str:
        importlib.import_module("hotcoco")
        importlib.import_module("pycocotools._mask")
        return "hotcoco and pycocotools load"

    return _tried("evaluators", evaluate, "pip install --force-reinstall hotcoco pycocotools")


def _check_data() -> Iterator[Check]:
    from benchsuite.data.files import roots

    for name, (folder, marks) in LAYOUTS.items():
        found = next((root / mark for root in roots(folder) for mark in marks if (root / mark).exists()), None)
        cure = f"put {folder}/{marks[0]} below $BENCH_DATA, or say with --data-root where it is"
        yield Check(name, found is not None, found.as_posix() if found else "not found", cure, needed=False)


def _check_weights() -> Check:
    home = Path(os.environ.get("TORCH_HOME") or Path.home() / ".cache" / "torch")
    files = sorted((home / "hub" / "checkpoints").glob("*.pth"))
    cure = "the paper tiers need ImageNet weights; `bench run` says which, and from where"
    return Check("weights", bool(files), f"{len(files)} files in TORCH_HOME", cure, needed=False)


def _check_store(store: Store) -> Check:
    def prepare() -> str:
        store.prepare()
        return f"{store.root} can be written"

    return _tried("store", prepare, "use another store with --store or $BENCH_STORE")


def _check_space(store: Store) -> Check:
    folder = store.root if store.root.is_dir() else Path()
    free = shutil.disk_usage(folder).free
    return Check("disk", free >= FREE_BYTES, f"{free / (1 << 30):.1f} GiB free", "free some space, or use --store")


def _tried(name: str, attempt: Callable[[], str], cure: str) -> Check:
    try:
        return Check(name, True, attempt())
    except BenchError as error:
        return Check(name, False, str(error), cure)
    except Exception as error:  # a broken installation fails in any way
        return Check(name, False, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}", cure)


@cache
def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _numbers(version: str) -> tuple[int, ...]:
    """The release numbers of a version: (2, 11, 0) of `2.11.0+cu128`."""
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in release.group().split(".")) if release else ()


@cache
def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model", "cpu model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[Json]:
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
    folder = Path(__file__).parents[1]
    if not (folder / ".git").exists():
        return None
    commit = _output(["git", "-C", str(folder), "rev-parse", "HEAD"])
    if not commit:
        return None
    changes = _output(["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"])
    return commit[:12] + ("+changes" if changes else "")


def _output(command: list[str]) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    return ""
