"""What a network costs, for tables that print it."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from typing_extensions import override

from benchsuite.engine.job import Artifact, Context, Job


class Cost(Job):
    """Count what a network costs before anyone trains it, on the meta device. Leaves `metrics.json`:

    parameters, parameters_M, parameters_Mi  frozen or not, norms included; in units of 10^6, of 2^20
    macs, gmac                               multiply-accumulates of one image of `frame`; in units of 10^9
    anchors                                  of one image, where the detector has anchors
    """

    on_device: ClassVar[bool] = False

    measures: ClassVar[tuple[str, ...]] = (
        "parameters", "parameters_M", "parameters_Mi", "macs", "gmac", "anchors"
    )  # fmt: skip

    classes: int
    frame: tuple[int, int]

    @property
    @override
    def label(self) -> str:
        return "cost"

    @abstractmethod
    def counted(self, inputs: Mapping[str, Artifact]) -> dict[str, int | None]:
        """parameters, macs, anchors and whatever else, as whole numbers; None for anchors that there are none of."""

    def do(self, context: Context) -> None:
        """Count, and write in the units that tables use."""
        counted = self.counted(context.inputs)
        numbers: dict[str, float | None] = dict(counted)
        for name, count in counted.items():
            if count is not None and name.startswith("parameters"):
                numbers |= {f"{name}_M": count / 1e6, f"{name}_Mi": count / 2**20}
            elif count is not None and name.startswith("macs"):
                numbers[f"g{name.replace('macs', 'mac')}"] = count / 1e9
        context.write_metrics(numbers)
