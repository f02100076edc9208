"""What a model costs before anyone trains it: parameters and multiply-accumulates (MACs)."""

import copy
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
import torchvision  # registers torchvision::deform_conv2d  # noqa: F401
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten


def parameters(module: nn.Module) -> int:
    """Number of weights and biases, frozen or not, those of the norms included, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def macs(module: nn.Module, *inputs: Tensor) -> int:
    """Multiply-accumulates of one forward pass in evaluation mode, on the meta device: nothing is computed.

    Convolutions (deformable ones too), linear layers, matrix products and attention count, element-wise work does
    not: the field's usual MACs, 4.09 G for ResNet-50 at 224. `module` stays as it is.
    """
    with _usual() as counter:
        _pass(module, inputs)
    return int(counter.get_total_flops()) // 2


def ptflops_macs(module: nn.Module, *inputs: Tensor) -> int:
    """MACs as the tool ptflops counts the modules of a network, which many papers print: `macs`, and on top of them
    biases (1 for each output value), BatchNorm (2), ReLU and ReLU6 (1), and pooling over H and W (1 for each value of
    its input). A ReLU of a sum is left out: residual blocks commonly make it on the fly, where no module is seen.
    """
    more = _Elementwise()
    with _usual() as counter, more:
        _pass(module, inputs)
    return int(counter.get_total_flops()) // 2 + more.total


def _usual() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping={torch.ops.torchvision.deform_conv2d: _deform_conv_flops})


def _pass(module: nn.Module, inputs: Sequence[Tensor]) -> None:
    shadow = copy.deepcopy(module).to("meta").eval()
    with torch.no_grad():
        shadow(*(tensor.to("meta") for tensor in inputs))


def _deform_conv_flops(x: Any, weight: Any, *others: object, out_shape: Any, **options: object) -> int:
    """2 × MACs of the convolution proper, as of an ordinary one; the bilinear sampling is element-wise work."""
    return 2 * int(prod(out_shape)) * int(prod(weight[1:]))


class _Elementwise(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types for this one
    """Adds up what `ptflops_macs` counts on top of `macs`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self.before: object = None

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        operation = func.overloadpacket
        of_a_sum = operation in RELUS and self.before in (aten.add, aten.add_)
        if operation in COUNTED and not of_a_sum:
            self.total += COUNTED[operation](args, out)
        self.before = operation
        return out


def _inputs(args: Any, out: Any) -> int:
    return int(args[0].numel())


def _pooled(args: Any, out: Any) -> int:
    """The values of a mean or maximum over H and W of [B, C, H, W]; over anything else, none."""
    axes = sorted(axis % 4 for axis in args[1]) if args[0].ndim == 4 and len(args) > 1 else ()
    return _inputs(args, out) if axes == [2, 3] else 0


RELUS = (aten.relu, aten.relu_, aten.hardtanh, aten.hardtanh_)
COUNTED: Mapping[Any, Callable[[Any, Any], int]] = {
    aten.convolution: lambda args, out: 0 if args[2] is None else int(out.numel()),
    aten.addmm: lambda args, out: int(out.numel()),
    aten.native_batch_norm: lambda args, out: 2 * _inputs(args, out),
    aten.mean: _pooled,
    aten.amax: _pooled,
    aten.max_pool2d_with_indices: _inputs,
    aten.avg_pool2d: _inputs,
    aten.adaptive_max_pool2d: _inputs,
    **dict.fromkeys(RELUS, _inputs),
}
