"""NMS, Soft-NMS and voting against published numbers, naive loops and each other."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torchvision.ops import box_iou

from benchsuite.data.batch import Detections
from benchsuite.models import soft_nms as module
from benchsuite.models.boxes import iou
from benchsuite.models.postprocess import Candidates, Hard, Nms, PostProcess, Soft, Voting, select
from benchsuite.models.soft_nms import segments

SHARED = Path(__file__).parents[2] / "shared" / "data" / "evalvec" / "soft_nms" / "vector.json"
shared = pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED.name} of evalvec/soft_nms is not here")
CASE = json.loads((Path(__file__).parent / "fixtures" / "soft_nms" / "case.json").read_text())

# har-net.spec 7.12
PAIR = torch.tensor([[0.0, 0, 100, 100], [4, 0, 104, 100]]), torch.tensor([0.9, 0.6])


def ordered(nms: Nms, boxes: Tensor, scores: Tensor, groups: Tensor | None = None) -> tuple[list[int], Tensor]:
    """Kept indices and scores, by falling score."""
    groups = torch.zeros(len(scores), dtype=torch.long) if groups is None else groups
    kept, values = nms.suppress(boxes, scores, groups)
    values, order = values.sort(descending=True)
    return kept[order].tolist(), values


def naive(boxes: Tensor, scores: Tensor, groups: Tensor, soft: Soft) -> dict[int, float]:
    """Figure 2 of the Soft-NMS paper, one class after the other, in double precision."""
    found: dict[int, float] = {}
    overlaps = box_iou(boxes.double(), boxes.double()).nan_to_num().tolist()
    for group in torch.unique(groups).tolist():
        left = {i: float(scores[i]) for i in (groups == group).nonzero().flatten().tolist()}
        while left:
            best = max(left, key=lambda i: left[i])
            score = left.pop(best)
            if score < soft.floor:
                break
            found[best] = score
            for i in left:
                iou = overlaps[best][i]
                linear = 1 - iou if iou > soft.iou else 1
                left[i] *= math.exp(-(iou**2) / soft.sigma) if soft.method == "gaussian" else linear
    return found


def clustered(count: int, classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes around a few objects, as detections are."""
    g = torch.Generator().manual_seed(seed)
    objects = max(1, count // 6)
    at = torch.randint(objects, (count,), generator=g)
    centres = torch.rand(objects, 2, generator=g)[at] * 200 + torch.randn(count, 2, generator=g) * 6
    sides = (torch.rand(objects, 2, generator=g)[at] * 60 + 10) * torch.exp(torch.randn(count, 2, generator=g) * 0.2)
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], 1)
    labels = torch.randint(classes, (objects,), generator=g)[at]
    return boxes, torch.rand(count, generator=g) * 0.95 + 0.05, labels


def assert_equal_to_naive(soft: Soft, boxes: Tensor, scores: Tensor, groups: Tensor) -> None:
    kept, values = soft.suppress(boxes, scores, groups)
    found = dict(zip(kept.tolist(), values.tolist(), strict=True))
    assert len(found) == len(kept)
    expected = naive(boxes, scores, groups, soft)
    for i in found.keys() | expected.keys():  # a score on the edge of the floor may fall on either side
        assert found.get(i, soft.floor) == pytest.approx(expected.get(i, soft.floor), abs=1e-6)


def test_pair_of_har_net() -> None:
    boxes, scores = PAIR
    assert float(iou(boxes[None], boxes[None])[0, 0, 1]) == pytest.approx(0.923077, abs=1e-6)
    for method, expected in (("gaussian", 0.109157), ("linear", 0.046154)):
        kept, values = ordered(Soft(method=method), boxes, scores)
        assert kept == [0, 1]
        assert values.tolist() == pytest.approx([0.9, expected], abs=1e-6)
    assert ordered(Hard(), boxes, scores)[0] == [0]


@pytest.mark.parametrize("method", ["gaussian", "linear"])
def test_own_case(method: str) -> None:
    soft = Soft.model_validate({"method": method, "sigma": CASE["sigma"], "iou": CASE["iou"], "floor": CASE["floor"]})
    kept, values = ordered(soft, torch.tensor(CASE["boxes"], dtype=torch.float), torch.tensor(CASE["scores"]))
    assert kept == CASE["expected"][method]["index"]
    assert values.tolist() == pytest.approx(CASE["expected"][method]["scores"], abs=1e-6)


@shared
@pytest.mark.parametrize(
    ("name", "nms"),
    [("gaussian", Soft(floor=0.01)), ("linear", Soft(method="linear", floor=0.01)), ("naive", Hard(iou=0.3))],
)
def test_published_vector(name: str, nms: Nms) -> None:
    vector = json.loads(SHARED.read_text())
    kept, values = ordered(nms, torch.tensor(vector["boxes"], dtype=torch.float), torch.tensor(vector["scores"]))
    assert kept == vector["expected"][name]["inds"]
    assert values.tolist() == pytest.approx(vector["expected"][name]["scores"], abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(0, 120),
    classes=st.integers(1, 7),
    seed=st.integers(0, 2**31),
    method=st.sampled_from(["gaussian", "linear"]),
    pairs=st.sampled_from([0, 300, module.PAIRS]),
)
def test_soft_nms_equals_the_naive_loop(count: int, classes: int, seed: int, method: str, pairs: int) -> None:
    """Whether the factors of all pairs are made at once, when needed, or first one and then the other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAIRS", pairs)
        assert_equal_to_naive(Soft.model_validate({"method": method}), *clustered(count, classes, seed))


def test_one_long_class_among_short_ones() -> None:
    boxes, scores, groups = clustered(400, 30, 3)
    groups[:200] = 5
    assert_equal_to_naive(Soft(), boxes, scores, groups)


def test_ties_and_doubles() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [5, 0, 15, 10], [50, 50, 60, 60]])
    scores = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.5])
    kept, values = ordered(Soft(), boxes, scores)
    once = 0.5 * math.exp(-2)
    third = math.exp(-2 / 9)
    expected = [0.5, 0.5, 0.5 * third, once * third, once * math.exp(-2) * third]
    assert values.tolist() == pytest.approx(expected, abs=1e-6)
    assert kept[-2:] == [1, 2]
    assert_equal_to_naive(Soft(), boxes, scores, torch.zeros(5, dtype=torch.long))


def test_boxes_without_area_are_left_alone() -> None:
    boxes = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10]])
    _, values = ordered(Soft(), boxes, torch.tensor([0.9, 0.8, 0.7]))
    assert values.tolist() == pytest.approx([0.9, 0.8, 0.7])


@pytest.mark.parametrize("nms", [Hard(), Soft()])
def test_no_box_and_one_box(nms: Nms) -> None:
    assert ordered(nms, torch.zeros(0, 4), torch.zeros(0))[0] == []
    assert ordered(nms, PAIR[0][:1], PAIR[1][:1])[0] == [0]
    empty = select(Candidates(torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0).long()), PostProcess(nms=nms))
    assert empty.boxes.shape == (2, 100, 4) and bool((empty.labels == -1).all()) and not empty.scores.any()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), classes=st.integers(1, 4))
def test_hard_nms_equals_the_naive_loop(seed: int, classes: int) -> None:
    boxes, scores, groups = clustered(60, classes, seed)
    kept: list[int] = []
    overlaps = box_iou(boxes.double(), boxes.double())
    for i in scores.argsort(descending=True).tolist():
        if all(groups[i] != groups[j] or overlaps[i, j] <= 0.5 for j in kept):
            kept.append(i)
    assert ordered(Hard(), boxes, scores, groups << 32)[0] == kept


@pytest.mark.parametrize("nms", [Hard(), Soft()])
def test_select_treats_images_and_classes_apart(nms: Nms) -> None:
    """A batch gives what its images give alone, and classes do not meet."""
    cases = [clustered(50, 3, seed) for seed in range(4)]
    boxes, scores, labels = (torch.stack(part) for part in zip(*cases, strict=True))
    labels[2] = -1  # an image without candidates
    post = PostProcess(nms=nms, per_image=20, score_threshold=0.3)
    found = select(Candidates(boxes, scores, labels), post)
    for i in range(4):
        alone = select(Candidates(boxes[i : i + 1], scores[i : i + 1], labels[i : i + 1]), post)
        assert alone.boxes[0].equal(found.boxes[i]) and alone.scores[0].equal(found.scores[i])
        passed = (scores[i] > 0.3) & (labels[i] >= 0)
        kept, values = ordered(nms, boxes[i][passed], scores[i][passed], labels[i][passed])
        kept, values = kept[:20], values[:20]
        assert found.scores[i][: len(kept)].equal(values)
        assert found.boxes[i][: len(kept)].equal(boxes[i][passed][kept])
        assert found.labels[i].tolist() == labels[i][passed][kept].tolist() + [-1] * (20 - len(kept))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 12))
def test_the_best_of_each_class_alone_are_suppressed(seed: int, count: int) -> None:
    """Naive: of every image and class, keep the best and drop the rest by hand."""
    cases = [clustered(40, 3, seed + i) for i in range(2)]
    boxes, scores, labels = (torch.stack(part) for part in zip(*cases, strict=True))
    by_hand = labels.clone()
    for image in range(2):
        for label in range(3):
            own = [i for i in range(40) if labels[image, i] == label]
            for i in sorted(own, key=lambda i: (-float(scores[image, i]), i))[count:]:
                by_hand[image, i] = -1
    post = PostProcess(score_threshold=0.1)
    found = select(Candidates(boxes, scores, labels), post.model_copy(update={"per_class": count}))
    expected = select(Candidates(boxes, scores, by_hand), post)
    assert found.boxes.equal(expected.boxes) and found.scores.equal(expected.scores)
    assert found.labels.equal(expected.labels)


def test_threshold_is_exclusive_and_rows_are_padded() -> None:
    boxes = torch.tensor([[[0.0, 0, 1, 1], [5, 5, 6, 6], [8, 8, 9, 9]]])
    candidates = Candidates(boxes, torch.tensor([[0.5, 0.25, 0.75]]), torch.tensor([[1, 1, 0]]))
    found = select(candidates, PostProcess(score_threshold=0.25))
    assert found.labels[0].tolist() == [0, 1] + [-1] * 98
    assert found.scores[0].tolist() == [0.75, 0.5] + [0.0] * 98
    assert not found.boxes[0, 2:].any()


def test_voting_of_har_net() -> None:
    """har-net.spec 7.12: the mean moves the box, the decayed score stays."""
    boxes, scores = PAIR
    labels = torch.zeros(1, 2, dtype=torch.long)
    for score, expected in (("decayed", 0.9), ("max", 0.9), ("mean", 0.75)):
        post = PostProcess(nms=Soft(), vote=Voting.model_validate({"score": score}))
        found = select(Candidates(boxes[None], scores[None], labels), post)
        assert found.boxes[0, 0].tolist() == pytest.approx([1.6, 0, 101.6, 100], abs=1e-4)
        assert float(found.scores[0, 0]) == pytest.approx(expected)
        # Its only voter is used up: the second detection stays where it was.
        assert found.boxes[0, 1].tolist() == boxes[1].tolist()
        assert float(found.scores[0, 1]) == pytest.approx(0.109157, abs=1e-6)


def test_voting_one_box_is_the_identity() -> None:
    boxes, scores = PAIR
    found = select(
        Candidates(boxes[None, 1:], scores[None, 1:], torch.zeros(1, 1, dtype=torch.long)), PostProcess(vote=Voting())
    )
    assert found.boxes[0, 0].tolist() == pytest.approx(boxes[1].tolist())
    assert float(found.scores[0, 0]) == pytest.approx(0.6)


def naive_vote(found: Detections, boxes: Tensor, scores: Tensor, labels: Tensor, vote: Voting) -> list[list[float]]:
    used: set[int] = set()
    rows = []
    for box, score, label in zip(found.boxes[0], found.scores[0].tolist(), found.labels[0].tolist(), strict=True):
        voters = [
            i
            for i in range(len(scores))
            if label >= 0
            and i not in used
            and labels[i] == label
            and float(box_iou(box[None], boxes[i, None])) >= vote.iou
        ]
        used.update(voters)
        if voters:
            p = scores[voters]
            box = (p[:, None] * boxes[voters]).sum(0) / p.sum()
            score = {"decayed": score, "max": float(p.max()), "mean": float(p.mean())}[vote.score]
        rows.append([score, *box.tolist()])
    return sorted(rows, key=lambda row: -row[0])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), score=st.sampled_from(["decayed", "max", "mean"]))
def test_voting_equals_the_naive_walk(seed: int, score: str) -> None:
    boxes, scores, labels = clustered(40, 2, seed)
    vote = Voting.model_validate({"score": score})
    plain = PostProcess(nms=Soft(), per_image=30, score_threshold=0.0)
    found = select(Candidates(boxes[None], scores[None], labels[None]), plain)
    expected = naive_vote(found, boxes, scores, labels, vote)
    voted = select(Candidates(boxes[None], scores[None], labels[None]), plain.model_copy(update={"vote": vote}))
    rows = torch.cat([voted.scores[0, :, None], voted.boxes[0]], 1)
    torch.testing.assert_close(rows, torch.tensor(expected), rtol=1e-4, atol=1e-3)


def test_segments_rank_within_owners() -> None:
    order, rank = segments(torch.tensor([0.1, 0.9, 0.5, 0.5]), torch.tensor([7, 3, 7, 7]))
    assert order.tolist() == [1, 2, 3, 0] and rank.tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"nms": {"kind": "postprocess.Sotf"}},
        {"nms": {"kind": "postprocess.Soft", "floor": 0}},
        {"per_image": 0},
        {"per_level": 0},
        {"per_class": 0},
        {"detections": 5},
    ],
)
def test_refuses_wrong_settings(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PostProcess.model_validate(wrong)


def test_settings_are_read_by_kind() -> None:
    post = PostProcess.model_validate({"nms": {"kind": "postprocess.Soft", "method": "linear"}, "vote": {}})
    assert post == PostProcess(nms=Soft(method="linear"), vote=Voting())
