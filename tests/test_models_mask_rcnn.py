"""Mask R-CNN: its numbers, its targets and losses against loops, and the whole path from annotations to mask AP."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_cases import TOY, one_line
from pycocotools import mask as reference
from torch import Tensor
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.ops import MultiScaleRoIAlign

from benchsuite.data.batch import Batch
from benchsuite.data.batches import Batches
from benchsuite.data.dataset import GRID
from benchsuite.data.generated import Generated
from benchsuite.data.masks import Segmentations
from benchsuite.data.transforms import Flip, ShortSide
from benchsuite.engine.job import Artifact, Context, Job
from benchsuite.errors import InputError
from benchsuite.metrics.metric import Found
from benchsuite.models.cost import macs, parameters
from benchsuite.models.fpn import PooledFpn
from benchsuite.models.mask_rcnn import MaskHead, MaskRcnn, MaskRcnnDetector, targets
from benchsuite.models.postprocess import PostProcess
from benchsuite.models.rcnn import FasterRcnn
from benchsuite.models.rcnn_parts import Proposals, Roi, Rpn
from benchsuite.models.resnet import ResNet
from benchsuite.pipelines.detection import Detection
from benchsuite.pipelines.pipeline import Pipeline
from benchsuite.settings import canonical

CLASSES = 24
RPN = Rpn(train=Proposals(before_nms=60, after_nms=40), test=Proposals(before_nms=30, after_nms=12))
PARTS: dict[str, Any] = {
    "backbone": ResNet(depth=18, levels=(2, 3, 4, 5)),
    "neck": PooledFpn(channels=8),
    "rpn": RPN,
    "roi": Roi(batch=24),
    "hidden": 16,
}
SMALL = MaskRcnn(**PARTS, mask=MaskHead(channels=8, depth=2))
POST = PostProcess(score_threshold=0.0, per_image=7)


def small() -> MaskRcnnDetector:
    torch.manual_seed(0)
    detector = SMALL.build(CLASSES)
    for name, weights in detector.mask_head.named_parameters():
        torch.nn.init.normal_(weights, std=0.3 if name.endswith("weight") else 0.1)
    return detector


def a_batch(seed: int = 0) -> Batch:
    data = Generated(images=6, seed=4, height=64, width=96).open()
    return Batches(data, ShortSide(short=64, long=96, multiple=32), (Flip(),), 2, seed, 3, None, masks=True)[seed]


def star(generator: torch.Generator) -> Tensor:
    """A random polygon [V, 2] around (0, 0), about 20 wide."""
    turns = torch.arange(9) / 9 * 2 * np.pi
    radius = 5 + 8 * torch.rand(9, generator=generator)
    return torch.stack((turns.cos() * radius, turns.sin() * radius), 1).double()


# --- numbers


@pytest.mark.parametrize(("classes", "count"), [(90, 44_454_513), (80, 44_400_693)])
def test_parameters_are_torchvisions_but_for_the_masks_of_the_background(classes: int, count: int) -> None:
    with torch.device("meta"):
        ours = parameters(MaskRcnn().build(classes))
        theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=classes + 1)
    assert sum(weights.numel() for weights in theirs.parameters()) == count
    assert ours == count - 257


def test_costs_beside_faster_rcnn() -> None:
    with torch.device("meta"):
        image = torch.empty(1, 3, 64, 64)
        masks, boxes = (macs(model.build(80), image) for model in (MaskRcnn(), FasterRcnn()))
    # 100 RoIs: four 3×3 convolutions on 14×14, a 2×2 deconvolution from each cell, 80 classes at 28×28
    assert masks - boxes == 100 * (4 * 14**2 * 256**2 * 9 + 14**2 * 256**2 * 4 + 28**2 * 256 * 80)


def test_kind_and_defaults() -> None:
    assert MaskRcnn.kind() == "mask_rcnn.MaskRcnn"
    assert MaskRcnn.masks and not FasterRcnn.masks
    assert MaskRcnn().mask == MaskHead(size=14, channels=256, depth=4)


# --- targets


def test_targets_equal_drawing_at_the_proposal() -> None:
    """The polygon drawn by pycocotools in each proposal, against the samples of its grid."""
    generator = torch.Generator().manual_seed(3)
    overlaps = []
    for _ in range(40):
        polygon = star(generator) * (0.5 + 4 * torch.rand(1, generator=generator)) + 60
        box = torch.cat((polygon.amin(0), polygon.amax(0)))
        opened = Segmentations.of([[polygon.flatten().tolist()]], box[None].numpy(), np.array([[120, 120]], np.int32))
        size = (box[2:] - box[:2]).repeat(2)
        roi = box + (torch.rand(4, generator=generator) - 0.5) * 0.6 * size
        grid = torch.from_numpy(opened.grids(np.array([0])))
        (found,) = targets(grid, box[None].float(), roi[None].float(), torch.tensor([0]), 28)
        inside = (polygon - roi[:2]) * 28 / (roi[2:] - roi[:2])
        expected = reference.decode(reference.frPyObjects([inside.flatten().tolist()], 28, 28))[..., 0]
        both, either = (expected & found.bool().numpy()).sum(), (expected | found.bool().numpy()).sum()
        overlaps.append(both / either)
    assert min(overlaps) > 0.88 and np.mean(overlaps) > 0.95


def test_targets_of_the_box_itself_are_its_grid_averaged() -> None:
    grids = torch.rand(2, 8, 8).repeat_interleave(14, 1).repeat_interleave(14, 2) > 0.5
    assert grids.shape[1:] == (GRID, GRID)
    boxes = torch.tensor([[3.0, 5, 40, 30], [0.5, 1, 2, 70]])
    rows = torch.tensor([1, 0, 1])
    found = targets(grids, boxes, boxes[rows], rows, 28)
    assert torch.equal(found, (avg_pool2d(grids[rows].float(), 4) >= 0.5).float())


def test_outside_its_box_an_object_is_nowhere() -> None:
    grids, boxes = torch.ones(1, GRID, GRID, dtype=torch.bool), torch.tensor([[10.0, 10, 20, 20]])
    rois = torch.tensor([[30.0, 10, 40, 20], [0, 0, 20, 20], [10, 10, 30, 20]])
    apart, corner, left = targets(grids, boxes, rois, torch.zeros(3, dtype=torch.int64), 28)
    assert apart.sum() == 0
    assert corner[14:, 14:].all() and corner.sum() == 14 * 14
    assert left[:, :14].all() and left.sum() == 28 * 14
    assert targets(grids, boxes, rois[:0], torch.zeros(0, dtype=torch.int64), 28).shape == (0, 28, 28)


# --- losses


def seen(detector: MaskRcnnDetector, batch: Batch) -> tuple[dict[str, Tensor], tuple[Any, ...]]:
    """The losses, and what the masks' loss was given."""
    kept: list[tuple[Any, ...]] = []
    original = detector.further_losses
    detector.further_losses = lambda *given: kept.append(given) or original(*given)  # type: ignore[method-assign, func-returns-value]
    losses = detector.train().losses(batch)
    return losses, kept[0]


def test_the_loss_equals_a_loop_over_foreground_rois() -> None:
    detector, batch = small(), a_batch()
    losses, (_, levels, proposals, matches, labels) = seen(detector, batch)
    assert batch.masks is not None
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], 14, 2)
    height, width = batch.images.shape[-2:]
    values = []
    for image in range(2):
        maps = {str(i): level[image : image + 1] for i, level in enumerate(levels)}
        for roi, match, label in zip(proposals[image], matches[image], labels[image], strict=True):
            if label == 0:
                continue
            logits = detector.mask_head(pool(maps, [roi[None]], [(height, width)]))[0, label - 1]
            assert batch.labels[image, match] == label - 1
            truth, box = batch.masks[image, match], batch.boxes[image, match]
            wanted = targets(truth[None], box[None], roi[None], torch.tensor([0]), 28)[0]
            values.append(binary_cross_entropy_with_logits(logits, wanted))
    assert len(values) > 5
    torch.testing.assert_close(losses["mask"], torch.stack(values).mean())


def test_boxes_learn_as_in_faster_rcnn() -> None:
    batch, detector = a_batch(), small()
    plain = FasterRcnn(**PARTS).build(CLASSES)
    plain.load_state_dict({name: value for name, value in detector.state_dict().items() if "mask" not in name})
    torch.manual_seed(1)
    both = detector.train().losses(batch)
    torch.manual_seed(1)
    alone = plain.train().losses(replace(batch, masks=None))
    assert both.keys() - alone.keys() == {"mask"}
    assert all(torch.equal(value, both[name]) for name, value in alone.items())
    detector.eval(), plain.eval()
    found, boxes = detector.detect(batch, POST), plain.detect(batch, POST)
    assert torch.equal(found.boxes, boxes.boxes) and torch.equal(found.labels, boxes.labels)


def test_gradients_reach_every_layer() -> None:
    detector = small()
    losses = detector.train().losses(a_batch())
    losses["mask"].backward()
    missing = {name for name, weights in detector.named_parameters() if weights.grad is None}
    assert missing and all(name.startswith(("rpn.", "roi_heads.")) for name in missing)
    assert all(weights.grad.abs().sum() > 0 for weights in detector.mask_head.parameters() if weights.grad is not None)
    stem = detector.get_parameter("backbone.stages.0.0.weight").grad
    assert stem is not None and stem.abs().sum() > 0


def test_an_image_without_objects_and_a_batch_of_them() -> None:
    batch = a_batch()
    assert batch.masks is not None
    for empty in ([1], [0, 1]):
        labels, boxes = batch.labels.clone(), batch.boxes.clone()
        labels[empty], boxes[empty] = -1, 0
        detector = small().train()
        losses = detector.losses(replace(batch, labels=labels, boxes=boxes))
        assert all(value.isfinite() for value in losses.values())
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert losses["mask"] == 0


def test_parts_of_a_batch_carry_their_masks() -> None:
    parts = a_batch().split(1)
    assert len(parts) == 2
    assert all("mask" in small().train().losses(part) for part in parts)


def test_a_batch_without_masks() -> None:
    with pytest.raises(InputError) as error:
        small().train().losses(replace(a_batch(), masks=None))
    one_line(error, "Mask R-CNN learns masks")


# --- detection


def test_masks_are_those_of_the_final_detections() -> None:
    detector, batch = small().eval(), a_batch()
    with torch.inference_mode():
        found = detector.detect(batch, POST)
        levels = detector.levels(detector.normalised(batch))
        pool = MultiScaleRoIAlign(["0", "1", "2", "3"], 14, 2)
        assert found.masks is not None and found.masks.shape == (2, 7, 28, 28)
        assert (found.labels >= 0).sum() > 5
        for image in range(2):
            maps = {str(i): level[image : image + 1] for i, level in enumerate(levels)}
            for box, label, mask in zip(found.boxes[image], found.labels[image], found.masks[image], strict=True):
                if label < 0:
                    assert not mask.any()
                    continue
                expected = detector.mask_head(pool(maps, [box[None]], [batch.images.shape[-2:]]))[0, label].sigmoid()
                torch.testing.assert_close(mask, expected, atol=1e-5, rtol=1e-4)


def test_nothing_found_and_half_precision() -> None:
    detector, batch = small().eval(), a_batch()
    with torch.inference_mode():
        none = detector.detect(batch, PostProcess(score_threshold=1.0, per_image=3))
        assert none.masks is not None and none.masks.shape == (2, 3, 28, 28) and not none.masks.any()
        with torch.autocast("cpu", torch.bfloat16):
            found = detector.detect(batch, POST)
    assert found.masks is not None and found.masks.dtype == torch.float32


# --- the whole path


def pipeline(**changes: Any) -> Detection:
    settings: dict[str, Any] = {
        "kind": "detection.Detection",
        "data": {
            "train": {"kind": "generated.Generated", "images": 8, "height": 64, "width": 64},
            "val": {"kind": "generated.Generated", "images": 4, "height": 64, "width": 64, "split": "val"},
            "val_limit": 3,
        },
        "input": {"kind": "transforms.ShortSide", "short": 64, "long": 64, "multiple": 32},
        "augment": [{"kind": "transforms.Flip"}],
        "model": {name: value for name, value in canonical(SMALL).items() if name not in ("backbone", "neck")}
        | {"backbone": {"kind": "resnet.ResNet", "depth": 18, "levels": [2, 3, 4, 5]}}
        | {"neck": {"kind": "fpn.PooledFpn", "channels": 8}},
        "solver": {"lr": 0.001, "iterations": 2, "batch": 2, "warmup_iterations": 1, "drops": []},
        "post": {"score_threshold": 0.0, "per_image": 5},
        "metric": {"kind": "coco.CocoMasks"},
    }
    made = Pipeline.model_validate(settings | changes)
    assert isinstance(made, Detection)
    return made


def done(job: Job, folder: Path) -> Artifact:
    inputs = {name: done(needed, folder) for name, needed in job.inputs.items()}
    own = folder / job.key
    own.mkdir(exist_ok=True)
    job.do(Context(own, own / "partial", folder / "cache", inputs))
    return Artifact(job.key, own)


def test_from_annotations_to_mask_ap(tmp_path: Path) -> None:
    last = pipeline().jobs(0, "cpu")["score"]
    scored = done(last, tmp_path)
    assert scored.metrics["protocol"] == "coco-mask"  # type: ignore[comparison-overlap]
    assert scored.metrics["AP"] is not None
    seen_by = last.inputs["predict"]
    found = Found.load(tmp_path / seen_by.key / "detections.safetensors")
    assert found.masks is not None and len(found.masks) == len(found) > 0
    log = (tmp_path / seen_by.inputs["train"].key / "log.jsonl").read_text().splitlines()
    assert all(np.isfinite(json.loads(line)["mask"]) for line in log)


def boxes_only(split: str) -> Mapping[str, Any]:
    file = TOY / "annotations" / f"instances_{split}.json"
    return {"kind": "coco.File", "annotations": str(file), "images": str(TOY / "images")}


def test_boxes_only_annotations_are_refused_when_it_is_planned() -> None:
    boxes = {"train": boxes_only("train"), "val": boxes_only("val")}
    with pytest.raises(InputError) as error:
        pipeline(data=boxes).jobs(0, "cpu")
    one_line(error, "toy", "no masks")
    with pytest.raises(InputError) as error:
        pipeline(metric={"kind": "coco.Coco"}, data=boxes).jobs(0, "cpu")  # the model asks for them too
    one_line(error, "toy train", "no masks")
    with pytest.raises(InputError) as error:
        pipeline(model={"kind": "retinanet.RetinaNet"}).jobs(0, "cpu")
    one_line(error, "coco.CocoMasks scores masks", "retinanet.RetinaNet")
    with pytest.raises(InputError) as error:
        pipeline(model={"kind": "retinanet.RetinaNet"}, data=boxes).jobs(0, "cpu")
    one_line(error, "toy val", "no masks")


def test_absent_data_can_be_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    coco = {"train": {"kind": "coco.Coco", "split": "train2017"}, "val": {"kind": "coco.Coco", "split": "val2017"}}
    assert set(pipeline(data=coco).jobs(0, "cpu")) == {"score", "cost", "time"}


def test_a_training_without_masks_stops_at_its_start(tmp_path: Path) -> None:
    train = pipeline().fit(0).model_copy(update={"data": pipeline(
        metric={"kind": "coco.Coco"}, model={"kind": "retinanet.RetinaNet"},
        data={"train": boxes_only("train"), "val": boxes_only("val")},
    ).data.train})  # fmt: skip
    with pytest.raises(InputError) as error:
        train.do(Context(tmp_path, tmp_path / "partial", tmp_path / "cache"))
    one_line(error, "toy train", "no masks")
