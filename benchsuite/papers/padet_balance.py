"""The balance of anchors while PADet trains (Tang et al., arXiv 1908.03295, section 3.1, figures 1, 2): what Table 2's
rows are compared on besides their precision."""

from collections.abc import Mapping
from typing import ClassVar

from typing_extensions import override

from benchsuite.engine.job import Context, Job
from benchsuite.errors import InputError
from benchsuite.loops.log import means
from benchsuite.pipelines.detection import Detection, Train

COUNTS = "counts."
"""How the log names what `padet_matching.Counts` counts."""


class Balance(Job):
    """Average what a training counted of its anchors over all its steps. Leaves `metrics.json`, of an image:

    positives, negatives    anchors that the detection module learns from, after matching and the θ-rule
    negatives_per_positive  the means' ratio; absent where nothing was positive
    before_…, after_…       every count by its name (`padet_matching.Counts`)
    seed                    the training's
    """

    on_device: ClassVar[bool] = False
    measures: ClassVar[tuple[str, ...]] = ("positives", "negatives", "negatives_per_positive")

    train: Train

    @property
    @override
    def label(self) -> str:
        return f"balance seed {self.train.seed}"

    def do(self, context: Context) -> None:
        """Read the log. InputError where it has no counts."""
        logged = means(context.inputs["train"].path("log.jsonl"), self.train.done_before)
        counts = {name.removeprefix(COUNTS): value for name, value in logged.items() if name.startswith(COUNTS)}
        if not counts:
            raise InputError(f"{self.train.label}: counted no anchors, which PADet alone does; leave the columns out")
        positives, negatives = counts["after_positives"], counts["after_negatives"]
        ratio = {"negatives_per_positive": negatives / positives} if positives else {}
        columns = {"positives": positives, "negatives": negatives, **ratio}
        context.write_metrics({"seed": self.train.seed, **columns, **counts})


class Balanced(Detection):
    """A detection row whose anchors are counted too, where a column asks for it."""

    @override
    def jobs(self, seed: int, device: str) -> Mapping[str, Job]:
        """Also the balance."""
        return {**super().jobs(seed, device), "balance": Balance(train=self.fit(seed))}
