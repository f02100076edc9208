"""What every row of a table is: settings that know which jobs make its numbers."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchsuite.data.locate import open_folder
from benchsuite.data.split import Splits
from benchsuite.engine.job import Artifact, Job
from benchsuite.pipelines.cost import Cost
from benchsuite.settings import Json, Part, Settings


class Pipeline(Part):
    """Slot: everything a row of a table is, resolved; it knows which jobs make the row's numbers."""

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.pipelines", "benchsuite.papers")

    data: Splits[Any]

    @classmethod
    def splits_of(cls, folder: Path) -> Mapping[str, Settings]:
        """What takes the place of `data.train` and `data.val` under `--data FOLDER`, here a detection dataset.

        InputError naming what is missing.
        """
        return dict(zip(("train", "val"), open_folder(folder), strict=True))

    @property
    @abstractmethod
    def protocol(self) -> str:
        """Name of the evaluation protocol, shown with every number."""

    @abstractmethod
    def jobs(self, seed: int, device: str) -> Mapping[str, Job]:
        """The last jobs of the row for one seed, by name; their artifacts' metrics fill the row's columns.

        `device` names what timings are timings of.
        """

    def difference(self, other: "Pipeline", seed: int, number: str) -> Job | None:
        """The job that tells how sure this row minus `other` is in a number, where the metric can."""
        return None

    @abstractmethod
    def cost(self, seed: int) -> Cost:
        """What counts the network's cost."""

    def inspect(self, known: Artifact | None = None) -> dict[str, Json]:
        """What the network costs, told without training: parameters, macs, input, anchors. Where it hangs on a job
        (of seed 0), `known` is what that job left; without it all are None, with a reason."""
        cost = self.cost(0)
        given = {name: known for name, job in cost.inputs.items() if known is not None and job.key == known.key}
        for name, job in cost.inputs.items():
            if name not in given:
                reason = f"hangs on what the job `{job.label}` finds; after a run: --artifact {job.key}"
                return {"parameters": None, "macs": None, "input": None, "anchors": None, "reason": reason}
        return {**cost.counted(given), "input": [3, *cost.frame]}
