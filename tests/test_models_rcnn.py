from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from benchsuite.data.batch import Batch
from benchsuite.errors import InputError
from benchsuite.models.anchors import PyramidAnchors
from benchsuite.models.cost import macs, parameters
from benchsuite.models.detector import Backbone, Edit, Features
from benchsuite.models.fpn import Levels, Neck, PooledFpn
from benchsuite.models.losses import SmoothL1
from benchsuite.models.postprocess import Hard, PostProcess, Soft
from benchsuite.models.rcnn import C4Roi, C4Rpn, FasterRcnn, FasterRcnnC4, TwoStageDetector
from benchsuite.models.rcnn_parts import Proposals, Roi, Rpn
from benchsuite.models.resnet import ResNet
from benchsuite.models.retinanet import RetinaNet

CLASSES = 3
# whole sides, for torchvision rounds them
RATIOS = (0.25, 1.0, 4.0)
FEW = {"train": Proposals(before_nms=60, after_nms=40), "test": Proposals(before_nms=30, after_nms=12)}


class Tiny(Backbone):
    """A user's own backbone: C2–C5 of 8 channels."""

    def build(self) -> "TinyFeatures":
        return TinyFeatures()


class TinyFeatures(Features):
    channels, strides = (8, 8, 8, 8), (4, 8, 16, 32)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)

    def __init__(self) -> None:
        super().__init__()
        self.stem = half(3)
        self.stages = nn.ModuleList(half(8) for _ in range(4))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [self.stem(images)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


def half(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())


def on_pyramid() -> FasterRcnn:
    rpn = Rpn(anchors=PyramidAnchors(scales=(1.0,), base=4.0, ratios=RATIOS), **FEW)
    return FasterRcnn(backbone=Tiny(), neck=PooledFpn(channels=8), rpn=rpn, roi=Roi(batch=24), hidden=16)


def on_c4(**backbone: Any) -> FasterRcnnC4:
    rpn = C4Rpn(anchors=PyramidAnchors(scales=(2.0, 4.0), base=1.0, ratios=RATIOS), **FEW)
    backbone = {"depth": 18, "levels": (4, 5), **backbone}
    return FasterRcnnC4(backbone=ResNet(**backbone), rpn=rpn, roi=C4Roi(size=4, batch=12))


BOTH = pytest.mark.parametrize("settings", [on_pyramid(), on_c4()], ids=["fpn", "c4"])


def small(settings: FasterRcnn | FasterRcnnC4) -> TwoStageDetector:
    torch.manual_seed(0)
    return settings.build(CLASSES)


def a_batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(2, 3, 2, generator=generator) * 30
    sides = 8 + torch.rand(2, 3, 2, generator=generator) * 30
    labels = torch.randint(CLASSES, (2, 3), generator=generator)
    labels[1, 1:] = -1
    boxes = torch.cat((corners, corners + sides), dim=-1) * (labels >= 0).unsqueeze(-1)
    sizes = torch.tensor([[64, 128], [64, 100]])
    images = torch.randint(256, (2, 3, 64, 128), dtype=torch.uint8, generator=generator)
    return Batch(images, sizes, sizes, torch.arange(2), boxes, labels)


def summed(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


class Trunk(nn.Module):
    def __init__(self, detector: TwoStageDetector, channels: int) -> None:
        super().__init__()
        self.detector, self.out_channels = detector, channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return OrderedDict((str(i), level) for i, level in enumerate(self.detector.levels(images)))


class Head(nn.Module):
    def __init__(self, detector: TwoStageDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, pooled: Tensor) -> Tensor:
        return self.detector.head(pooled, [len(pooled)])


def torchvisions(detector: TwoStageDetector, post: PostProcess) -> FasterRCNN:
    """Torchvision's detector with the same weights and settings."""
    rpn, roi = detector.settings.rpn, detector.settings.roi
    strides = detector.rpn.anchor_generator.strides
    sides = tuple(tuple(int(rpn.anchors.base * stride * scale) for scale in rpn.anchors.scales) for stride in strides)
    names = [str(i) for i in range(len(detector.roi_heads.box_roi_pool.strides))]
    assert isinstance(post.nms, Hard)
    return FasterRCNN(
        Trunk(detector, detector.rpn.head.cls_logits.in_channels),
        rpn_anchor_generator=AnchorGenerator(sides, (RATIOS,) * len(sides)),
        rpn_head=detector.rpn.head,
        box_roi_pool=MultiScaleRoIAlign(names, roi.size, roi.sampling),
        box_head=Head(detector),
        box_predictor=detector.roi_heads.box_predictor,
        rpn_pre_nms_top_n_train=rpn.train.before_nms,
        rpn_post_nms_top_n_train=rpn.train.after_nms,
        rpn_pre_nms_top_n_test=rpn.test.before_nms,
        rpn_post_nms_top_n_test=rpn.test.after_nms,
        rpn_batch_size_per_image=rpn.batch,
        box_batch_size_per_image=roi.batch,
        box_score_thresh=post.score_threshold,
        box_nms_thresh=post.nms.iou,
        box_detections_per_img=post.per_image,
        image_mean=detector.backbone.mean,
        image_std=detector.backbone.std,
        _skip_resize=True,  # while training
        min_size=64,  # as the images are
        max_size=128,
    )


def images_of(batch: Batch) -> list[Tensor]:
    return [image[:, :h, :w] / 255 for image, (h, w) in zip(batch.images, batch.sizes.tolist(), strict=True)]


def spread(detector: TwoStageDetector, batch: Batch) -> None:
    """Predictors that tell boxes apart and norms that know the batch, as in a trained detector."""
    predictor = detector.roi_heads.box_predictor
    nn.init.normal_(detector.rpn.head.cls_logits.weight, std=0.3)
    nn.init.normal_(detector.rpn.head.bbox_pred.weight, std=0.1)
    nn.init.normal_(predictor.cls_score.weight, std=4 * predictor.cls_score.in_features**-0.5)
    nn.init.normal_(predictor.bbox_pred.weight, std=0.1)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1
    detector.losses(batch)


@pytest.mark.parametrize(
    ("depth", "c4", "fpn", "retinanet"),
    [(50, 33_852_960, 41_757_156, 37_968_692), (101, 52_845_088, 60_749_284, 56_960_820)],
)
def test_totals_of_pod(depth: int, c4: int, fpn: int, retinanet: int) -> None:
    anchors = {"kind": "anchors.PyramidAnchors", "scales": [1, 2 ** (1 / 3), 2 ** (2 / 3)]}
    backbone = {"kind": "resnet.ResNet", "depth": depth}
    with torch.device("meta"):
        built = [
            FasterRcnnC4.model_validate({"backbone": backbone | {"levels": [4, 5]}}).build(80),
            FasterRcnn.model_validate({"backbone": backbone | {"levels": [2, 3, 4, 5]}}).build(80),
            RetinaNet.model_validate({"backbone": backbone, "anchors": anchors}).build(80),
        ]
    assert [parameters(detector) for detector in built] == [c4, fpn, retinanet]


def test_defaults_are_those_of_torchvision_and_detectron() -> None:
    with torch.device("meta"):
        fpn, c4 = FasterRcnn().build(80), FasterRcnnC4().build(80)
        image = torch.empty(1, 3, 800, 1344)
    assert fpn.neck.strides == (4, 8, 16, 32, 64) and fpn.roi_heads.box_roi_pool.strides == (4, 8, 16, 32)
    assert c4.rpn.anchor_generator.strides == c4.roi_heads.box_roi_pool.strides == (16,)
    assert fpn.anchor_count(image) == 3 * (200 * 336 + 100 * 168 + 50 * 84 + 25 * 42 + 13 * 21)
    assert c4.anchor_count(image) == 15 * 50 * 84
    sides = [round((w * h) ** 0.5) for w, h in c4.settings.rpn.anchors.shapes(16)]
    assert sides == [32, 64, 128, 256, 512] * 3


def test_costs_are_those_of_all_proposals() -> None:
    settings, image = on_pyramid(), torch.zeros(1, 3, 64, 128)
    detector = settings.build(CLASSES)
    cells = 16 * 32 + 8 * 16 + 4 * 8 + 2 * 4
    stem = 32 * 64 * 8 * 3 * 9 + cells * 8 * 8 * 9
    neck = cells * (8 * 8 + 8 * 8 * 9)
    proposals = (cells + 2) * (8 * 8 * 9 + 8 * 15)
    head = 8 * 49 * 16 + 16 * 16 + 16 * 5 * (CLASSES + 1)
    assert macs(detector, image) == stem + neck + proposals + 12 * head
    objectness, _, logits, deltas = detector(torch.cat((image, image)))
    assert objectness[0].shape == (2, 3, 16, 32)
    assert logits.shape == (24, CLASSES + 1) and deltas.shape == (24, 4 * (CLASSES + 1))


@BOTH
def test_losses_equal_torchvisions(settings: FasterRcnn | FasterRcnnC4) -> None:
    beta = {"bbox_regression": SmoothL1(beta=1 / 9)}
    settings = settings.model_copy(update={"roi": type(settings.roi).model_validate(dict(settings.roi) | beta)})
    detector, batch = small(settings), a_batch()
    spread(detector, batch)
    targets = [
        {"boxes": boxes[labels >= 0], "labels": labels[labels >= 0] + 1}
        for boxes, labels in zip(batch.boxes, batch.labels, strict=True)
    ]
    theirs = torchvisions(detector, PostProcess())
    torch.manual_seed(5)
    expected = theirs(images_of(batch), targets)
    torch.manual_seed(5)
    found = detector.losses(batch)
    names = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")
    assert [loss.item() for loss in found.values()] == pytest.approx([expected[n].item() for n in names], rel=1e-4)
    assert all(loss.item() > 0 for loss in found.values())


@BOTH
def test_detections_equal_torchvisions(settings: FasterRcnn | FasterRcnnC4) -> None:
    detector, batch = small(settings), a_batch()
    spread(detector, batch)
    detector.eval()
    post = PostProcess(score_threshold=0.1, nms=Hard(iou=0.6), per_image=9)
    with torch.inference_mode():
        found = detector.detect(batch, post)
        expected = torchvisions(detector, post).eval()(images_of(batch))
    assert found.scores.shape == (2, 9)
    for image, wanted in enumerate(expected):
        count = len(wanted["scores"])
        assert count > 4 and not found.scores[image, count:].any() and (found.labels[image, count:] == -1).all()
        torch.testing.assert_close(found.scores[image, :count], wanted["scores"], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found.boxes[image, :count], wanted["boxes"], rtol=1e-4, atol=1e-2)
        assert torch.equal(found.labels[image, :count] + 1, wanted["labels"])


def test_any_suppression_works_on_all_pairs() -> None:
    detector, batch = small(on_pyramid()).eval(), a_batch()
    post = PostProcess(score_threshold=0.0, nms=Soft(floor=1e-6), per_image=500)
    with torch.inference_mode():
        found = detector.detect(batch, post)
    kept = found.labels >= 0
    assert kept.sum(1).max() <= 12 * CLASSES and kept.sum(1).min() > 12
    assert (found.scores.diff(dim=1) <= 0).all()
    sides = found.boxes[..., 2:] - found.boxes[..., :2]
    assert (sides[kept] >= 1e-2).all()


@BOTH
def test_every_parameter_learns(settings: FasterRcnn | FasterRcnnC4) -> None:
    detector = small(settings)
    torch.autograd.backward(summed(detector.losses(a_batch())))
    assert [name for name, p in detector.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("rows", [0, 2])
def test_images_without_boxes(rows: int) -> None:
    batch = a_batch()
    empty = replace(batch, boxes=torch.zeros(2, rows, 4), labels=torch.full((2, rows), -1))
    losses = small(on_pyramid()).losses(empty)
    assert losses["proposal_regression"].item() == losses["bbox_regression"].item() == 0
    assert losses["objectness"].item() > 0 and losses["classification"].item() > 0
    torch.autograd.backward(summed(losses))


def test_padding_rows_do_not_count() -> None:
    detector, batch = small(on_pyramid()), a_batch()
    more = replace(
        batch,
        boxes=torch.cat((batch.boxes, torch.full((2, 2, 4), 7.0)), 1),
        labels=torch.cat((batch.labels, torch.full((2, 2), -1)), 1),
    )
    found = []
    for each in (batch, more):
        torch.manual_seed(3)
        found.append([loss.item() for loss in detector.losses(each).values()])
    assert found[0] == found[1]


@BOTH
def test_no_proposals(settings: FasterRcnn | FasterRcnnC4) -> None:
    detector, batch = small(settings), a_batch()
    detector.rpn.min_size = 1e4  # px: nothing is as large
    losses = detector.losses(replace(batch, labels=torch.full_like(batch.labels, -1)))
    assert losses["classification"].item() == losses["bbox_regression"].item() == 0
    torch.autograd.backward(summed(losses))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    assert all(value.isfinite().all() for value in detector.state_dict().values())
    found = detector.eval().detect(batch, PostProcess())
    assert (found.labels == -1).all() and found.boxes.shape == (2, 100, 4)


def test_single_precision_under_autocast() -> None:
    detector, batch = small(on_pyramid()), a_batch()
    losses = []
    for enabled in (True, False):
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(detector.losses(batch))
    assert {loss.dtype for loss in losses[0].values()} == {torch.float32}
    assert losses[0]["objectness"].item() == pytest.approx(losses[1]["objectness"].item(), rel=0.05)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        found = detector.eval().candidates(batch, PostProcess())
    assert found.boxes.dtype == found.scores.dtype == torch.float32


class Watched(nn.Module):
    """Keeps what a head's module is told."""

    def __init__(self) -> None:
        super().__init__()
        self.rois_per_image: list[int] | None = None
        self.seen: list[tuple[int, list[int] | None]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((len(x), self.rois_per_image))
        return x


class Watch(Edit):
    """Put a watcher after the second 3×3 of the first block of stages 4 and 5."""

    def apply(self, features: Features) -> Sequence[nn.Module]:
        added = [Watched(), Watched()]
        for module, stage in zip(added, features.get_submodule("stages")[3:5], strict=True):
            stage[0].conv2 = nn.Sequential(stage[0].conv2, module)
        return added


def test_c4_head_knows_how_many_rois_an_image_has() -> None:
    detector, batch = small(on_c4(edits=(Watch(),))), a_batch()
    trunk, head = (module for module in detector.modules() if isinstance(module, Watched))
    detector.losses(batch)
    assert trunk.seen == [(2, None)]
    assert head.seen == [(24, [12, 12])]
    with torch.inference_mode():
        detector.eval()
        images = detector.normalised(batch)
        _, real = detector.rpn.propose(images, detector.levels(images), batch.sizes)
        counts = real.sum(1).tolist()
        trunk.seen.clear()
        detector.detect(batch, PostProcess())
        detector(torch.zeros(2, 3, 32, 32))
    assert head.seen[1:] == [(sum(counts), counts), (24, [12, 12])]


def test_what_is_frozen_reaches_into_the_head() -> None:
    frozen = {"weights": "IMAGENET1K_V1", "frozen_stages": 2, "frozen_norms": True}
    with torch.device("meta"):
        detector = on_c4(**frozen).build(CLASSES).train()
    stages = detector.backbone.stages
    assert not any(p.requires_grad for stage in stages[:2] for p in stage.parameters())
    assert stages[4][0].conv1.weight.requires_grad and not stages[4][0].bn1.weight.requires_grad
    assert stages[4].training and not stages[4][0].bn1.training and not stages[2][0].bn1.training
    assert sum(name.endswith("0.downsample.0.weight") for name in detector.state_dict()) == 3


class Uneven(Neck):
    """Levels that do not halve."""

    def build(self, channels: Sequence[int], strides: Sequence[int]) -> Levels:
        levels = Levels()
        levels.channels, levels.strides = (8, 8), (4, 16)
        return levels


def test_refuses_levels_that_do_not_halve() -> None:
    with pytest.raises(InputError, match=r"strides \[4, 16\]"):
        FasterRcnn(backbone=Tiny(), neck=Uneven()).build(2)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"backbone": {"kind": "resnet.ResNet"}}, r"backbone.levels \[3, 4, 5\].* write \[4, 5\]"),
        ({"backbone": {"kind": "timm_backbone.Timm", "name": "resnet18"}}, "unknown kind 'timm_backbone.Timm'"),
        ({"roi": {"negative": 0.6}}, r"negative 0.6 is above positive 0.5; lower it"),
        ({"neck": {"kind": "fpn.Fpn"}}, "Extra inputs"),
        ({"roi": {"sampling": -1}}, "greater than or equal to 0"),
    ],
)
def test_refuses(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        FasterRcnnC4.model_validate(wrong)
    assert len(caught.value.errors()) == 1
