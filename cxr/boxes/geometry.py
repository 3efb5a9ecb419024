"""Boxes as arrays: check, overlap, scale, clip.

A set of boxes is `(N, 4)`: `x_min, y_min, x_max, y_max` in pixels of one stated image, the right and
the bottom edge exclusive, so a box's width is `x_max - x_min`. Sizes are `(rows, columns)`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from cxr.errors import BoxError


def validate(boxes: ArrayLike, *, size: tuple[float, float] | None = None) -> np.ndarray:
    """Return boxes as `float32 (N, 4)` after checking each of them.

    Args:
        boxes: Anything of shape `(N, 4)`; an empty sequence stands for no box.
        size: Rows and columns of the boxes' image; without it only the upper left border is checked.

    Returns:
        A `float32 (N, 4)` array (the input itself where it already is one).

    Raises:
        BoxError: Another shape, a coordinate that is not finite, a side that is not positive, or a
            box that leaves the image. The message names the first such box.
    """
    array = as_boxes(boxes)
    bad = ~np.isfinite(array).all(axis=1)
    if bad.any():
        row = int(bad.argmax())
        raise BoxError(f"box {row}: expected four finite numbers, got {array[row].tolist()}")
    bad = (array[:, 2] <= array[:, 0]) | (array[:, 3] <= array[:, 1])
    if bad.any():
        row = int(bad.argmax())
        raise BoxError(f"box {row}: expected x_min < x_max and y_min < y_max, got {array[row].tolist()}")
    bad = (array[:, :2] < 0).any(axis=1)
    if size is not None:
        rows, columns = size
        bad |= (array[:, 2] > columns) | (array[:, 3] > rows)
    if bad.any():
        row = int(bad.argmax())
        within = "" if size is None else f" of {size[0]} rows and {size[1]} columns"
        raise BoxError(f"box {row}: expected a box inside its image{within}, got {array[row].tolist()}")
    return array


def as_boxes(boxes: ArrayLike, dtype: type = np.float32) -> np.ndarray:
    """Return boxes as an `(N, 4)` array without looking at their values.

    Args:
        boxes: Anything of shape `(N, 4)`; an empty sequence stands for no box.
        dtype: Floating type of the result.

    Raises:
        BoxError: The shape is not `(N, 4)` or the values are no numbers.
    """
    try:
        array: np.ndarray = np.asarray(boxes, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise BoxError(f"expected boxes of shape (N, 4), got {type(boxes).__name__}: {error}") from None
    if array.size == 0 and array.ndim < 3:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise BoxError(f"expected boxes of shape (N, 4), got {array.shape}")
    return array


def areas(boxes: ArrayLike) -> np.ndarray:
    """Area of every box, `float64 (N,)`, in square pixels; zero for a box turned inside out."""
    array = as_boxes(boxes, np.float64)
    return np.clip(array[:, 2] - array[:, 0], 0, None) * np.clip(array[:, 3] - array[:, 1], 0, None)


def iou(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Intersection over union of every box of `a` with every box of `b`.

    Args:
        a: Boxes `(N, 4)` of one image.
        b: Boxes `(M, 4)` of the same image, in the same pixels.

    Returns:
        `float64 (N, M)` in `[0, 1]`; 0 where the boxes do not touch or have no area.

    Raises:
        BoxError: A shape that is not `(N, 4)`.
    """
    a = as_boxes(a, np.float64)
    b = as_boxes(b, np.float64)
    width = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])
    height = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])
    shared = np.clip(width, 0, None) * np.clip(height, 0, None)
    union = areas(a)[:, None] + areas(b)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def scale(boxes: ArrayLike, from_size: tuple[float, float], to_size: tuple[float, float]) -> np.ndarray:
    """Carry boxes from an image to a resized copy of it.

    Args:
        boxes: Boxes `(N, 4)` in pixels of the image of `from_size`.
        from_size: Rows and columns of the image the boxes are in.
        to_size: Rows and columns of the image the boxes shall be in.

    Returns:
        `float32 (N, 4)` in pixels of the image of `to_size`.

    Raises:
        BoxError: A shape that is not `(N, 4)`, or a size that is not positive.
    """
    if min(*from_size, *to_size) <= 0:
        raise BoxError(f"expected sizes above zero, got from {tuple(from_size)} to {tuple(to_size)}")
    down, right = to_size[0] / from_size[0], to_size[1] / from_size[1]
    return (as_boxes(boxes, np.float64) * [right, down, right, down]).astype(np.float32)


def clip(boxes: ArrayLike, size: tuple[float, float]) -> np.ndarray:
    """Cut boxes at the border of their image.

    A box wholly outside comes back with no area: drop those with `areas(...) > 0`.

    Args:
        boxes: Boxes `(N, 4)` in pixels of an image.
        size: Rows and columns of that image.

    Returns:
        A new `float32 (N, 4)` array with every edge within the image.

    Raises:
        BoxError: A shape that is not `(N, 4)`.
    """
    rows, columns = size
    return np.clip(as_boxes(boxes), 0, np.array([columns, rows, columns, rows], dtype=np.float32))
