"""PADet's matching, loss, gradients, counts and detections against padet.spec 7 and loops; bad input."""

import math
from typing import Any

import pytest
import torch
from padet_cases import CLASSES, SIDE, around, batch, detector, grid, randomised, settings
from pydantic import ValidationError
from torch import Tensor, nn

from benchsuite.data.batch import Batch
from benchsuite.models.boxes import BoxCoder, iou
from benchsuite.models.matcher import BACKGROUND, IGNORED
from benchsuite.models.postprocess import Candidates, PostProcess, Soft, select
from benchsuite.papers.padet import Predictions
from benchsuite.papers.padet_matching import drop, match

# Matching, the θ-rule, the loss

CODER = BoxCoder(variances=(0.1, 0.1, 0.2, 0.2))


def test_decode() -> None:
    anchor = around((0.5, 0.5, 0.2, 0.4))
    moved = CODER.decode(torch.tensor([[1.0, -1.0, 0.5, -0.5]]), anchor)
    expected = around((0.52, 0.46, 0.2 * math.exp(0.1), 0.4 * math.exp(-0.1)))
    torch.testing.assert_close(moved, expected)
    assert (moved[0, 2] - moved[0, 0]).item() == pytest.approx(0.221034, abs=1e-6)
    assert (moved[0, 3] - moved[0, 1]).item() == pytest.approx(0.361935, abs=1e-6)


def test_promotion_of_a_spawn() -> None:
    """IoU .1840 is negative; half of the exact adjustment makes .4525, ignored; 60 % makes .5333, positive."""
    anchor, truth = around((244, 164, 26.88, 26.88)), around((255, 180, 60, 44))
    exact = CODER.encode(truth, anchor)
    assert exact[0].tolist() == pytest.approx([4.0923, 5.9524, 4.0148, 2.4640], abs=1e-4)
    # Another anchor lies on the truth, so that this one is not its best.
    for share, overlap, state in ((0.0, 0.1840, BACKGROUND), (0.5, 0.4525, IGNORED), (0.6, 0.5333, 0)):
        moved = CODER.decode(share * exact, anchor)
        assert iou(truth[None], moved[None]).item() == pytest.approx(overlap, abs=1e-4)
        found = match(settings().assignment, torch.cat((truth, moved)), truth[None], torch.tensor([[1]]))
        assert found.matches[0].tolist() == [0, state]


def naive_match(anchors: Tensor, boxes: Tensor, labels: Tensor) -> list[int]:
    """One image: greedy one-to-one first, then > 0.5; below 0.3 negative."""
    overlap = iou(boxes[None], anchors[None])[0]
    real = [row for row in range(len(labels)) if labels[row] >= 0]
    taken: dict[int, int] = {}
    while real and len(taken) < len(real):
        pairs = [(overlap[row, a].item(), -row, -a) for row in real if row not in taken.values()
                 for a in range(len(anchors)) if a not in taken]  # fmt: skip
        value, row, anchor = max(pairs)
        if value <= 0:
            break
        taken[-anchor] = -row
    states = []
    for anchor in range(len(anchors)):
        best = max(real, key=lambda row: (overlap[row, anchor].item(), -row), default=-1)
        value = overlap[best, anchor].item() if real else 0.0
        states.append(taken.get(anchor, best if value > 0.5 else BACKGROUND if value < 0.3 else IGNORED))
    return states


@pytest.mark.parametrize("seed", range(5))
def test_both_stages_match_as_a_loop_does(seed: int) -> None:
    torch.manual_seed(seed)
    model = settings("cr")
    one = batch(3, 4, seed)
    labels = one.labels.clone()
    labels[1, 2:] = -1
    anchors = grid(model.anchors, (8, 4, 2, 1), SIDE)
    promoted = CODER.decode(torch.randn(3, len(anchors), 4) * 2, anchors)
    for boxes in (anchors, promoted):
        found = match(model.assignment, boxes, one.boxes, labels)
        for image in range(3):
            own = boxes if boxes.ndim == 2 else boxes[image]
            assert found.matches[image].tolist() == naive_match(own, one.boxes[image], labels[image])
        for place in range(len(found.images)):
            row = found.matches[found.images[place], found.places[place]]
            assert torch.equal(found.boxes[place], one.boxes[found.images[place], row])
            assert found.labels[place] == labels[found.images[place], row]


def test_theta_takes_negatives_alone() -> None:
    targets = torch.tensor([[2, BACKGROUND, IGNORED, BACKGROUND, 0]])
    p = torch.tensor([[0.0, 0.005, 0.0, 0.01, 0.0]])
    assert drop(targets, p, 0.01).tolist() == [[2, IGNORED, IGNORED, BACKGROUND, 0]], "not below θ is kept"
    kept = drop(targets, torch.zeros(1, 5), 0.01)
    assert kept.tolist() == [[2, IGNORED, IGNORED, IGNORED, 0]], "p = 0 keeps every positive and no negative"
    assert torch.equal(drop(targets, torch.ones(1, 5), 0.01), targets), "p = 1 drops nothing"
    assert torch.equal(drop(targets, torch.zeros(1, 5), 0.0), targets), "θ = 0 drops nothing"


def test_loss_by_hand() -> None:
    """Three anchors, the first positive in both stages, the third's p below θ: 2.209831 + 1.298508."""
    model = detector("cr")
    anchors = around((20, 20, 16, 16), (44, 44, 12, 12), (50, 10, 8, 8))
    truth = around((20, 20, 16, 16))
    p = torch.tensor([[0.8, 0.3, 0.005]])
    x = torch.zeros(1, 3, 4)
    x[0, 0] = torch.tensor([0.5, -2.0, 0.0, 0.0])  # its target is 0
    promoted = CODER.decode(x, anchors)
    t = torch.zeros(1, 3, 4)
    t[0, 0] = CODER.encode(truth, promoted[0, :1])[0] + torch.tensor([1.0, 0.0, 0.0, 0.0])
    chances = torch.tensor([[[0.2, 0.1, 0.5, 0.2], [0.9, 0.05, 0.03, 0.02], [0.01, 0.33, 0.33, 0.33]]])
    found = Predictions(p.logit(), x, chances.log(), t, ())
    losses = model.losses_of(found, anchors, truth[None], torch.tensor([[1]]))
    apm = losses["apm_classification"] + losses["apm_bbox_regression"]
    detection = losses["classification"] + losses["bbox_regression"]
    assert apm.item() == pytest.approx(2.209831, abs=1e-5)
    assert detection.item() == pytest.approx(1.298508, abs=1e-5)
    assert sum(losses.values()).item() == pytest.approx(3.508339, abs=1e-5)  # type: ignore[union-attr]


def test_each_stage_divides_by_its_own_positives() -> None:
    model = detector("cr")
    anchors = around((20, 20, 16, 16), (28, 20, 16, 16), (50, 10, 8, 8))
    truth = around((20, 20, 16, 16))
    x = torch.zeros(1, 3, 4)
    x[0, 1] = CODER.encode(truth, anchors[1:2])[0]  # promoted onto the truth: a second positive
    found = Predictions(torch.zeros(1, 3), x, torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), ())
    losses = model.losses_of(found, anchors, truth[None], torch.tensor([[1]]))
    # before: one positive, one of IoU 1/3 ignored, one negative; after: two positives, one negative
    assert losses["apm_classification"].item() == pytest.approx(2 * math.log(2) / 1)
    assert losses["classification"].item() == pytest.approx(3 * math.log(4) / 2)
    counts = {name: value.item() for name, value in model.counts.observe().items()}
    assert (counts["before_positives"], counts["before_negatives"], counts["before_ignored"]) == (1, 1, 1)
    assert (counts["after_positives"], counts["after_negatives"], counts["after_ignored"]) == (2, 1, 0)
    assert counts["before_iou_95"] == 1 and counts["after_iou_95"] == 2


# Gradient routes


def reached(model: Any, names: tuple[str, ...]) -> set[str]:
    """Parts whose parameters get a gradient of some of the losses."""
    model.zero_grad()
    losses = model.losses(batch())
    torch.autograd.backward(torch.stack([losses[name] for name in names]).sum())
    touched = {name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()}
    groups = {
        "score": ".score.", "adjust": ".adjust.", "head": "heads.", "offsets": ".offsets.", "neck": "neck.",
        "backbone": "backbone.",
    }  # fmt: skip
    return {group for group, part in groups.items() if any(part in name for name in touched)}


def test_where_gradients_go() -> None:
    apm, detection = ("apm_classification", "apm_bbox_regression"), ("classification", "bbox_regression")
    model = detector("full")
    assert reached(model, apm) == {"score", "adjust", "neck", "backbone"}
    assert reached(model, detection) == {"head", "offsets", "neck", "backbone"}, "offset convolutions still at 0"
    for head in model.heads:
        if head.fam.offsets is not None:
            randomised(head.fam.offsets)
    assert reached(model, detection) == {"adjust", "head", "offsets", "neck", "backbone"}, "through X_l, X_s"
    assert reached(detector("cr"), detection) == {"head", "neck", "backbone"}, "not through promoted boxes, nor p"


def test_absent_branches_drop_their_terms() -> None:
    one = batch()
    box = {"classification", "bbox_regression"}
    assert detector("base").losses(one).keys() == box
    assert detector("c").losses(one).keys() == box | {"apm_classification"}
    assert detector("r").losses(one).keys() == box | {"apm_bbox_regression"}
    assert len(detector("full").losses(one)) == 4


# Counts


@pytest.mark.parametrize("row", ["base", "c", "r", "cr"])
def test_counts_add_up(row: str) -> None:
    model, one = detector(row), batch(4, 5)
    if row in ("c", "cr"):
        for apm in model.apms:
            nn.init.constant_(apm.score.bias, -4.5)  # near θ: some above, some below
    model.losses(one)
    counts = {name: value.item() for name, value in model.counts.observe().items()}
    total = model.eval().anchor_count(torch.zeros(1, 3, SIDE, SIDE))
    for side in ("before", "after"):
        kinds = [counts[f"{side}_{kind}"] for kind in ("positives", "negatives", "ignored")]
        assert sum(kinds) + (counts["after_dropped"] if side == "after" else 0) == pytest.approx(total)
        assert sum(value for name, value in counts.items() if name.startswith(f"{side}_iou")) <= kinds[0]
    assert (counts["after_dropped"] > 0) == (row in ("c", "cr"))
    if row in ("base", "c"):
        assert counts["before_positives"] == counts["after_positives"]


def test_counts_by_iou_are_a_histogram() -> None:
    model, one = detector("r"), batch(4, 5)
    model.losses(one)
    found, anchors = model.predict(one)  # train mode: the same batch statistics
    counts = {name: value.item() for name, value in model.counts.observe().items()}
    for side, boxes in (("before", anchors), ("after", CODER.decode(found.x, anchors).detach())):
        matched = match(model.settings.assignment, boxes, one.boxes, one.labels)
        values = [iou(a[None, None], b[None, None]).item() for a, b in zip(matched.boxes, matched.anchors, strict=True)]
        for lower in range(50, 100, 5):
            inside = sum(lower <= 100 * value < lower + 5 for value in values)
            assert counts[f"{side}_iou_{lower}"] == pytest.approx(inside / 4), (side, lower)


# Inference


def test_soft_nms_order() -> None:
    """Linear, N_t = 0.3 (sec. 3.3): 1, 4, 5, 2, 3."""
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 5], [5, 0, 15, 10], [6, 0, 16, 10], [40, 40, 50, 50]]])
    post = PostProcess(score_threshold=0.01, per_level=None, per_class=1000, nms=Soft(method="linear"), per_image=300)
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5]])
    found = select(Candidates(boxes, scores, torch.zeros(1, 5, dtype=torch.long)), post)
    kept = found.labels[0] >= 0
    assert found.scores[0, kept].tolist() == pytest.approx([0.9, 0.6, 0.5, 0.4, 0.084848], abs=1e-6)
    assert found.boxes[0, kept].tolist() == boxes[0, [0, 3, 4, 1, 2]].tolist()


def test_anchors_below_theta_detect_nothing() -> None:
    post = PostProcess(score_threshold=0.0, per_level=None, per_image=1000)
    model, one = detector("cr").eval(), batch()
    for apm in model.apms:
        nn.init.constant_(apm.score.bias, -30.0)
    with torch.inference_mode():
        assert (model.detect(one, post).labels == -1).all()
    open_gate = detector("cr", scoring={"threshold": 0.0}).eval()
    open_gate.load_state_dict(model.state_dict())
    with torch.inference_mode():
        assert (open_gate.detect(one, post).labels >= 0).any()


def test_detections_are_refined_promoted_anchors() -> None:
    """The one detection left by a threshold that only the best pair passes."""
    model, one = detector("r").eval(), batch(1)
    with torch.inference_mode():
        found, anchors = model.predict(one)
        scores = found.c.softmax(-1)[0, :, 1:]
        best = int(scores.flatten().argmax())
        anchor, label = best // CLASSES, best % CLASSES
        box = CODER.decode(found.t[0, anchor], CODER.decode(found.x[0, anchor], anchors[anchor])).clamp(0, SIDE)
        top = scores.flatten().topk(2).values
        detections = model.detect(one, PostProcess(score_threshold=top.mean().item(), per_level=None))
    assert (detections.labels[0] >= 0).sum() == 1 and detections.labels[0, 0] == label
    torch.testing.assert_close(detections.boxes[0, 0], box)
    assert detections.scores[0, 0].item() == pytest.approx(top[0].item())


# Bad input


@pytest.mark.parametrize("kind", ["Explicit", "Disentangled"])
@pytest.mark.parametrize("rest", [{}, {"scoring": {}}])
def test_guided_offsets_need_an_adjustment(kind: str, rest: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=f"alignment padet.{kind} reads what APM_R predicts, and there is none"):
        settings("base", alignment={"kind": f"padet.{kind}"}, **rest)
    assert settings("base", alignment={"kind": "padet.Implicit"}, **rest).alignment is not None


@pytest.mark.parametrize("threshold", [-0.1, 1.0, 1.5, float("nan")])
def test_theta_is_below_1(threshold: float) -> None:
    with pytest.raises(ValidationError, match=r"scoring\.threshold"):
        settings("c", scoring={"threshold": threshold})


def without_truth(one: Batch, images: list[int]) -> Batch:
    labels = one.labels.clone()
    labels[images] = -1
    boxes = one.boxes.clone()
    boxes[images] = 0
    return Batch(**{**vars(one), "labels": labels, "boxes": boxes})


@pytest.mark.parametrize("row", ["base", "full"])
def test_images_without_truth_train(row: str) -> None:
    some, none = without_truth(batch(), [0]), without_truth(batch(), [0, 1])
    empty = Batch(**{**vars(batch()), "labels": torch.zeros(2, 0, dtype=torch.long), "boxes": torch.zeros(2, 0, 4)})
    for one in (some, none, empty):
        model = detector(row)
        losses = model.losses(one)
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        assert all(value.isfinite() for value in losses.values())
        gradients = [value.grad for value in model.parameters() if value.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert all(value.isfinite() for value in model.counts.observe().values())
    assert losses["bbox_regression"] == 0 and losses["classification"] > 0


def test_a_truth_smaller_than_any_anchor_is_matched() -> None:
    model = settings()
    anchors = grid(model.anchors, (8, 4, 2, 1), SIDE)
    tiny = around((30, 30, 1, 1), (31, 31, 0.5, 2))[None]
    found = match(model.assignment, anchors, tiny, torch.tensor([[0, 1]]))
    assert sorted(found.matches[found.matches >= 0].tolist()) == [0, 1]
    assert (found.overlaps < 0.1).all()


def test_ties_have_one_outcome() -> None:
    """Equal IoUs and equal scores: the same result on every run and for either order of images."""
    torch.manual_seed(0)
    model = detector("cr").eval()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    one = batch(2, 3)
    twin = torch.cat((one.boxes[:, :1], one.boxes[:, :1], one.boxes[:, :1]), dim=1)  # the same truth three times
    same = Batch(**{**vars(one), "boxes": twin[[0, 0]], "labels": one.labels[[0, 0]]})
    anchors = grid(model.settings.anchors, (8, 4, 2, 1), SIDE)
    first = match(model.settings.assignment, anchors, same.boxes, same.labels)
    again = match(model.settings.assignment, anchors, same.boxes, same.labels)
    assert torch.equal(first.matches, again.matches) and torch.equal(first.matches[0], first.matches[1])
    assert {0, 1, 2} <= set(first.matches[0].tolist()), "each truth has an anchor of its own"
    post = PostProcess(score_threshold=0.0, per_level=None, per_class=50, nms=Soft(method="linear"), per_image=20)
    with torch.inference_mode():
        runs = [model.detect(one, post) for _ in range(2)]
    assert torch.equal(runs[0].boxes, runs[1].boxes) and torch.equal(runs[0].labels, runs[1].labels)
    assert torch.equal(runs[0].boxes[0], runs[0].boxes[1]), "images alike have detections alike"


def test_runs_in_mixed_precision_and_channels_last() -> None:
    model, one = detector().to(memory_format=torch.channels_last), batch()  # type: ignore[call-overload]
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.losses(one)
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    assert all(value.isfinite() and value.dtype == torch.float32 for value in losses.values())


def test_any_backbone() -> None:
    model = detector("full", backbone={"kind": "vgg.Vgg", "depth": 11, "levels": ["conv4", "conv5"]})
    assert all(value.isfinite() for value in model.losses(batch()).values())
