"""HAR-Net's Table V: detectors on COCO test-dev as published, our minival beside the paper's."""

from benchsuite.report.figures.testdev import draw

__all__ = ["draw"]
