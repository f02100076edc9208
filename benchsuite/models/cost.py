"""What a model costs before anyone trains it: parameters and multiply-accumulates (MACs)."""

import copy
from math import prod
from typing import Any

import torch
import torchvision  # registers torchvision::deform_conv2d  # noqa: F401
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(module: nn.Module) -> int:
    """Number of weights and biases, frozen or not, those of the norms included, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def macs(module: nn.Module, *inputs: Tensor) -> int:
    """Multiply-accumulates of one forward pass in evaluation mode, on the meta device: nothing is computed.

    Convolutions (deformable ones too), linear layers, matrix products and attention count, element-wise work does
    not: the field's usual MACs, 4.09 G for ResNet-50 at 224. `module` stays as it is.
    """
    shadow = copy.deepcopy(module).to("meta").eval()
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.torchvision.deform_conv2d: _deform_conv_flops})
    with torch.no_grad(), counter:
        shadow(*(tensor.to("meta") for tensor in inputs))
    return int(counter.get_total_flops()) // 2


def _deform_conv_flops(x: Any, weight: Any, *others: object, out_shape: Any, **options: object) -> int:
    """2 × MACs of the convolution proper, as of an ordinary one; the bilinear sampling is element-wise work."""
    return 2 * int(prod(out_shape)) * int(prod(weight[1:]))
