"""Detectors as Detectron2 sets them in its FPN configurations (`COCO-Detection`, `COCO-InstanceSegmentation`, Wu et al.
2019): what papers that ran on it mean by Faster R-CNN, RetinaNet and Mask R-CNN.

Beside what is below: the NMS of all levels at once leaves an image 1,000 proposals of 2,000 (training) or 1,000 (test)
a level, RoIAlign has points at the centres of pixels and as many of them as a RoI covers, box losses are absolute
differences. The rest is as elsewhere.

choice: RetinaNet's losses are divided by the foreground of the batch; Detectron2 divides by its running mean.
"""

from pydantic import NonNegativeInt

from benchsuite.models import mask_rcnn, rcnn, retinanet
from benchsuite.models.anchors import Anchors, PyramidAnchors
from benchsuite.models.losses import BoxLoss, SmoothL1
from benchsuite.models.rcnn_parts import Proposals, Roi, Rpn

L1 = SmoothL1(beta=0)
THIRDS = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))


class DetectronRpn(Rpn):
    """Fewer proposals than torchvision's while it trains; absolute differences."""

    train: Proposals = Proposals(before_nms=2000, after_nms=1000)
    bbox_regression: BoxLoss = L1


class DetectronRoi(Roi):
    """RoIAlign as it was corrected in Detectron2; absolute differences."""

    sampling: NonNegativeInt = 0
    aligned: bool = True
    bbox_regression: BoxLoss = L1


class FasterRcnn(rcnn.FasterRcnn):
    """`faster_rcnn_R_50_FPN`."""

    rpn: Rpn = DetectronRpn()
    roi: Roi = DetectronRoi()


class MaskRcnn(mask_rcnn.MaskRcnn):
    """`mask_rcnn_R_50_FPN`."""

    rpn: Rpn = DetectronRpn()
    roi: Roi = DetectronRoi()


class RetinaNet(retinanet.RetinaNet):
    """`retinanet_R_50_FPN`: nine anchors in a cell, sides 32 to 813."""

    anchors: Anchors = PyramidAnchors(scales=THIRDS)
    bbox_regression: BoxLoss = L1
