"""The truth of a split as one file, to the bit as a dataset gave it: all that scores need, and no image."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from benchsuite.data.dataset import DetectionSet, Masks, Rle
from benchsuite.data.masks import Packed
from benchsuite.disk import parse_json
from benchsuite.errors import InputError

# Columns of a DetectionSet, and of what kind their numbers are: i whole, f floating, b truth values.
COLUMNS = {"image_ids": "iu", "sizes": "i", "boxes": "f", "labels": "i", "areas": "f", "crowd": "b", "difficult": "b",
           "offsets": "i", "category_ids": "iu"}  # fmt: skip
SIDES = "sides"
MASKS = ("mask_bytes", "mask_offsets")
WORDS = ("name", "classes", "file_names", "fingerprint", "dropped")
CURE = "take another copy of it"


@dataclass(frozen=True)
class Runs(Masks):
    """Masks as COCO's compressed run lengths, of images whose height and width are `sizes` [T, 2]."""

    counts: Packed
    sizes: NDArray[np.int32]

    def rle(self, row: int) -> Rle:
        """The run lengths."""
        return {"size": self.sizes[row].tolist(), "counts": self.counts[row]}

    def grids(self, rows: NDArray[np.int64]) -> NoReturn:
        """There are none: nothing is trained on truth without images."""
        raise InputError("truth: has masks to score with, none to train on; open the dataset itself")


def keep(data: DetectionSet, file: Path, masks: bool = False) -> None:
    """Write the truth of an opened split, with its masks where a metric needs them."""
    columns = {name: np.ascontiguousarray(getattr(data, name)) for name in COLUMNS}
    if data.sides is not None:
        columns[SIDES] = np.ascontiguousarray(data.sides)
    if masks:
        drawn = data.open_masks()
        runs = Packed.of(drawn.rle(row)["counts"] for row in range(len(data.boxes)))
        columns |= zip(MASKS, (runs.data, runs.offsets), strict=True)
    save_file(columns, file, metadata={"truth": json.dumps({name: getattr(data, name) for name in WORDS})})


def opened(file: Path) -> DetectionSet:
    """The split of a file that `keep` wrote; its images cannot be read. InputError where the file is not whole."""
    try:
        with safe_open(file, framework="numpy") as held:
            words = parse_json((held.metadata() or {}).get("truth", "").encode(), str(file), CURE)
            columns = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: cannot be read as truth ({' '.join(str(error).split())[:120]}); {CURE}") from None
    if not (isinstance(words, dict) and _whole(columns, words)):
        raise InputError(f"{file}: holds columns that do not fit each other; {CURE}")
    given = {name: columns[name] for name in COLUMNS} | {SIDES: columns.get(SIDES)}
    texts = {name: tuple(words[name]) for name in ("classes", "file_names")}
    return DetectionSet(
        **{**words, **texts, **given}, read=_unread, masks=(lambda: _runs(columns)) if MASKS[0] in columns else None
    )


def _runs(columns: Mapping[str, NDArray[Any]]) -> Runs:
    owners = np.repeat(np.arange(len(columns["sizes"])), np.diff(columns["offsets"]))
    return Runs(Packed(*(columns[name] for name in MASKS)), columns["sizes"][owners])


def _whole(columns: Mapping[str, NDArray[Any]], words: Mapping[str, Any]) -> bool:
    """Whether columns and words are those of a DetectionSet: anybody may have written the file."""
    if not (columns.keys() >= COLUMNS.keys() and set(words) == set(WORDS)):
        return False
    images, boxes, kinds = (columns[name].size for name in ("image_ids", "labels", "category_ids"))
    wanted = {"image_ids": (images,), "sizes": (images, 2), "boxes": (boxes, 4), "offsets": (images + 1,)}
    wanted |= dict.fromkeys(("labels", "areas", "crowd", "difficult"), (boxes,)) | {"category_ids": (kinds,)}
    lists = [words["classes"], words["file_names"]]
    return (
        {name: columns[name].shape for name in COLUMNS} == wanted
        and all(columns[name].dtype.kind in kind for name, kind in COLUMNS.items())
        and (SIDES not in columns or columns[SIDES].shape == (boxes, 2))
        and all(isinstance(each, list) and all(isinstance(word, str) for word in each) for each in lists)
        and [len(each) for each in lists] == [kinds, images]
        and isinstance(words["name"], str)
        and type(words["dropped"]) is int
        and _rising(columns["offsets"], images, boxes)
        and (MASKS[0] not in columns or _rising(columns.get(MASKS[1]), boxes, len(columns[MASKS[0]])))
        and bool(((columns["labels"] >= 0) & (columns["labels"] < len(lists[0]))).all())
        and all(np.isfinite(columns[name]).all() for name in ("boxes", "areas"))
    )


def _rising(offsets: NDArray[Any] | None, parts: int, whole: int) -> bool:
    """Whether `offsets` divide `whole` rows into so many parts."""
    if offsets is None:
        return False
    ends = offsets.shape == (parts + 1,) and offsets.dtype.kind == "i" and (offsets[0], offsets[-1]) == (0, whole)
    return ends and bool((np.diff(offsets) >= 0).all())


def _unread(index: int) -> NoReturn:
    raise InputError(f"image {index}: the truth was kept without images; open the dataset itself")
