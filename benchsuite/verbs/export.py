"""A trained detector as an ONNX file that has standard operators alone, checked against torch through onnxruntime."""

import logging
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from benchsuite.data.batches import EvalBatches
from benchsuite.data.dataset import DetectionSet
from benchsuite.disk import outgoing
from benchsuite.engine.store import Store
from benchsuite.errors import BenchError, InputError
from benchsuite.models.postprocess import PostProcess
from benchsuite.models.static import PictureDetections, Static
from benchsuite.pipelines.detection import Detection
from benchsuite.verbs.plan import Plan
from benchsuite.verbs.plot import detection_of, require

if TYPE_CHECKING:
    from collections.abc import Iterator

BOXES, SCORES = 1e-3, 1e-4
"""How far the file's detections may be from torch's: pixels of the resized picture, and scores."""
OPSET = 18


@dataclass(frozen=True)
class Exported:
    """What was written: the frame (height, width) of its pictures, its operators with their counts, and how far its
    detections on `pictures` pictures of the row's val split are from torch's."""

    file: str
    frame: tuple[int, int]
    operators: dict[str, int]
    pictures: int
    detections: int
    boxes_px: float
    scores: float

    def form(self) -> dict[str, Any]:
        """JSON of `bench export`."""
        return asdict(self)


def export(plan: Plan, store: Store, file: Path, pictures: int) -> Exported:
    """Export the trained detector of the plan's one row.

    InputError where onnx is not installed, the row was not trained, its detector cannot be exported, or the file cannot
    be written; BenchError where what was written finds other things than torch does.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"export: needs {error.name}; install it with: pip install 'benchsuite[export]'") from None
    pipeline, seed = detection_of(plan)
    if pipeline.testing is not None:
        raise InputError(
            f"{plan.rows[0].id}: is tested in several sizes, which no one file does; export the row it tests"
        )
    fit = pipeline.fit(seed)
    require(fit, plan, store)
    data = pipeline.data.cut("val").open()
    detector = fit.trained(len(data.classes), store.verified(fit.key))
    network = Static(detector, pipeline.post, pipeline.input.frame, len(data.classes))
    operators = write(network, pipeline.input.frame, file)
    found = check(network, file, _pictures(pipeline, data, pictures, store))
    if found.boxes_px > BOXES or found.scores > SCORES:
        raise BenchError(
            f"{file}: finds other things than torch does on {found.pictures} pictures: boxes differ by "
            f"{found.boxes_px:.2g} px, scores by {found.scores:.2g}; do not use it"
        )
    return Exported(file.as_posix(), pipeline.input.frame, operators, **asdict(found))


def write(network: Static, frame: tuple[int, int], file: Path) -> dict[str, int]:
    """Write the file, whole or not at all; its operators with their counts. InputError for others than ONNX's own."""
    import onnx
    from torch.onnx import OnnxExporterError

    example = torch.zeros(1, 3, *frame, dtype=torch.uint8), torch.tensor([frame])
    try:
        with _quiet(), torch.no_grad():
            program: Any = torch.onnx.export(
                network,
                example,
                input_names=["image", "size"],
                output_names=["boxes", "scores", "labels"],
                opset_version=OPSET,
                custom_translation_table={torch.ops.benchsuite.grouped_nms.default: _nms()},
                dynamo=True,
                verbose=False,
            )
    except OnnxExporterError as error:
        told = str(error.__cause__ or error).strip().partition("\n")[0][:200]
        raise InputError(
            f"export: has a part without a form in ONNX ({told}); export a network of plain parts"
        ) from None
    model = program.model_proto
    foreign = sorted({f"{node.domain}::{node.op_type}" for node in _nodes(model) if node.domain not in ("", "ai.onnx")})
    if foreign:
        raise InputError(
            f"export: has operators outside ONNX's standard ({', '.join(foreign)}); export another network"
        )
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:  # a deformable convolution is none of this opset's, for instance
        told = str(error).partition("\n")[0]
        raise InputError(f"export: has an operator outside ONNX's standard ({told}); export another network") from None
    with outgoing(file) as scratch:
        scratch.write_bytes(model.SerializeToString())
    kinds = [node.op_type for node in _nodes(model)]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def _nodes(model: Any) -> list[Any]:
    return [*model.graph.node, *(node for function in model.functions for node in function.node)]


def _nms() -> Any:
    """`grouped_nms` in ONNX: every group is a class, in which only its own boxes have a score above the threshold."""
    from onnxscript import opset18

    op: Any = opset18  # typed for its own decorator

    def translate(boxes: Any, scores: Any, groups: Any, count: int, iou: float, threshold: float) -> Any:
        wide = np.iinfo(np.int64).max
        classes = op.Constant(value_ints=list(range(count)))
        mine = op.Equal(op.Unsqueeze(classes, [1]), op.Unsqueeze(groups, [0]))
        by_class = op.Where(mine, op.Unsqueeze(scores, [0]), op.Constant(value_float=threshold))
        kept = op.NonMaxSuppression(op.Unsqueeze(boxes, [0]), op.Unsqueeze(by_class, [0]), wide, iou, threshold)
        return op.Squeeze(op.Slice(kept, [2], [3], [1]), [1])

    return translate


@contextmanager
def _quiet() -> "Iterator[None]":
    """Without what the exporter tells of itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# --- the check


@dataclass(frozen=True)
class Discrepancy:
    """The largest differences over some pictures; infinite where a detection has no counterpart."""

    pictures: int
    detections: int
    boxes_px: float
    scores: float


def check(network: Static, file: Path, pictures: Sequence[tuple[Tensor, Tensor]]) -> Discrepancy:
    """Hold the file's detections against those of the network's own detector, with its own batches and NMS."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found = []
    for image, size in pictures:
        with torch.inference_mode():
            theirs = network.detect(image, size)
        raw = session.run(None, {"image": image.numpy(), "size": size.numpy()})
        boxes, scores, labels = (torch.from_numpy(np.array(part)) for part in raw)
        found.append(discrepancy(theirs, (boxes, scores, labels), network.post))
    return Discrepancy(
        pictures=len(found),
        detections=sum(each.detections for each in found),
        boxes_px=max((each.boxes_px for each in found), default=0.0),
        scores=max((each.scores for each in found), default=0.0),
    )


def discrepancy(first: PictureDetections, second: PictureDetections, post: PostProcess) -> Discrepancy:
    """Each detection against the nearest of its class on the other side, as near ties may change their order. One whose
    score is at the threshold or the last place, by the tolerance, may be missing there; it is then not counted."""
    boxes_px = scores = 0.0
    counted = []
    for mine, other in ((first, second), (second, first)):
        real = mine[2] >= 0
        last = mine[1][-1] if bool(real.all()) else mine[1].new_tensor(0.0)
        apart = torch.stack(((mine[0][:, None] - other[0]).abs().amax(2), (mine[1][:, None] - other[1]).abs()))
        apart = apart.masked_fill(mine[2][:, None] != other[2], torch.inf)
        nearest = apart.sum(0).argmin(1)
        px, score = apart.gather(2, nearest.expand(2, 1, -1).mT).squeeze(2)
        certain = mine[1] > max(post.score_threshold, float(last)) + SCORES
        rows = real & (certain | ((px <= BOXES) & (score <= SCORES)))
        counted.append(int(rows.sum()))
        boxes_px = max(boxes_px, float(px[rows].max())) if counted[-1] else boxes_px
        scores = max(scores, float(score[rows].max())) if counted[-1] else scores
    return Discrepancy(1, counted[0], boxes_px, scores)


def _pictures(pipeline: Detection, data: DetectionSet, count: int, store: Store) -> list[tuple[Tensor, Tensor]]:
    """The first pictures of the split that fit into the frame, padded to it, and their sizes."""
    height, width = pipeline.input.frame
    targets = [pipeline.input.target(*map(int, size)) for size in data.sizes]
    fitting = [index for index, (h, w) in enumerate(targets) if h <= height and w <= width][:count]
    batches, found = EvalBatches(data, pipeline.input, 1, store.cache), []
    for index in fitting:
        batch = batches[index]
        image = torch.zeros(1, 3, height, width, dtype=torch.uint8)
        h, w = batch.sizes[0].tolist()
        image[:, :, :h, :w] = batch.images[:, :, :h, :w]
        found.append((image, batch.sizes))
    return found
