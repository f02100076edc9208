import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torchvision.models.detection._utils import Matcher as TorchvisionMatcher
from torchvision.ops import box_iou

from benchsuite.models import matcher
from benchsuite.models.anchors import PyramidAnchors
from benchsuite.models.boxes import iou
from benchsuite.models.matcher import BACKGROUND, IGNORED, Matcher, OneToOne
from benchsuite.models.memory import Alive

ANCHORS = PyramidAnchors().grid(((8, 8), (4, 4)), (8, 16), (64, 64), torch.device("cpu"))


def some_boxes(generator: torch.Generator, count: int) -> Tensor:
    corners = torch.rand(count, 2, generator=generator) * 50
    return torch.cat((corners, corners + 2 + 40 * torch.rand(count, 2, generator=generator)), dim=1)


@given(st.integers(0, 10_000), st.lists(st.integers(1, 5), min_size=1, max_size=3), st.booleans())
def test_equals_torchvision_image_by_image(seed: int, counts: list[int], force_best: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = [some_boxes(generator, count) for count in counts]
    boxes = torch.nn.utils.rnn.pad_sequence(images, batch_first=True)
    labels = torch.nn.utils.rnn.pad_sequence([torch.ones(n).long() for n in counts], True, padding_value=-1)
    reference = TorchvisionMatcher(0.5, 0.4, allow_low_quality_matches=force_best)
    expected = torch.stack([reference(box_iou(image, ANCHORS)) for image in images])
    assert torch.equal(Matcher(force_best=force_best).match(ANCHORS, boxes, labels), expected)


def test_thresholds() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10]])
    found = [
        Matcher(force_best=False).match(anchors, torch.tensor([[[0.0, 0, 10, side]]]), torch.zeros(1, 1).long()).item()
        for side in (10, 5, 4.9, 4, 3.9)
    ]
    assert found == [0, 0, IGNORED, IGNORED, BACKGROUND]


@pytest.mark.parametrize("force_best", [True, False])
def test_padding_matches_nothing(force_best: bool) -> None:
    boxes = torch.tensor([[[0.0, 0, 32, 32], [0, 0, 32, 32], [0, 0, 0, 0]]])
    match = Matcher(force_best=force_best).match
    assert (match(ANCHORS, boxes, torch.tensor([[-1, -1, -1]])) == BACKGROUND).all()
    assert match(ANCHORS, boxes, torch.tensor([[-1, 5, -1]])).max() == 1
    assert match(ANCHORS, boxes[:, :0], torch.zeros(1, 0).long()).tolist() == [[BACKGROUND] * len(ANCHORS)]


def test_box_that_meets_no_anchor_forces_none() -> None:
    far = torch.tensor([[[900.0, 900, 910, 910]]])
    assert Matcher().match(ANCHORS, far, torch.zeros(1, 1).long()).max() == BACKGROUND


# --- one to one


def grown(seed: int, images: int, boxes: int) -> tuple[Tensor, Tensor]:
    """Boxes on a coarse grid, so that many overlaps are equal, of which some are padding."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 7, (images, boxes, 2), generator=generator) * 8.0
    sides = torch.randint(1, 6, (images, boxes, 2), generator=generator) * 8.0
    return torch.cat((corners, corners + sides), dim=2), torch.randint(-1, 2, (images, boxes), generator=generator)


def naive_one_to_one(anchors: Tensor, boxes: Tensor, labels: Tensor, settings: OneToOne) -> list[int]:
    """One image, pair by pair."""
    overlaps = box_iou(boxes, anchors)
    real = [row for row in range(len(boxes)) if labels[row] >= 0]
    found = []
    for place in range(len(anchors)):
        best, row = max(((overlaps[row, place].item(), -row) for row in real), default=(0.0, 0))
        joined = best > settings.positive if settings.strict else best >= settings.positive
        found.append(-row if joined else BACKGROUND if best < settings.negative else IGNORED)
    free, open_ = set(range(len(anchors))), set(real)
    while open_:
        value, row, place = max((overlaps[row, place].item(), -row, -place) for row in open_ for place in free)
        if value <= 0:
            break
        found[-place] = -row
        free.remove(-place)
        open_.remove(-row)
    return found


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(0, 6), st.booleans(), st.booleans())
def test_one_to_one_equals_a_greedy_loop_with_ties(
    seed: int, images: int, boxes: int, strict: bool, moving: bool
) -> None:
    truth, labels = grown(seed, images, boxes)
    own = grown(seed + 1, images, 9)[0]  # fewer anchors than some boxes would like
    anchors = own if moving else own[0]
    settings = OneToOne(positive=0.5, negative=0.3, strict=strict)
    expected = [
        naive_one_to_one(own[image] if moving else own[0], truth[image], labels[image], settings)
        for image in range(images)
    ]
    assert settings.match(anchors, truth, labels).tolist() == expected


def test_boxes_that_want_one_anchor_share() -> None:
    """Matcher's forcing gives both boxes the first anchor, and so the second box nothing."""
    anchors = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [30, 0, 40, 10]])
    boxes = torch.tensor([[[0.0, 0, 10, 2], [0, 0, 10, 3], [90, 90, 95, 95]]])
    found = OneToOne(positive=0.9, negative=0.1).match(anchors, boxes, torch.tensor([[0, 0, 0]]))
    assert found.tolist() == [[1, 0, BACKGROUND]], "what meets no anchor takes none"


def test_strict_leaves_out_the_threshold() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])
    boxes, labels = torch.tensor([[[0.0, 0, 10, 10]]]), torch.zeros(1, 1).long()
    assert OneToOne().match(anchors, boxes, labels).tolist() == [[0, 0]]
    assert OneToOne(strict=True, negative=0.3).match(anchors, boxes, labels).tolist() == [[0, IGNORED]]


@pytest.mark.parametrize("settings", [Matcher(), OneToOne()])
@pytest.mark.parametrize("moving", [True, False])
def test_large_batches_are_matched_image_by_image(
    settings: Matcher | OneToOne, moving: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes, labels = grown(3, 4, 5)
    anchors = grown(4, 4, 50)[0] if moving else grown(4, 1, 50)[0][0]
    whole = settings.match(anchors, boxes, labels)
    sizes = []
    monkeypatch.setattr(matcher, "iou", lambda *given: sizes.append(iou(*given).numel()) or iou(*given))
    monkeypatch.setattr(matcher, "LARGEST", 4 * 5 * 50 - 1)
    assert torch.equal(settings.match(anchors, boxes, labels), whole)
    assert sizes == [5 * 50] * 4


@pytest.mark.parametrize("moving", [True, False])
def test_at_full_size_little_is_held(moving: bool) -> None:
    """16 images of 800×1333, 60 boxes each, 201,600 anchors: 2.9 GiB of overlaps and their like if taken at once."""
    with torch.device("meta"):
        anchors = torch.empty(16, 201_600, 4) if moving else torch.empty(201_600, 4)
        boxes, labels = torch.empty(16, 60, 4), torch.empty(16, 60, dtype=torch.long)
    with Alive((anchors, boxes, labels)) as alive:
        Matcher().match(anchors, boxes, labels)
    assert 0.05 * 2**30 < alive.most <= 0.4 * 2**30


def test_refuses() -> None:
    with pytest.raises(ValidationError, match=r"negative 0\.6 is above positive 0\.5"):
        Matcher(negative=0.6)
    with pytest.raises(ValidationError):
        Matcher(positive=1.5)
