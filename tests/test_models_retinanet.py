import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.detection.retinanet import RetinaNetHead as TorchvisionHead

from benchsuite.data.batch import Batch
from benchsuite.models.boxes import BoxCoder
from benchsuite.models.dense import DenseDetector, _best_pairs
from benchsuite.models.detector import Backbone, Features
from benchsuite.models.fpn import Fpn
from benchsuite.models.postprocess import PostProcess
from benchsuite.models.retinanet import Head, RetinaNet


class Tiny(Backbone):
    """A user's own backbone: three maps of 24 channels."""

    def build(self) -> "TinyFeatures":
        return TinyFeatures()


class TinyFeatures(Features):
    channels, strides = (24, 24, 24), (8, 16, 32)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(half(3), half(24))
        self.stages = nn.ModuleList(half(24) for _ in range(3))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [self.stem(images)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


def half(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, 24, 3, stride=2, padding=1), nn.BatchNorm2d(24), nn.ReLU())


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def small(classes: int = 3) -> DenseDetector:
    torch.manual_seed(0)
    return RetinaNet(backbone=Tiny(), neck=Fpn(channels=24), head=Head(channels=24, depth=2)).build(classes)


def summed(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def a_batch(boxes: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(2, boxes, 2, generator=generator) * 60
    labels = torch.randint(3, (2, boxes), generator=generator)
    return Batch(
        images=torch.randint(256, (2, 3, 96, 128), dtype=torch.uint8, generator=generator),
        sizes=torch.tensor([[96, 100], [70, 128]]),
        originals=torch.tensor([[96, 100], [70, 128]]),
        image_ids=torch.arange(2),
        boxes=torch.cat((corners, corners + 30), dim=-1),
        labels=labels,
    )


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ({"kind": "resnet.ResNet"}, 37_387_832),
        ({"kind": "resnet.ResNet", "depth": 101}, 56_379_960),
        ({"kind": "timm_backbone.Timm", "name": "legacy_seresnet50"}, 39_918_824),
        ({"kind": "timm_backbone.Timm", "name": "legacy_seresnet101"}, 61_157_672),
        ({"kind": "timm_backbone.Timm", "name": "legacy_seresnext50_32x4d"}, 39_390_696),
        ({"kind": "timm_backbone.Timm", "name": "legacy_seresnext101_32x4d"}, 60_786_216),
    ],
    ids=["r50", "r101", "se-r50", "se-r101", "se-rx50", "se-rx101"],
)
def test_totals_of_har_net(backbone: dict[str, object], expected: int) -> None:
    with torch.device("meta"):
        assert parameters(RetinaNet.model_validate({"backbone": backbone}).build(80)) == expected


def test_parts_of_har_nets_head() -> None:
    with torch.device("meta"):
        head = Head().build((256,) * 5, (8, 16, 32, 64, 128), (6,) * 5, 80)
    assert parameters(head.cls_tower) == parameters(head.box_tower) == 2_360_320
    assert parameters(head.cls_logits) == 1_106_400
    assert parameters(head.bbox_regression) == 55_320
    assert parameters(head) == 5_882_360


def test_head_starts_at_the_prior() -> None:
    head = Head().build((256,), (8,), (6,), 80)
    assert head.cls_logits.get_parameter("bias")[7].item() == pytest.approx(-4.59512, abs=1e-5)
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.05)
            assert module is head.cls_logits or not module.get_parameter("bias").any()


def test_head_equals_torchvisions() -> None:
    ours = Head(channels=16).build((16, 16), (8, 16), (6, 6), 5)
    theirs = TorchvisionHead(16, 6, 5)
    for tower, predictor, head in (
        (ours.cls_tower, ours.cls_logits, theirs.classification_head),
        (ours.box_tower, ours.bbox_regression, theirs.regression_head),
    ):
        for own, other in zip(tower[::2], head.conv, strict=True):
            other[0].load_state_dict(own.state_dict())
        (head.cls_logits if head is theirs.classification_head else head.bbox_reg).load_state_dict(
            predictor.state_dict()
        )
    levels = [torch.randn(2, 16, 7, 5), torch.randn(2, 16, 4, 3)]
    expected = theirs(levels)
    for given_levels in (levels, [level.to(memory_format=torch.channels_last) for level in levels]):
        cls_logits, bbox_regression = ours(given_levels)
        torch.testing.assert_close(cls_logits, expected["cls_logits"])
        torch.testing.assert_close(bbox_regression, expected["bbox_regression"])


def test_images_are_normalised_and_padding_is_zero() -> None:
    batch = a_batch()
    images = small().normalised(batch)
    mean, std = torch.tensor(TinyFeatures.mean), torch.tensor(TinyFeatures.std)
    expected = (batch.images[0, :, 5, 7] / 255 - mean) / std
    torch.testing.assert_close(images[0, :, 5, 7], expected)
    assert not images[0, :, :, 100:].any() and not images[1, :, 70:].any()
    assert images[0, :, 95, 99].any() and images[1, :, 69, 127].any()


def test_every_parameter_learns() -> None:
    model = small()
    torch.autograd.backward(summed(model.losses(a_batch())))
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_losses_are_sums_over_the_foreground_of_the_batch() -> None:
    model, batch = small(), a_batch()
    cls_logits, bbox_regression, anchors, _ = model._predict(batch)
    matches = model.settings.assignment.match(anchors, batch.boxes, batch.labels)
    total = {"classification": 0.0, "bbox_regression": 0.0}
    foreground = 0
    for image in range(2):
        for position, row in enumerate(matches[image].tolist()):
            if row == -2:
                continue
            for label in range(3):
                p = cls_logits[image, position, label].sigmoid().item()
                hit = row >= 0 and batch.labels[image, row] == label
                total["classification"] -= 0.25 * (1 - p) ** 2 * math.log(p) if hit else 0.75 * p**2 * math.log(1 - p)
            if row >= 0:
                foreground += 1
                a, b = anchors[position].tolist(), batch.boxes[image, row].tolist()
                wanted = [
                    (b[0] + b[2] - a[0] - a[2]) / 2 / (a[2] - a[0]),
                    (b[1] + b[3] - a[1] - a[3]) / 2 / (a[3] - a[1]),
                    math.log((b[2] - b[0]) / (a[2] - a[0])),
                    math.log((b[3] - b[1]) / (a[3] - a[1])),
                ]
                for got, want in zip(bbox_regression[image, position].tolist(), wanted, strict=True):
                    x = abs(got - want)
                    total["bbox_regression"] += x**2 / 0.22 if x < 0.11 else x - 0.055
    assert foreground > 2
    found = model.losses(batch)
    assert {name: loss.item() for name, loss in found.items()} == pytest.approx(
        {name: loss / foreground for name, loss in total.items()}, rel=1e-4
    )


@pytest.mark.parametrize("boxes", [0, 1])
def test_images_without_boxes(boxes: int) -> None:
    batch = a_batch(boxes)
    batch.labels.fill_(-1)
    losses = small().losses(batch)
    assert losses["bbox_regression"].item() == 0 and losses["classification"].item() > 0
    torch.autograd.backward(summed(losses))


def test_losses_are_single_precision_under_autocast() -> None:
    model = small()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.losses(a_batch())
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    expected = model.losses(a_batch())
    assert losses["classification"].item() == pytest.approx(expected["classification"].item(), rel=0.05)


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 5), st.integers(1, 60))
def test_best_pairs_are_the_best_of_all(seed: int, anchors: int, classes: int, count: int) -> None:
    logits = torch.randperm(2 * anchors * classes, generator=torch.Generator().manual_seed(seed)).float()
    logits = logits.view(2, anchors, classes)
    best, positions, labels = _best_pairs(logits, count)
    expected = logits.flatten(1).topk(min(count, anchors * classes), dim=1).values
    assert torch.equal(best, expected)
    for image in range(2):
        assert torch.equal(logits[image, positions[image], labels[image]], best[image])


@pytest.mark.parametrize(
    ("per_level", "per_class"), [(20, None), (None, 15), (None, None), (20, 15)], ids=["level", "class", "none", "both"]
)
def test_detect_equals_a_loop(per_level: int | None, per_class: int | None) -> None:
    model, batch = small().eval(), a_batch()
    with torch.no_grad():  # untrained scores are all but equal: ties would come in any order
        model.head.cls_logits.weight *= 1000
    post = PostProcess(score_threshold=0.01, per_level=per_level, per_class=per_class, per_image=30)
    with torch.inference_mode():
        found = model.detect(batch, post)
        cls_logits, bbox_regression, anchors, cells = model._predict(batch)
    scores = cls_logits.sigmoid()
    for image in range(2):
        kept: list[tuple[float, int, Tensor]] = []
        start = 0
        for size in cells:
            level = scores[image, start : start + size]
            pairs = [(level[a, k].item(), start + a, k) for a in range(size) for k in range(3) if level[a, k] > 0.01]
            for score, position, label in sorted(pairs, reverse=True)[:per_level]:
                box = BoxCoder().decode(bbox_regression[image, position], anchors[position])
                height, width = batch.sizes[image].tolist()
                limit = torch.tensor([width, height, width, height])
                kept.append((score, label, box.clamp(min=torch.zeros(4), max=limit)))
            start += size
        kept.sort(key=lambda candidate: -candidate[0])
        limited = [c for i, c in enumerate(kept) if sum(c[1] == other[1] for other in kept[:i]) < (per_class or 10**9)]
        expected = suppress(limited)[:30]
        count = int((found.labels[image] >= 0).sum())
        assert count == len(expected) > 5
        assert found.scores[image, :count].tolist() == pytest.approx([score for score, _, _ in expected])
        torch.testing.assert_close(found.boxes[image, :count], torch.stack([box for _, _, box in expected]))


def suppress(candidates: list[tuple[float, int, Tensor]]) -> list[tuple[float, int, Tensor]]:
    """Greedy NMS at 0.5 of candidates sorted by falling score."""
    kept: list[tuple[float, int, Tensor]] = []
    for score, label, box in candidates:
        if all(label != other or overlap(box, better) <= 0.5 for _, other, better in kept):
            kept.append((score, label, box))
    return kept


def overlap(a: Tensor, b: Tensor) -> float:
    sides = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0)
    areas = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()
    return (sides.prod() / (areas - sides.prod())).item()


def test_detects_after_learning_one_picture() -> None:
    model, batch = small(), a_batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        torch.autograd.backward(summed(model.losses(batch)))
        optimizer.step()
    with torch.inference_mode():
        found = model.detect(batch, PostProcess())
    for image in range(2):
        for box, label in zip(batch.boxes[image], batch.labels[image], strict=True):
            same = found.boxes[image][found.labels[image] == label]
            assert max((overlap(box, other) for other in same), default=0) > 0.5
