"""A running average of a network's weights, which usually predicts better than the last step."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Net = TypeVar("Net", bound=nn.Module)


class WeightAverage(nn.Module, Generic[Net]):
    """The exponential moving average of a network, a network itself.

    Early on the average follows faster: at step t its decay is at most `(1 + t) / (10 + t)`.

    Args:
        net: The network to follow; the average starts as a copy.
        decay: Share of the old average that stays at each step, in [0, 1).
    """

    def __init__(self, net: Net, *, decay: float) -> None:
        super().__init__()
        self.net: Net = copy.deepcopy(net).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """Take in the network after optimiser step number `step` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        old, new = list(self.net.state_dict().values()), list(net.state_dict().values())
        pairs = [(a, b) for a, b in zip(old, new, strict=True) if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in pairs], [b for _, b in pairs], 1 - decay)
        for a, b in zip(old, new, strict=True):
            if not a.is_floating_point():
                a.copy_(b)
