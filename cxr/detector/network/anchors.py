"""Anchor boxes fitted to a data set's boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cxr.errors import ParameterError


def fit_anchors(
    boxes: np.ndarray,
    *,
    strides: tuple[int, ...],
    sizes_per_level: int = 1,
    ratios: int = 3,
) -> tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]:
    """Anchor sizes and aspect ratios that suit the boxes of a data set.

    The sizes run geometrically from the 5th to the 95th percentile of the boxes' sizes
    (square root of the area), small ones on the fine levels; a level never gets a size
    below twice its stride, which its grid could not place. The ratios are the quantiles of
    height / width at the middle of equal shares. With fewer than 8 boxes the usual
    pyramid (8 strides a level; 0.5, 1, 2) is returned.

    Args:
        boxes: float (N, 4), network pixels.
        strides: Pixels between two anchors on each level, fine to coarse.
        sizes_per_level: Anchor sizes on each level.
        ratios: Number of aspect ratios.

    Returns:
        Sizes in network pixels, one tuple a level, and aspect ratios (height / width).
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    good = np.isfinite(width * height) & (width > 0) & (height > 0)
    width, height = width[good], height[good]
    count = len(strides) * sizes_per_level
    if len(width) < 8:
        octaves = 2.0 ** (np.arange(sizes_per_level) / sizes_per_level)
        sizes = np.outer(8.0 * np.array(strides), octaves)
        return tuple(tuple(float(s) for s in row) for row in sizes), (0.5, 1.0, 2.0)

    low, high = np.quantile(np.sqrt(width * height), [0.05, 0.95])
    low = min(low, high / 1.5)
    sizes = np.geomspace(max(low, 2.0 * strides[0]), max(high, 4.0 * strides[0]), count)
    sizes = sizes.reshape(len(strides), sizes_per_level)
    sizes = np.maximum(sizes, 2.0 * np.array(strides)[:, None])
    shares = (np.arange(ratios) + 0.5) / ratios
    aspect = np.exp(np.quantile(np.log(height / width), shares))
    return (
        tuple(tuple(round(float(s), 2) for s in row) for row in sizes),
        tuple(round(float(a), 4) for a in aspect),
    )


def best_anchor_iou(
    boxes: np.ndarray, sizes: tuple[tuple[float, ...], ...], aspect_ratios: tuple[float, ...]
) -> np.ndarray:
    """IoU of each box with the anchor that fits it best when both share their centre; float (N,).

    A measure of how well anchors suit boxes, before the grid's offset: 1 is perfect.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    flat = np.array([s for row in sizes for s in row])
    ratio = np.sqrt(np.array(aspect_ratios))
    anchor_height = np.outer(flat, ratio).ravel()
    anchor_width = np.outer(flat, 1 / ratio).ravel()
    inner = np.minimum(width[:, None], anchor_width) * np.minimum(height[:, None], anchor_height)
    union = (width * height)[:, None] + anchor_width * anchor_height - inner
    return (inner / union).max(axis=1, initial=0.0)


def by_level(sizes: Sequence[float], levels: int) -> tuple[tuple[float, ...], ...]:
    """Anchor sizes in one list as those of each level of a network.

    Args:
        sizes: Small to large, as many for each level.
        levels: Number of levels.

    Raises:
        ParameterError: The number of sizes is no multiple of the number of levels.
    """
    each, rest = divmod(len(sizes), levels) if levels else (0, len(sizes))
    if rest:
        raise ParameterError(
            f"anchor_sizes: expected as many for each of the {levels} levels, got {len(sizes)} in all"
        )
    return tuple(tuple(float(s) for s in sizes[i * each : (i + 1) * each]) for i in range(levels))
