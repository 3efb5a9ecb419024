"""OpenCV's resize of an 8-bit image as operations that ONNX has, equal to the last grey level.

A detector's answer changes with single grey levels: a score moves by up to 1e-3 where a few pixels are
rounded the other way. So this is OpenCV's own arithmetic, its order of additions and its roundings
included (`modules/imgproc/src/resize.cpp`: `computeResizeAreaTab`, `ResizeArea_Invoker`,
`resizeAreaFast_Invoker`, `HResizeLinear`, `VResizeLinear`), as its builds for x86 do it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

_COEFFICIENT_ONE = 2048.0
"""Linear weights are whole numbers of this unit, `INTER_RESIZE_COEF_SCALE`."""

_EPSILON = 2.0**-52


def resize(image: Tensor, size: Tensor) -> Tensor:
    """By area where the longer side shrinks, linearly where it grows, as `data.pixels.network_image`.

    Args:
        image: uint8 (rows, columns).
        size: int64 (2,), rows and columns wanted; the aspect is kept but for rounding.

    Returns:
        float32 (rows, columns) of whole numbers from 0 to 255.
    """
    shape = torch._shape_as_tensor(image)
    shrinks = shape.max().reshape(1) > size.max().reshape(1)
    scale = 1.0 / (size.to(torch.float64) / shape.to(torch.float64))
    # Whole blocks of pixels are added as integers and divided once.
    blocks = ((scale - scale.round()).abs() < _EPSILON).all().reshape(1) & shrinks
    rows, row_weights = _taps(shape[0:1], size[0:1], scale[0:1], shrinks, blocks)
    columns, column_weights = _taps(shape[1:2], size[1:2], scale[1:2], shrinks, blocks)
    across = _scripted(_weighted)(image.to(torch.float32).T.contiguous(), columns, column_weights).T
    share = torch.where(blocks, (1.0 / scale.prod().reshape(1)).to(torch.float32), torch.ones(1))
    pairs = blocks & (scale.max().reshape(1) == 2.0) & (scale.min().reshape(1) == 2.0)
    return _scripted(_down)(across, rows, row_weights, share, shrinks, pairs)


def _taps(
    source: Tensor, target: Tensor, scale: Tensor, shrinks: Tensor, blocks: Tensor
) -> tuple[Tensor, Tensor]:
    """Along one axis: which pixels of the image count for each wanted one, in order, and how much.

    Returns:
        int64 and float32 (target, K). What does not count has the weight 0.
    """
    # The exporter follows these lengths as tensors, which the types of torch do not foresee.
    place = torch.arange(target[0]).to(torch.float64)  # type: ignore[call-overload]
    length = source.to(torch.float64)
    left = place * scale
    right = left + scale
    cell = torch.minimum(scale, length - left)
    last = torch.minimum(right.floor(), length - 1)
    first = torch.minimum(left.ceil(), last)
    centre = ((place + 0.5) * scale - 0.5).to(torch.float32)
    share = centre - centre.floor()

    start = torch.where(shrinks, first - 1, centre.floor().to(torch.float64)).unsqueeze(1)
    number = torch.arange(((last - first).max() + 2).to(torch.int64)).to(torch.float64)  # type: ignore[call-overload]
    pixel = start + number
    first, last, cell = first.unsqueeze(1), last.unsqueeze(1), cell.unsqueeze(1)
    before, after = first - left.unsqueeze(1), right.unsqueeze(1) - last
    nothing = torch.zeros_like(pixel)
    area = torch.where(pixel < first, torch.where(before > 1e-3, before / cell, nothing), 1.0 / cell)
    end = torch.where(after > 1e-3, torch.minimum(after.clamp(max=1.0), cell) / cell, nothing)
    area = torch.where(pixel == last, end, torch.where(pixel > last, nothing, area))
    area = torch.where(blocks, (area > 0).to(torch.float64), area).to(torch.float32)
    linear = torch.stack([1.0 - share, share], dim=1)
    linear = (linear * _COEFFICIENT_ONE).round()
    weights = torch.where(shrinks, area, linear[:, number.clamp(max=1).to(torch.int64)])
    return torch.minimum(pixel.clamp(min=0), length - 1).to(torch.int64), weights


@cache
def _scripted(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function whose loops and branches go into the file; tracing keeps only what the example took."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the exporter by tracing has nothing newer
        return torch.jit.script(function)


def _weighted(image: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows, added one after the other."""
    total = torch.zeros_like(image[rows[:, 0]])
    for k in range(rows.size(1)):
        total = total + weights[:, k].unsqueeze(1) * image[rows[:, k]]
    return total


def _down(
    across: Tensor, rows: Tensor, weights: Tensor, share: Tensor, shrinks: Tensor, pairs: Tensor
) -> Tensor:
    """The other axis, and the rounding to grey levels."""
    if bool(shrinks):
        total = _weighted(across, rows, weights) * share
        # Halves go to the even number, but up in blocks of 2 x 2.
        grey = torch.where(pairs, (total + 0.5).floor(), total.round())
    else:
        # 4 bits are dropped before the weights, 16 after, in whole numbers that float64 holds.
        upper, lower = (across[rows[:, 0]] / 16).floor(), (across[rows[:, 1]] / 16).floor()
        upper = (upper.double() * weights[:, 0].double().unsqueeze(1) / 65536).floor()
        lower = (lower.double() * weights[:, 1].double().unsqueeze(1) / 65536).floor()
        grey = ((upper + lower + 2) / 4).floor().float()
    return grey
