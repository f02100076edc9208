"""Where a trained ASSD looks from the cells behind its detections, as arrays: figure 3."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from benchsuite.data.batch import Batch
from benchsuite.errors import InputError
from benchsuite.models.boxes import clip
from benchsuite.models.dense import DenseDetector
from benchsuite.models.detector import Detector
from benchsuite.papers.assd import CHUNK, AttentionUnit
from benchsuite.pipelines.probe import Probe, watching


class AttentionMaps(Probe):
    """Attention maps ā_i of the D best detections, at every level s that has an attention unit and more than a cell:

    boxes, scores, labels  float32 [D, 4] xyxy px, [D], int64 [D]; the best first
    levels                 int64 [D]            the level (1 is the finest) of the anchor behind each detection
    cells_1, …             int64 [D, 2]       row and column of the query i: the anchor's cell at its own level, at the
                                                others the cell where the anchor's centre lies
    attention_1, …         float32 [D, H_s, W_s]  ā_i, which sums to 1
    mean_1, …              float32 [H_s, W_s]   the mean of ā_i over all queries i

    choice: the paper does not say of which query its maps are; `mean_…` is the other reading.
    """

    pictures: ClassVar[tuple[str, ...]] = ("assd-attention",)

    detections: PositiveInt = 5

    def look(self, detector: Detector, batch: Batch) -> Mapping[str, Tensor]:
        """Run the detector. InputError where it has no attention units, or finds nothing at all."""
        units = {name: module for name, module in detector.named_modules() if isinstance(module, AttentionUnit)}
        if not units or not isinstance(detector, DenseDetector):
            raise InputError("the model has no attention units to look at; choose a row that has")
        best = detector.detect(batch, self.post)
        count = min(self.detections, int((best.labels[0] >= 0).sum()))
        if not count:
            raise InputError("the model finds nothing in this image; choose another, or --set post.score_threshold=0")
        boxes, scores, labels = (each[0, :count] for each in (best.boxes, best.scores, best.labels))
        watched = [(unit, lambda inputs, _, name=name: {name: inputs[0]}) for name, unit in units.items()]
        with watching(watched) as inputs:
            origins = behind(detector, batch, boxes, scores, labels)
        found = {"boxes": boxes, "scores": scores, "labels": labels, "levels": origins.levels}
        for name, unit in units.items():
            level, x = int(name.rpartition(".")[2]) + 1, inputs[name]
            if x.shape[-2:].numel() > 1:
                found |= _maps(unit, x, level, origins.at(level, x.shape[-2:]))
        return found


@dataclass(frozen=True)
class Origins:
    """Where D detections come from: their anchors' centres [D, 2] (down, across) as fractions of the image, levels [D],
    1 being the finest, and cells [D] there, counted row by row."""

    centres: Tensor
    levels: Tensor
    cells: Tensor

    def at(self, level: int, size: torch.Size) -> Tensor:
        """The cells [D] of a level of (height, width) cells: the anchors' own or those in which their centres lie."""
        whole = torch.tensor(size, device=self.centres.device)
        down, across = torch.minimum((self.centres * whole).long().clamp(min=0), whole - 1).unbind(1)
        return torch.where(self.levels == level, self.cells, down * size[1] + across)


def behind(detector: DenseDetector, batch: Batch, boxes: Tensor, scores: Tensor, labels: Tensor) -> Origins:
    """The anchors that became the detections [D, 4], [D], [D] of a batch of one image: those whose decoded box is the
    detection's, of equal ones that whose score of its class is."""
    cls_logits, bbox_regression, maps = detector(detector.images(batch))
    settings, frame = detector.settings, (batch.images.shape[-2], batch.images.shape[-1])
    anchors = settings.anchors.grid(maps, detector.neck.strides, frame, boxes.device)
    decoded = clip(settings.coder.decode(bbox_regression.float(), anchors), batch.sizes)[0]
    probabilities = settings.classification.scores(cls_logits.float())[0, :, labels].T
    far = (decoded - boxes.unsqueeze(1)).abs().sum(-1) + 1e-3 * (probabilities - scores.unsqueeze(1)).abs()
    chosen = far.argmin(1)
    per_cell = torch.tensor(detector.per_cell, device=chosen.device)
    ends = torch.tensor([height * width for height, width in maps], device=chosen.device).mul(per_cell).cumsum(0)
    place = torch.searchsorted(ends, chosen, right=True)
    first = torch.nn.functional.pad(ends, (1, 0))[place]
    centres = (anchors[chosen, :2] + anchors[chosen, 2:]).flip(1) / 2 / torch.tensor(frame, device=chosen.device)
    return Origins(centres, place + 1, (chosen - first) // per_cell[place])


def _maps(unit: AttentionUnit, x: Tensor, level: int, queries: Tensor) -> dict[str, Tensor]:
    """The arrays of one level, a map [1, C, H, W]."""
    size = x.shape[-2:]
    every = torch.arange(size.numel(), device=x.device)
    mean = torch.stack([unit.attention_rows(x, some).sum(1) for some in torch.split(every, CHUNK)]).sum(0) / len(every)
    return {
        f"cells_{level}": torch.stack((queries // size[1], queries % size[1]), dim=1),
        f"attention_{level}": unit.attention_rows(x, queries)[0].float().view(-1, *size),
        f"mean_{level}": mean[0].float().view(size),
    }
