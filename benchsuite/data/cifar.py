"""CIFAR-100 (Krizhevsky 2009) in its own layout, `cifar-100-python/{train,test,meta}`.

The files are pickles, and a pickle can run any code: they are read by an unpickler that knows numpy arrays of plain
numbers, and nothing else that is not a number, a text, a list or a dict.
"""

import io
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from benchsuite.data.classification import ClassificationData, ClassificationSet
from benchsuite.data.files import fingerprint, looked_in, roots
from benchsuite.disk import LARGE, read_within, told
from benchsuite.errors import InputError, MissingData

FOLDER = "cifar-100-python"
ARCHIVE = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
CURE = f"download it again from {ARCHIVE}"


class Cifar100(ClassificationData):
    """A split of CIFAR-100 with its fine classes: uint8 [N, 32, 32, 3]."""

    usual_classes: ClassVar[int | None] = 100
    split: Literal["train", "test"]
    folder: Path | None = Field(None, exclude=True)

    @property
    def name(self) -> str:
        """`cifar100`, or the folder's name where one is given, and the split."""
        return f"{self.folder.resolve().name if self.folder is not None else 'cifar100'} {self.split}"

    @property
    def classes(self) -> tuple[str, ...]:
        """The fine classes as `meta` lists them."""
        file = self._found() / "meta"
        names = _field(load(file), "fine_label_names", list, file)
        if not all(isinstance(name, str) for name in names):
            raise InputError(f"{file}: fine_label_names are not all text; {CURE}")
        return tuple(names)

    def fingerprint(self) -> str:
        """Hash of the split's file and of `meta`."""
        folder = self._found()
        return _fingerprint(folder / self.split, folder / "meta")

    def open(self) -> ClassificationSet:
        """Read the split into memory."""
        folder = self._found()
        classes = self.classes
        content = load(folder / self.split)
        pixels = _field(content, "data", np.ndarray, folder / self.split)
        labels = _labels(_field(content, "fine_labels", list, folder / self.split), folder / self.split)
        _check(folder / self.split, pixels, labels, len(classes))
        # Rows are the red, then the green, then the blue plane.
        images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        return ClassificationSet(self.name, classes, images, labels, self.fingerprint())

    def _found(self) -> Path:
        folders = [folder for root in roots("cifar100", self.folder) for folder in (root / FOLDER, root)]
        for folder in folders:
            if (folder / self.split).is_file() and (folder / "meta").is_file():
                return folder
        there = sorted({name for folder in folders for name in ("train", "test") if (folder / name).is_file()})
        found = f"; found only: {', '.join(there)}" if there else ""
        where = looked_in("cifar100", self.folder)
        raise MissingData(f"cifar100 {self.split}: not in {where}{found}; unpack {ARCHIVE} into $BENCH_DATA")


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into an old pickle; the real `codecs.encode` would take any codec."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not allowed")
    return text.encode(encoding)


class _Unpickler(pickle.Unpickler):
    allowed = ("numpy.ndarray", "numpy.dtype", *(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")))

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if f"{module}.{name}" == "_codecs.encode":
            return _latin1
        if f"{module}.{name}" not in self.allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        found: Callable[..., Any] = super().find_class(module, name)
        return found


def load(path: Path) -> dict[str, Any]:
    """A pickled dict of plain values; InputError for anything else, before any of it runs."""
    try:
        content = _Unpickler(io.BytesIO(read_within(path, CURE, LARGE)), encoding="latin1").load()
    except InputError:
        raise
    # A broken pickle may raise nearly anything (IndexError, KeyError, UnicodeDecodeError, …).
    except Exception as error:
        raise InputError(f"{path}: cannot be read as CIFAR's file ({told(error)}); {CURE}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not CIFAR's dict; {CURE}")
    return content


def _field(content: dict[str, Any], name: str, kind: type, path: Path) -> Any:
    if not isinstance(content.get(name), kind):
        raise InputError(f"{path}: has no {kind.__name__} `{name}`; {CURE}")
    return content[name]


def _labels(listed: list[Any], path: Path) -> NDArray[np.int64]:
    for place, label in enumerate(listed):
        if type(label) is not int or not 0 <= label < 2**31:
            raise InputError(f"{path}: fine_labels[{place}] is no label but a {type(label).__name__}; {CURE}")
    return np.array(listed, np.int64)


def _check(path: Path, pixels: NDArray[Any], labels: NDArray[np.int64], count: int) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3 * 32 * 32:
        raise InputError(f"{path}: images are {pixels.dtype} {pixels.shape}, not uint8 [N, 3072]; download it again")
    if len(labels) != len(pixels):
        raise InputError(f"{path}: {labels.size} labels for {len(pixels)} images; download it again")
    if len(labels) and (labels.min() < 0 or labels.max() >= count):
        raise InputError(f"{path}: a label is not in 0..{count - 1}, the classes of `meta`; download both again")


@cache
def _fingerprint(split: Path, meta: Path) -> str:
    return fingerprint((path.read_bytes() for path in (split, meta)), ())
