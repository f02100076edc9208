"""HAR-Net's Table IV: the ladder from baseline to multi-scale testing, a panel for each backbone."""

from benchsuite.report.figures.ladder import draw

__all__ = ["draw"]
