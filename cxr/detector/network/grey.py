"""One grey channel for networks that were made for three colours."""

from __future__ import annotations

import torch
from torch import Tensor, nn

RGB_MEAN = (0.485, 0.456, 0.406)
RGB_STD = (0.229, 0.224, 0.225)
GREY_MEAN = 0.449
GREY_STD = 0.226


def normalise(images: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """Grey values centred and scaled, padding set to zero (the mean); float32 (B, 1, H, W)."""
    batch = images.float().div_(255) if images.dtype == torch.uint8 else images.clone()
    batch.sub_(GREY_MEAN).div_(GREY_STD)
    for place, (rows, columns) in enumerate(sizes):
        batch[place, :, rows:, :] = 0
        batch[place, :, :, columns:] = 0
    return batch


def fold_grey_stem(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A first convolution for three colour channels, rewritten for one grey channel.

    A grey image fed to a colour network as three equal channels, each normalised by
    ImageNet's mean and deviation, gives `sum_c w_c * (x - m_c) / s_c`. With the grey image
    normalised by `GREY_MEAN` m and `GREY_STD` s this is `sum_c (w_c s / s_c) * x'` plus the
    constant `sum_c w_c (m - m_c) / s_c`: the same answer from a third of the memory and
    arithmetic. Exact except within half a kernel of the border, where zero padding stands
    for slightly different greys.

    Args:
        weight: (O, 3, K, K).

    Returns:
        Weight (O, 1, K, K) and bias (O,).
    """
    mean = torch.tensor(RGB_MEAN, dtype=weight.dtype, device=weight.device).view(1, 3, 1, 1)
    std = torch.tensor(RGB_STD, dtype=weight.dtype, device=weight.device).view(1, 3, 1, 1)
    grey = (weight * (GREY_STD / std)).sum(dim=1, keepdim=True)
    bias = (weight * ((GREY_MEAN - mean) / std)).sum(dim=(1, 2, 3))
    return grey, bias


def grey_stem(conv: nn.Conv2d) -> nn.Conv2d:
    """The same convolution on one channel, with a bias to hold the folded normalisation."""
    kernel, stride, padding = conv.kernel_size, conv.stride, conv.padding
    grey = nn.Conv2d(
        1,
        conv.out_channels,
        (kernel[0], kernel[1]),
        (stride[0], stride[1]),
        (int(padding[0]), int(padding[1])),
    )
    with torch.no_grad():
        weight, bias = fold_grey_stem(conv.weight)
        grey.weight.copy_(weight)
        assert grey.bias is not None
        grey.bias.copy_(bias if conv.bias is None else bias + conv.bias)
    return grey
