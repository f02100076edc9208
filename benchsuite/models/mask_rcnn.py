"""Mask R-CNN: He, Gkioxari, Dollár, Girshick, ICCV 2017, arXiv 1703.06870, on a feature pyramid.

    sec. 3    "Mask R-CNN"          MaskRcnnDetector.mask_loss: L_mask on the channel of the RoI's class
    sec. 3    "Network Architecture" MaskHead (fig. 4, right)
    sec. 3.1  "Training"            targets: the intersection of a RoI and its object's mask
    sec. 3.1  "Inference"           MaskRcnnDetector.detect: masks of the final detections alone

Shapes: B images, T objects of all images together, K classes, R RoIs of all images together, C channels, S side of a
pooled RoI, M = 2 S side of a mask, G side of a true mask in the coordinates of its box.
"""

from dataclasses import replace
from typing import Any, ClassVar

import torch
import torchvision  # registers torchvision::roi_align  # noqa: F401
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from typing_extensions import override

from benchsuite.data.batch import Batch, Detections
from benchsuite.errors import InputError
from benchsuite.models.postprocess import PostProcess, select
from benchsuite.models.rcnn import FasterRcnn, FpnDetector
from benchsuite.models.rcnn_parts import RoiAlign, with_image
from benchsuite.models.together import normaliser
from benchsuite.settings import Settings

DETECTIONS = 100  # of an image at most, as COCO counts them: RoIs whose masks a test makes, for costs


class MaskHead(Settings):
    """`depth` 3×3 convolutions of `channels` on RoIs of `size` cells, a 2×2 deconvolution with stride 2, and a mask for
    every class."""

    size: PositiveInt = 14
    channels: PositiveInt = 256
    depth: PositiveInt = 4

    def build(self, in_channels: int, num_classes: int) -> nn.Sequential:
        """[R, C, S, S] to logits [R, K, 2 S, 2 S]; torchvision's layers and initial weights."""
        # choice: K channels, as in the paper and Detectron2; torchvision has one more, of the background, never used.
        return nn.Sequential(
            MaskRCNNHeads(in_channels, (self.channels,) * self.depth, dilation=1),
            MaskRCNNPredictor(self.channels, self.channels, num_classes),
        )


class MaskRcnn(FasterRcnn):
    """Faster R-CNN on a pyramid with a head for masks beside those for classes and boxes."""

    masks: ClassVar[bool] = True
    mask: MaskHead = MaskHead()

    def build(self, num_classes: int) -> "MaskRcnnDetector":
        """Build it on torch's default device, weights drawn from the global generator."""
        return MaskRcnnDetector(self, num_classes)


class MaskRcnnDetector(FpnDetector):
    """Built from `MaskRcnn` for K = `num_classes` classes."""

    def __init__(self, settings: MaskRcnn, num_classes: int) -> None:
        super().__init__(settings, num_classes)
        strides = self.roi_heads.box_roi_pool.strides
        self.mask_align = RoiAlign(settings.roi.model_copy(update={"size": settings.mask.size}), strides)
        self.mask_head = settings.mask.build(self.neck.channels[0], num_classes)

    def further_losses(
        self,
        batch: Batch,
        levels: list[Tensor],
        proposals: list[Tensor],
        matches: list[Tensor],
        labels: list[Tensor],
    ) -> dict[str, Tensor]:
        """The masks' loss, on foreground RoIs: mean binary cross entropy of the channel of their class, so that classes
        do not compete (sec. 3). InputError for a batch without masks."""
        if batch.masks is None:
            raise InputError("model: Mask R-CNN learns masks and the batch has none; make it with masks=True")
        real = batch.labels >= 0
        starts = real.sum(1).cumsum(0) - real.sum(1)  # objects of earlier images
        foreground = [each > 0 for each in labels]
        boxes = [each[chosen] for each, chosen in zip(proposals, foreground, strict=True)]
        picked = zip(matches, foreground, starts, strict=True)
        rows = torch.cat([match[chosen] + start for match, chosen, start in picked])
        wanted = targets(batch.masks[real], batch.boxes[real], torch.cat(boxes), rows, 2 * self.mask_align.size)
        logits = self._masks(levels, *with_image(boxes), batch.labels[real][rows])
        count = normaliser(wanted.numel())
        return {"mask": binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / count}

    def detect(self, batch: Batch, post: PostProcess) -> Detections:
        """The detections with their masks: probabilities of the channel of their class (sec. 3.1 "Inference")."""
        images = self.images(batch)
        levels = self.levels(images)
        found = select(self.candidates_of(images, levels, batch.sizes), post)
        places = (found.labels >= 0).nonzero(as_tuple=True)
        logits = self._masks(levels, found.boxes[places], places[0], found.labels[places])
        side = 2 * self.mask_align.size
        masks = found.boxes.new_zeros(*found.labels.shape, side, side).index_put(places, logits.sigmoid())
        return replace(found, masks=masks)

    def forward(self, images: Tensor) -> Any:
        """As Faster R-CNN, and the mask logits of `DETECTIONS` RoIs, zeros too."""
        predicted = super().forward(images)
        size = self.mask_align.size
        pooled = images.new_zeros(len(images) * DETECTIONS, self.neck.channels[0], size, size)
        return *predicted, self.mask_head(pooled)

    @override
    def imagined(self, images: Tensor) -> Tensor:
        size, roi = self.mask_align.size, self.settings.roi
        foreground = len(images) * int(roi.batch * roi.positive_fraction)
        pooled = images.new_empty(foreground, self.neck.channels[0], size, size).requires_grad_()
        masks: Tensor = self.mask_head(pooled).float().sum()
        return super().imagined(images) + masks

    def _masks(self, levels: list[Tensor], boxes: Tensor, images: Tensor, classes: Tensor) -> Tensor:
        """Logits [R, M, M] of the classes [R] (0-based) of RoIs [R, 4] of images [R], in float32."""
        logits = self.mask_head(self.mask_align(levels[: len(self.mask_align.strides)], boxes, images))
        chosen: Tensor = logits[torch.arange(len(logits), device=logits.device), classes].float()
        return chosen


def targets(masks: Tensor, boxes: Tensor, rois: Tensor, rows: Tensor, side: int) -> Tensor:
    """What the masks of `rois` [R, 4] should be, 0 or 1, float32 [R, side, side]: in roi r, object `rows[r]`.

    masks bool [T, G, G] in the coordinates of their boxes [T, 4]; outside its box an object is nowhere.

    choice: sampled from the object's grid, four points a cell, foreground from one half on. Detectron2 and torchvision
    draw every target anew, from polygons or from the mask of the whole image.
    """
    low, high = boxes[rows].chunk(2, dim=1)
    scale = masks.shape[1] / (high - low)
    cells = (rois - low.repeat(1, 2)) * scale.repeat(1, 2)
    indexed = torch.cat((rows.unsqueeze(1).to(cells), cells), dim=1)
    # The kernel itself, as for RoIs: torchvision's function may compile another one.
    align: Any = torch.ops.torchvision.roi_align
    share: Tensor = align(masks.unsqueeze(1).float(), indexed, 1.0, side, side, 2, True)
    return (share.squeeze(1) >= 0.5).float()
