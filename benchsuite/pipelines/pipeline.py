"""What every row of a table is: settings that know which jobs make its numbers."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from benchsuite.data.classification import ClassificationSplits
from benchsuite.data.locate import open_folder
from benchsuite.data.subset import Splits
from benchsuite.engine.job import Artifact, Context, Job
from benchsuite.settings import Json, Part, Settings


class Pipeline(Part):
    """Slot: everything a row of a table is, resolved; it knows which jobs make the row's numbers."""

    packages: ClassVar[tuple[str, ...]] = ("benchsuite.pipelines", "benchsuite.papers")

    data: Splits | ClassificationSplits

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
    def jobs(self, seed: int) -> Mapping[str, Job]:
        """The last jobs of the row for one seed, by name; their artifacts' metrics fill the row's columns."""

    def difference(self, other: "Pipeline", seed: int, column: str) -> Job | None:
        """The job that tells how sure this row minus `other` is on a column, where the metric can."""
        return None

    @abstractmethod
    def inspect(self) -> dict[str, Json]:
        """What the model costs, told without training: parameters, macs, input, anchors."""

    def inspect_with(self, artifact: Artifact | None) -> dict[str, Json]:
        """The same where it hangs on what some job left; others do not look at it."""
        return self.inspect()


def loaders(context: Context) -> int:
    """Processes that make batches ahead: none on a CPU, whose cores are busy with the model, else a few."""
    return 0 if context.device == "cpu" else min(8, context.threads - 1)
