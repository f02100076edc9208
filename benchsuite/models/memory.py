"""What memory a training step takes, told from shapes: on the meta device nothing is computed and nothing held.

What is counted are the tensors that are alive at once, in the forward pass and in the backward pass that really follow
each other. Not counted: what a kernel needs while it works, what the allocator cannot use for its holes, and matching.
"""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchsuite.models.detector import Trainable


@dataclass(frozen=True)
class Footprint:
    """Bytes of a training step.

    weights    parameters and buffers
    momentum   and what else is kept from step to step
    gradients  of the parameters that train
    kept       for the backward pass, when it begins
    peak       all that is alive at most
    """

    weights: int
    momentum: int
    gradients: int
    kept: int
    peak: int


def footprint(
    network: Trainable[Any], images: int, frame: tuple[int, int], several: bool = False, averaged: bool = False
) -> Footprint:
    """Of a step of SGD with momentum on `images` of `frame` (height, width), by a network on the meta device. Of
    `several` processes, each also has the gradients in the buckets in which they are added up. Where weights are
    `averaged`, the mean is kept beside them."""
    shown = torch.empty(images, 3, *frame, device="meta")
    trained = [value for value in network.parameters() if value.requires_grad]
    held = [*network.parameters(), *network.buffers()]
    weights, gradients = size(held), size(trained)
    with Alive(held) as alive:
        alive.take(shown)
        loss = network.train().imagined(shown)
        kept = alive.now
        loss.backward()  # type: ignore[no-untyped-call]
    between = gradients + (weights if averaged else 0)
    peak = weights + between + alive.most + (gradients if several else 0)
    return Footprint(weights, between, gradients, kept, peak)


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors that share none."""
    return sum(each.numel() * each.element_size() for each in tensors)


class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types for this one
    """Bytes of the tensors that were made within and are alive: `now`, and `most` at once. What shares memory with
    those that were there `before` is none of them."""

    def __init__(self, before: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self.known = {each.untyped_storage()._cdata for each in before}

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, Tensor):
                self.take(each)
        return out

    def take(self, tensor: Tensor) -> None:
        """Count one, unless it is part of what is counted."""
        storage = tensor.untyped_storage()
        if storage._cdata in self.known:
            return
        self.known.add(storage._cdata)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._drop, storage._cdata, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size
