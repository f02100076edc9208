"""A probe's arrays of a model as it starts."""

from pathlib import Path

import torch

from benchsuite.engine.job import Artifact, Context
from benchsuite.loops import checkpoint
from benchsuite.pipelines.detection import Detection
from benchsuite.pipelines.probe import Probe


def arrays_of(probe: type[Probe], pipeline: Detection, folder: Path, image: int) -> Path:
    """Run the probe in `folder`; the file that it leaves."""
    fit = pipeline.fit(0)
    job = probe(train=fit, data=pipeline.data.val, input=pipeline.input, image=image)
    torch.manual_seed(0)
    (folder / "train").mkdir()
    checkpoint.save(folder / "train" / "weights.safetensors", fit.model.build(24).state_dict())
    (folder / "maps").mkdir()
    job.do(Context(folder / "maps", folder / "p", folder / "c", {"train": Artifact(fit.key, folder / "train")}))
    return folder / "maps" / "arrays.safetensors"
