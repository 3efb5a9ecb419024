"""One grey channel for networks that were made for three colours."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

GREY_MEAN = 0.449
GREY_STD = 0.226


@dataclass(frozen=True)
class ColourScale:
    """How a network was trained to see red, green and blue in [0, 1]: as `(colour - mean) / std`."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = ColourScale((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def normalise(images: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """Grey values centred and scaled, padding set to zero (the mean); float32 (B, 1, H, W)."""
    batch = images.float().div_(255) if images.dtype == torch.uint8 else images.clone()
    batch.sub_(GREY_MEAN).div_(GREY_STD)
    for place, (rows, columns) in enumerate(sizes):
        batch[place, :, rows:, :] = 0
        batch[place, :, :, columns:] = 0
    return batch


def fold_grey_stem(weight: Tensor, colour: ColourScale = IMAGENET) -> tuple[Tensor, Tensor]:
    """A first convolution for three colour channels, rewritten for one grey channel.

    A grey image fed to a colour network as three equal channels, each normalised by the
    mean and deviation it was trained with, gives `sum_c w_c * (x - m_c) / s_c`. With the grey image
    normalised by `GREY_MEAN` m and `GREY_STD` s this is `sum_c (w_c s / s_c) * x'` plus the
    constant `sum_c w_c (m - m_c) / s_c`: the same answer from a third of the memory and
    arithmetic. Exact except within half a kernel of the border, where zero padding stands
    for slightly different greys.

    Args:
        weight: (O, 3, K, K).
        colour: The normalisation that the weights were trained with.

    Returns:
        Weight (O, 1, K, K) and bias (O,).
    """
    mean = torch.tensor(colour.mean, dtype=weight.dtype, device=weight.device).view(1, 3, 1, 1)
    std = torch.tensor(colour.std, dtype=weight.dtype, device=weight.device).view(1, 3, 1, 1)
    grey = (weight * (GREY_STD / std)).sum(dim=1, keepdim=True)
    bias = (weight * ((GREY_MEAN - mean) / std)).sum(dim=(1, 2, 3))
    return grey, bias


def grey_stem(conv: nn.Conv2d, colour: ColourScale = IMAGENET) -> nn.Conv2d:
    """The same convolution on one channel, with a bias to hold the folded normalisation."""
    grey = copy.deepcopy(conv)  # of its own class, which may pad in a way of its own
    grey.in_channels = 1
    weight, bias = fold_grey_stem(conv.weight.detach(), colour)
    grey.weight = nn.Parameter(weight)
    grey.bias = nn.Parameter(bias if conv.bias is None else bias + conv.bias.detach())
    return grey
