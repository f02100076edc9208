"""Masks of objects: COCO's polygons and run lengths, read; a detector's small masks, pasted into the image and encoded.

A mask of a whole image is COCO's RLE (run lengths down the columns), made and read by hotcoco, which gives the bytes
that pycocotools gives and does not trust what it reads. A mask in the coordinates of its box is a grid over the box:
resizing the image does not change it.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import hotcoco
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import roi_align

from benchsuite.data.dataset import GRID, Masks, Rle

PIXELS = 2**24  # of masks that are pasted at a time: some 100 MB


@dataclass(frozen=True)
class Packed:
    """N byte strings in one array: a process that forks shares it, and safetensors holds it.

    data    uint8 [bytes]    one string after another
    offsets int64 [N + 1]    string i is `data[offsets[i]:offsets[i + 1]]`
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, strings: Iterable[bytes]) -> "Packed":
        """The strings, in their order."""
        held = list(strings)
        offsets = np.fromiter(accumulate(map(len, held), initial=0), np.int64, len(held) + 1)
        return cls(np.frombuffer(b"".join(held), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(f"string {index} of {len(self)}")
        return self.data[self.offsets[index] : self.offsets[index + 1]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class Segmentations(Masks):
    """Masks as a COCO-format file writes them.

    texts  the segmentation of each row as JSON: polygons as Python's numbers would take five times the memory, and
           counting references to them would copy it into every process that makes batches
    boxes  float64 [T, 4] xyxy
    sizes  int32 [T, 2]  height, width of each row's image
    """

    texts: Packed
    boxes: NDArray[np.float64]
    sizes: NDArray[np.int32]

    @classmethod
    def of(cls, segmentations: Iterable[Any], boxes: NDArray[np.float64], sizes: NDArray[np.int32]) -> "Segmentations":
        """Of segmentations that have no `problem`."""
        return cls(Packed.of(json.dumps(each).encode() for each in segmentations), boxes, sizes)

    def rle(self, row: int) -> Rle:
        """The union of polygons, or the run lengths as they are."""
        return to_rle(json.loads(self.texts[row]), *self.sizes[row].tolist())

    def grids(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Polygons are drawn at the grid's resolution, so that small objects keep their outline; run lengths are
        averaged over each cell."""
        grids = np.empty((len(rows), GRID, GRID), np.bool_)
        for place, row in enumerate(rows):
            segmentation = json.loads(self.texts[row])
            if isinstance(segmentation, dict):
                grids[place] = _cut(self.rle(row), self.boxes[row])
            else:
                grids[place] = hotcoco.mask.decode(to_rle(_in_box(segmentation, self.boxes[row]), GRID, GRID))
        return grids


@dataclass(frozen=True)
class Chosen(Masks):
    """Some rows of other masks."""

    of: Masks
    rows: NDArray[np.int64]

    def rle(self, row: int) -> Rle:
        """That of the chosen row."""
        return self.of.rle(int(self.rows[row]))

    def grids(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Those of the chosen rows."""
        return self.of.grids(self.rows[rows])


def to_rle(segmentation: Any, height: int, width: int) -> Rle:
    """Polygons [[x, y, x, y, …], …] or run lengths, either form of COCO's, as compressed run lengths."""
    drawn = hotcoco.mask.frPyObjects(segmentation, height, width)
    rle: Rle = hotcoco.mask.merge(drawn) if isinstance(drawn, list) else drawn
    return rle


def problem(segmentation: Any, height: int, width: int) -> str | None:
    """What keeps a segmentation from being a mask of an image of this size; None where it is one."""
    if isinstance(segmentation, list) and segmentation:
        return next(filter(None, map(_problem_of_polygon, segmentation)), None)
    if not isinstance(segmentation, dict):
        return "has no `segmentation`" if not segmentation else "has a `segmentation` that is no list of polygons"
    if segmentation.get("size") != [height, width]:
        return f"has run lengths of size {segmentation.get('size')}, not of its image's [{height}, {width}]"
    counts = segmentation.get("counts")
    try:
        runs = run_lengths(counts) if isinstance(counts, str) else [int(run) for run in counts or ()]
    except (TypeError, ValueError, OverflowError):
        return "has run lengths that cannot be read"
    if sum(runs) != height * width or min(runs) < 0:
        return f"has run lengths that add up to {sum(runs)}, not to the {height * width} pixels of its image"
    return None


def _problem_of_polygon(polygon: Any) -> str | None:
    try:
        if isinstance(polygon, list) and len(polygon) % 2 == 0 and all(map(math.isfinite, polygon)):
            return None if len(polygon) >= 6 else f"has a polygon of {len(polygon) // 2} points, which needs three"
    except (TypeError, OverflowError):
        pass
    return "has a polygon that is no list of finite x, y, x, y, …"


def run_lengths(text: str) -> list[int]:
    """The runs of a compressed RLE: each number in groups of five bits, low ones first, in characters from `0` on
    whose sixth bit says that more follow; from the fourth run on, the difference to the run before the last."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"no run lengths contain {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the last run is cut off")
    return runs


def _in_box(polygons: Sequence[Sequence[float]], box: NDArray[np.float64]) -> list[list[float]]:
    """The polygons in cells of the grid over `box`."""
    scale = GRID / (box[2:] - box[:2])
    return [((np.array(each).reshape(-1, 2) - box[:2]) * scale).ravel().tolist() for each in polygons]


def _cut(rle: Rle, box: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The part of a whole image's mask within `box`, on the grid: cells of which at least half is covered."""
    mask = torch.from_numpy(hotcoco.mask.decode(rle)).float()[None, None]
    window = torch.from_numpy(box).float()[None]
    share = roi_align(mask, [window], GRID, aligned=True)[0, 0]
    cut: NDArray[np.bool_] = (share >= 0.5).numpy()
    return cut


def encode(masks: Tensor, boxes: Tensor, height: int, width: int) -> list[bytes]:
    """Compressed run lengths, in an image of `height` × `width`, of N small masks: probabilities [N, M, M] in the
    coordinates of their boxes [N, 4] (xyxy, pixels of that image), foreground from 0.5 on."""
    at_a_time = max(1, PIXELS // (height * width))
    parts = [slice(start, start + at_a_time) for start in range(0, len(masks), at_a_time)]
    pasted = (paste(masks[part], boxes[part], height, width) >= 0.5 for part in parts)
    # Run lengths go down the columns: column after column is how `paste` lays the pixels.
    encoded = (hotcoco.mask.encode(each.cpu().numpy().transpose(2, 1, 0)) for each in pasted)
    return [rle["counts"] for rle in chain.from_iterable(encoded)]


def paste(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Masks [N, M, M] in the coordinates of their boxes [N, 4], at the centre of every pixel of an image: float32
    [N, width, height], column after column; 0 outside the box.

    Bilinear, each cell's value at its centre, zeros around the mask (as Detectron2 pastes). Bilinear weights are a
    product of one along x and one along y, so that two matrix products do it.
    """
    across = _weights(boxes[:, 0::2].float(), width, masks.shape[2])
    down = _weights(boxes[:, 1::2].float(), height, masks.shape[1])
    return across @ masks.float().transpose(1, 2) @ down.transpose(1, 2)


def _weights(edges: Tensor, pixels: int, cells: int) -> Tensor:
    """[N, pixels, cells]: how much each cell between the edges [N, 2] counts at the centre of each pixel."""
    low, high = edges.unsqueeze(2).unbind(1)
    centres = torch.arange(pixels, device=edges.device) + 0.5
    places = (centres - low) / (high - low).clamp(min=1e-6) * cells - 0.5  # cell k's centre is at k
    distance = places.unsqueeze(2) - torch.arange(cells, device=edges.device)
    return (1 - distance.abs()).clamp_(min=0)
