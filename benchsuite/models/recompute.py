"""Activations that are made again in the backward pass instead of kept (Chen et al., arXiv 1604.06174): much less
memory for up to a third more time, and equal numbers."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck


def spare(network: nn.Module) -> None:
    """Let every residual block, and every module that says `recomputed = True`, keep its inputs alone while it trains.
    In place; a block within another one is spared while that one is made again."""
    for module in network.modules():
        if isinstance(module, (BasicBlock, Bottleneck)) or getattr(module, "recomputed", False):
            module.forward = _Again(module)


class _Again:
    """Stands for the `forward` of a module."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.usual = module, module.forward

    def __call__(self, *inputs: Any) -> Any:
        if not (self.module.training and torch.is_grad_enabled()):
            return self.usual(*inputs)
        return checkpoint(self.usual, *inputs, use_reentrant=False, context_fn=self._contexts)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        norms = [each for each in self.module.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
        return nullcontext(), _still([norm for norm in norms if norm.training and norm.track_running_stats])


@contextmanager
def _still(norms: Sequence[Any]) -> Iterator[None]:
    """Running statistics have seen the batch in the forward pass; they stay as they are."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, seen) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, seen
