"""What PADet's anchor promotion makes of one image, as arrays for its figure 4."""

from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from benchsuite.data.batch import Batch
from benchsuite.errors import InputError
from benchsuite.models.detector import Detector
from benchsuite.papers.padet import PADetDetector
from benchsuite.papers.padet_matching import match
from benchsuite.pipelines.probe import Probe


class PromotedAnchors(Probe):
    """Matches the anchors of a trained PADet with the truth of one image, as in training:

    score_1, score_2, …         float32 [H_i, W_i]: the highest p of a cell's anchors, where there is APM_C
    truth                       float32 [M, 4] xyxy in pixels of `image`
    before, after               float32 [P, 4]: positive anchors as they lie initially, and as they are promoted
    before_iou, after_iou       float32 [P]: their IoU with the truth
    """

    pictures: ClassVar[tuple[str, ...]] = ("padet-anchors",)

    @override
    def look(self, detector: Detector, batch: Batch) -> dict[str, Tensor]:
        if not isinstance(detector, PADetDetector):
            raise InputError(f"{type(detector).__name__}: has no anchors to promote; choose a row of PADet's")
        return promoted_anchors(detector, batch)


def promoted_anchors(detector: PADetDetector, batch: Batch) -> dict[str, Tensor]:
    """The arrays that `PromotedAnchors` describes, but the image, for a batch of one.

    InputError where anchors are not adjusted: nothing is promoted.
    """
    found, anchors = detector.predict(batch)
    model = detector.settings
    if found.x is None:
        raise InputError("the model promotes no anchors (it has no APM_R); choose a row that does")
    promoted = model.coder.decode(found.x, anchors)
    arrays = {"truth": batch.boxes[batch.labels >= 0]}
    for name, boxes in (("before", anchors), ("after", promoted)):
        matched = match(model.assignment, boxes, batch.boxes, batch.labels)
        arrays |= {name: matched.anchors, f"{name}_iou": matched.overlaps}
    if found.p is not None:
        levels = found.p[0].sigmoid().split_with_sizes(detector.cells(found.maps))
        for place, (scores, shape) in enumerate(zip(levels, found.maps, strict=True), 1):
            arrays[f"score_{place}"] = scores.view(*shape, -1).amax(-1)
    return arrays
