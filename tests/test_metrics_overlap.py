import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from metric_cases import random_case
from torchvision.ops import box_iou

from benchsuite.metrics.overlap import iou, met, pairs


def xywh(*boxes):
    return np.array(boxes, float).reshape(-1, 4)


@given(st.integers(0, 2**32))
def test_iou_is_torchvisions(seed):
    rng = np.random.default_rng(seed)
    low, side = rng.integers(-9, 9, (2, 7, 2)), rng.integers(0, 9, (2, 7, 2))
    boxes = np.concatenate([low, side], axis=2).astype(float)
    corners = torch.from_numpy(np.concatenate([low, low + side], axis=2)).double()
    expected = box_iou(corners[0], corners[1]).nan_to_num(0).numpy()
    assert iou(boxes[0][:, None], boxes[1][None]) == pytest.approx(expected)


def test_of_a_crowd_it_is_the_share_that_lies_in_it():
    small, large = xywh((0, 0, 2, 2)), xywh((1, 0, 10, 10))
    assert iou(small, large) == pytest.approx([2 / 102])
    assert iou(small, large, crowd=np.array([True])) == pytest.approx([0.5])


def test_boxes_meet_their_class_at_half_overlap():
    truth, found = xywh((0, 0, 10, 10), (20, 20, 10, 10)), xywh((0, 0, 10, 5), (20, 20, 10, 10), (0, 0, 10, 4.9))
    labels, found_labels, none = np.array([0, 1]), np.array([0, 0, 0]), np.zeros(0, int)
    assert met(found, found_labels, truth, labels).tolist() == [True, False, False]
    assert met(truth, labels, found, found_labels).tolist() == [True, False]
    assert met(xywh(), none, truth, labels).tolist() == []
    assert met(truth, labels, xywh(), none).tolist() == [False, False]


@given(st.integers(0, 2**32))
def test_pairs_are_those_of_one_image_and_class(seed):
    data, found = random_case(seed)
    images = found.images(data)
    owner = [index for index in range(len(data)) for _ in range(data.rows(index).start, data.rows(index).stop)]
    expected = [
        (d, t)
        for d in range(len(found))
        for t in range(len(data.boxes))
        if images[d] == owner[t] and found.labels[d] == data.labels[t]
    ]
    near = pairs(data, images, found.labels)
    assert list(zip(near.detections.tolist(), near.boxes.tolist(), strict=True)) == expected
