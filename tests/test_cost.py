import pytest
import torch
from torch import nn
from torchvision.models import resnet50
from torchvision.ops import DeformConv2d

from benchsuite.models.cost import macs, parameters


def test_resnet50():
    with torch.device("meta"):
        model = resnet50()
    assert parameters(model) == 25_557_032
    assert macs(model, torch.empty(1, 3, 224, 224)) == 4_089_184_256


def test_by_hand():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 5)
    )
    assert parameters(model) == 3 * 8 * 9 + 2 * 8 + (8 * 36 * 5 + 5)
    assert macs(model, torch.empty(1, 3, 6, 6)) == 36 * 3 * 8 * 9 + 8 * 36 * 5


def test_frozen_parameters_count_and_shared_ones_once():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, shared).requires_grad_(False)
    assert parameters(model) == 20


@pytest.mark.parametrize("groups", [1, 2])
def test_deformable_convolution_counts_as_an_ordinary_one(groups):
    class Deformable(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = DeformConv2d(4, 6, 3, padding=1, groups=groups)

        def forward(self, x):
            return self.conv(x, x.new_zeros(len(x), 18, *x.shape[2:]))

    x = torch.empty(2, 4, 5, 7)
    ordinary = nn.Conv2d(4, 6, 3, padding=1, groups=groups)
    assert macs(Deformable(), x) == macs(ordinary, x) == 2 * 35 * 6 * (4 // groups) * 9


def test_the_module_stays_as_it_is():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    macs(model, torch.ones(2, 3))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
