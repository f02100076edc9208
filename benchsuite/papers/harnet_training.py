"""HAR-Net's incremental training (Li and Wang, arXiv 1904.11141, sections III-D and IV-B): "we firstly train the main
network …, then add the spatial and channel attention modules with several more iterative learning".
"""

from typing import Self

from pydantic import PositiveInt, model_validator

from benchsuite.models.retinanet import RetinaNet
from benchsuite.papers.harnet import Head
from benchsuite.pipelines.detection import Detection, Train


class Incremental(Detection):
    """Trains the main network (the baseline, with aligned attention where the row has it) for `attach_at` iterations,
    then attaches the head's attention and trains everything for the rest of the same schedule.

    choice: the paper tells no lengths; a third of its 72,000 iterations go to the main network. Momentum starts anew.
    """

    attach_at: PositiveInt = 24_000

    @model_validator(mode="after")
    def _attaches(self) -> Self:
        if self.attach_at >= self.solver.iterations:
            raise ValueError(
                f"attach_at {self.attach_at} is not before the end of {self.solver.iterations} iterations; lower it"
            )
        self._main()
        return self

    def _main(self) -> RetinaNet:
        """The model without the attention that is attached later."""
        head = self.model.head if isinstance(self.model, RetinaNet) else None
        if not isinstance(self.model, RetinaNet) or not isinstance(head, Head) or head == head.main:
            raise ValueError("the head has no attention to attach; train it with `kind: detection.Detection`")
        return self.model.changed(head=head.main)

    def fit(self, seed: int) -> Train:
        """The second training, which starts from the first."""
        first = self.training(seed, model=self._main(), solver=self.solver.changed(iterations=self.attach_at))
        return self.training(seed, start=first)
