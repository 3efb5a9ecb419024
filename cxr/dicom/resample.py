"""Area averages of a picture, from its pixels or from a coarse level of its JPEG 2000 pyramid.

Along each axis the result is a banded matrix times the picture. In small blocks along the diagonal
that is work for BLAS, twice as fast as the usual area resize and exact.

From pixels the weights are the shares of each pixel in the output pixel. A level of the pyramid is
the picture after a low-pass filter, sampled at every `2**level`-th pixel; it is sharper than an
average over `2**level` pixels and centred half a step earlier, so resizing it as if it were
such an average shifts the picture and rings at edges. The filter is known, though: the weights are
then those of the nearest samples that come closest, in the least squares sense, to the
average over the output pixel's area, for a signal whose neighbours correlate as those of
photographs do. Against full decoding that is 8 to 12 dB better than a plain resize of the level.

What a detector recorded comes out within a few grey levels. Steps of a single pixel, which only a
computer draws (burnt-in letters, ruler ticks, the edge of a digital mask), lose with the filter
what tells where between two samples they lie, and more taps or another prior do not bring it
back. On a real chest with letters and a ruler along its border 0.14% of the pixels are off by more
than 4 of 255 levels, the worst by 62, and the PSNR is 47 dB; without the border it is 51 dB, and
the worst pixel is off by 6.

References:
    ISO/IEC 15444-1 Annex F (the 5/3 and 9/7 filters).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_FILTERS = {
    True: np.array([-1, 2, 6, 2, -1]) / 8,
    False: np.array(
        [
            0.026748757410810,
            -0.016864118442875,
            -0.078223266528990,
            0.266864118442872,
            0.602949018236360,
            0.266864118442872,
            -0.078223266528990,
            -0.016864118442875,
            0.026748757410810,
        ]
    ),
}
"""Analysis low-pass filters, by whether the transform is reversible (5/3) or not (9/7)."""

_MIN_TAPS = 4
_CORRELATION = 0.98
_ROWS, _COLUMNS = 4, 16
"""Output pixels to a block. Few rows, so that their input stays in cache; more columns, because BLAS
has a cost a call and the plane is in cache by then."""

_AT_ONCE = 8
"""Blocks of rows that are read from the file together: their input still is in cache when used."""

_Blocks = tuple[tuple[slice, slice, np.ndarray], ...]


def area_average(
    values: np.ndarray,
    size: tuple[int, int],
    target: tuple[int, int],
    *,
    level: int = 0,
    reversible: bool = True,
) -> np.ndarray:
    """Average a picture over the areas of the pixels of a smaller one.

    Args:
        values: The picture, `(ceil(rows / 2**level), ceil(columns / 2**level))`; anything that gives
            a slice of its rows will do.
        size: `(rows, columns)` of the full picture.
        target: `(rows, columns)` of the result, no larger than `values`.
        level: How often JPEG 2000 halved the picture.
        reversible: With a level above 0, whether the 5/3 filter made it, else the 9/7.

    Returns:
        `float32` of shape `target`.
    """
    down = _blocks(size[0], target[0], level, reversible, _ROWS)
    across = _blocks(size[1], target[1], level, reversible, _COLUMNS)
    narrow = np.empty((target[0], values.shape[1]), dtype=np.float32)
    floats = np.empty((down[0][2].shape[1], values.shape[1]), dtype=np.float32)
    for begin in range(0, len(down), _AT_ONCE):
        some = down[begin : begin + _AT_ONCE]
        first = some[0][1].start
        chunk = values[first : some[-1][1].stop]
        for rows, taken, weights in some:
            np.copyto(floats, chunk[taken.start - first : taken.stop - first])
            np.matmul(weights, floats, out=narrow[rows])
    out = np.empty(target, dtype=np.float32)
    for columns, taken, weights in across:
        np.matmul(narrow[:, taken], weights.T, out=out[:, columns])
    return out


@lru_cache(maxsize=256)
def _blocks(length: int, target: int, level: int, reversible: bool, block: int) -> _Blocks:
    """The matrix of one axis as dense blocks along its diagonal: (outputs, inputs, weights)."""
    if level:
        index, weights = _level_weights(length, target, level, _FILTERS[reversible])
        return _along_diagonal(index, weights, -(-length >> level), block)
    left = np.arange(target)[:, None] * (length / target)
    right = left + length / target
    index = left.astype(int) + np.arange(int(np.ceil(length / target)) + 1)
    shares = np.clip(np.minimum(index + 1, right) - np.maximum(index, left), 0.0, None)
    # Rounding can leave the last pixel a share of a pixel beyond the picture.
    shares[index >= length] = 0.0
    shares /= shares.sum(axis=1, keepdims=True)
    return _along_diagonal(np.minimum(index, length - 1), shares, length, block)


def _along_diagonal(index: np.ndarray, weights: np.ndarray, length: int, block: int) -> _Blocks:
    """Gather the taps of output pixels in dense blocks, all of one shape.

    Args:
        index: Input pixels of each output pixel, `(target, taps)`.
        weights: Their weights, `(target, taps)`; where an input comes twice the weights add up.
        length: Number of input pixels.
        block: Output pixels to a block.

    Returns:
        The blocks. Weights are `float32`, laid out so that their transpose is contiguous, as BLAS
        takes it fastest.
    """
    target = len(index)
    block = min(block, target)
    # The last block overlaps the one before it, so that all have one shape.
    begin = np.minimum(np.arange(0, target, block), target - block)
    outputs = begin[:, None] + np.arange(block)
    index, weights = index[outputs], weights[outputs]
    low = index.min(axis=(1, 2))
    width = int((index.max(axis=(1, 2)) - low).max()) + 1
    low = np.minimum(low, length - width)
    number, row = np.arange(len(begin))[:, None, None], np.arange(block)[:, None]
    place = (number * width + index - low[:, None, None]) * block + row
    dense = np.bincount(place.ravel(), weights.ravel(), minlength=len(begin) * width * block)
    dense = dense.astype(np.float32).reshape(len(begin), width, block)
    return tuple(
        (slice(first, first + block), slice(start, start + width), matrix.T)
        for first, start, matrix in zip(begin.tolist(), low.tolist(), dense, strict=True)
    )


def _level_weights(
    length: int, target: int, level: int, response: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Samples of a level and their weights, `(target, taps)` each.

    With `S` the filter as a matrix, `R` the correlation of the signal and `b` the area of an
    output pixel, the best weights solve `(S R S') w = S R b`. `S R S'` is the same for every output
    pixel and `S R b` is a difference of two values of one cumulative sum, so all pixels are
    solved at once.
    """
    step, scale = 1 << level, length / target
    # A codestream of few levels can leave several samples to an output pixel.
    taps = np.arange(max(_MIN_TAPS, int(np.ceil(scale / step)) + 2))
    response = _iterated(response, level)
    half = len(response) // 2
    reach = half + step * len(taps) + 256
    shift = np.arange(-reach, reach + 1)
    # c(t): correlation of a sample of the level at 0 with the pixel at t.
    correlated = np.convolve(_CORRELATION ** np.abs(shift), response, mode="same")
    between = np.convolve(correlated, response, mode="same")
    gram = between[reach + step * (taps[:, None] - taps[None, :])]
    # A pixel t covers [t, t + 1): the cumulative sum at its left edge counts all before it.
    edges = np.arange(-reach, reach + 2)
    cumulative = np.concatenate([[0.0], np.cumsum(correlated)])

    left = np.arange(target) * scale
    centre = left + scale / 2 - 0.5
    first = np.floor(centre / step).astype(int) - len(taps) // 2 + 1
    index = first[:, None] + taps
    start = left[:, None] - index * step
    area = np.interp(start + scale, edges, cumulative) - np.interp(start, edges, cumulative)
    weights = np.linalg.solve(gram, area.T).T
    weights /= weights.sum(axis=1, keepdims=True)

    count = -(-length // step)
    # The transform mirrors each finer level about its first and last sample (F.3.7).
    index = np.abs(index)
    index = np.where(index >= count, -(-length // (step // 2)) - 1 - index, index)
    return np.clip(index, 0, count - 1), weights


def _iterated(response: np.ndarray, level: int) -> np.ndarray:
    """Response of a filter that is applied, and every second sample dropped, `level` times."""
    total = np.ones(1)
    for number in range(level):
        spread = np.zeros((len(response) - 1) * (1 << number) + 1)
        spread[:: 1 << number] = response
        total = np.convolve(total, spread)
    return total
