"""Detection of one picture in a frame of fixed size, which an exporter can follow: a detector's candidates, and what
`select` makes of them, with padding where that cuts.

Shapes: N candidates, K classes, D detections.
"""

import torch
from torch import Tensor, nn

from benchsuite.data.batch import Batch
from benchsuite.errors import InputError
from benchsuite.models.detector import Detector
from benchsuite.models.nms import NOTHING, best_left
from benchsuite.models.postprocess import Hard, PostProcess

PictureDetections = tuple[Tensor, Tensor, Tensor]
"""boxes [D, 4], scores [D], labels int64 [D] of one picture, padded."""


class Static(nn.Module):
    """A detector for K = `classes` classes at one picture in a `frame` (height, width), in evaluation mode.

    InputError for a detector with a part that says (`no_export`) why it has no such form, or a `post` without one.
    """

    def __init__(self, detector: Detector, post: PostProcess, frame: tuple[int, int], classes: int) -> None:
        super().__init__()
        for module in detector.modules():
            reason = getattr(module, "no_export", None)
            if reason is not None:
                raise InputError(f"export: {type(module).__name__} {reason}")
        if not isinstance(post.nms, Hard) or post.vote is not None:
            raise InputError("post: only hard NMS without voting has fixed shapes; set post.nms and post.vote")
        self.detector, self.post, self.iou, self.classes = detector.eval(), post, post.nms.iou, classes
        with torch.no_grad():  # what is made once and kept, as anchors, is there before an exporter looks
            self(torch.zeros(1, 3, *frame, dtype=torch.uint8), torch.tensor([frame]))

    def forward(self, image: Tensor, size: Tensor) -> PictureDetections:
        """Of `image` uint8 [1, 3, H, W], padded at the right and bottom, with valid height and width `size` [1, 2]:
        what `detect` finds, padding with score 0 and label -1."""
        found = self.detector.candidates(_batch(image, size), self.post)
        boxes, labels = found.boxes.float(), found.labels
        scores = found.scores.float().masked_fill(labels < 0, NOTHING)
        if self.post.per_class is not None:
            boxes, scores, labels = _best_of_classes(boxes, scores, labels, self.classes, self.post.per_class)
        threshold = self.post.score_threshold
        scores, places = best_left(
            boxes, scores, labels.clamp(min=0), self.classes, self.iou, threshold, self.post.per_image
        )
        real = scores > threshold
        boxes = boxes.gather(1, places.unsqueeze(2).expand(-1, -1, 4)) * real.unsqueeze(2)
        return boxes[0], scores[0].clamp(min=0), torch.where(real, labels.gather(1, places), -1)[0]

    def detect(self, image: Tensor, size: Tensor) -> PictureDetections:
        """The same as the detector itself does it."""
        found = self.detector.detect(_batch(image, size), self.post)
        return found.boxes[0], found.scores[0], found.labels[0]


def _best_of_classes(boxes: Tensor, scores: Tensor, labels: Tensor, classes: int, count: int) -> PictureDetections:
    """The `count` best of each class, [1, K · count, …], of boxes [1, N, 4], scores [1, N] and labels [1, N]."""
    mine = labels == torch.arange(classes).unsqueeze(1)
    best, places = torch.where(mine, scores, NOTHING).topk(min(count, scores.shape[1]), dim=1)
    owners = torch.arange(classes).unsqueeze(1).expand_as(places)
    return boxes[:, places.flatten()], best.view(1, -1), owners.reshape(1, -1)


def _batch(image: Tensor, size: Tensor) -> Batch:
    nothing = torch.zeros(1, 1, 4), torch.full((1, 1), -1)
    return Batch(image, size, size, torch.zeros(1, dtype=torch.int64), *nothing)
