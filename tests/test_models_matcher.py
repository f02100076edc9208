import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torchvision.models.detection._utils import Matcher as TorchvisionMatcher
from torchvision.ops import box_iou

from benchsuite.models.anchors import PyramidAnchors
from benchsuite.models.matcher import BACKGROUND, IGNORED, Matcher

ANCHORS = PyramidAnchors().grid(((8, 8), (4, 4)), (8, 16), torch.device("cpu"))


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


def test_refuses() -> None:
    with pytest.raises(ValidationError, match=r"negative 0\.6 is above positive 0\.5"):
        Matcher(negative=0.6)
    with pytest.raises(ValidationError):
        Matcher(positive=1.5)
