"""Remove boxes that repeat a better one: non-maximum suppression, hard and soft."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from cxr.boxes.compiled import compiled
from cxr.boxes.geometry import as_boxes
from cxr.boxes.grouping import dense_keys, group_by_score
from cxr.errors import BoxError, ParameterError

SIGMA = 0.5
"""Width of the Gaussian of `soft_nms`."""


def nms(
    boxes: ArrayLike,
    scores: ArrayLike,
    iou_threshold: float,
    *,
    labels: ArrayLike | None = None,
    images: ArrayLike | None = None,
) -> np.ndarray:
    """Keep a box only when no better one of its group overlaps it by more than the threshold.

    Boxes are visited by falling score, equal scores in input order. A kept box removes those whose
    IoU with it is greater than the threshold.

    Args:
        boxes: Boxes `(N, 4)`, all in the same kind of pixels.
        scores: Scores `(N,)`.
        iou_threshold: Largest IoU two kept boxes may have.
        labels: Integer labels `(N,)`; boxes of different labels leave each other alone.
        images: Integer image numbers `(N,)`, for many images in one call.

    Returns:
        Indices of the kept boxes, `int64 (K,)`: by image, then by falling score.

    Raises:
        BoxError: Arrays that do not fit each other.

    References:
        torchvision `ops.nms`, whose comparison is the same; its order of equal scores is not stated.
    """
    boxes, scores, images, labels = _aligned(boxes, scores, images, labels)
    keys, n_groups = dense_keys(images, labels)
    order, starts = group_by_score(keys, scores, n_groups)
    kept = _suppress(boxes, order, starts, float(iou_threshold))
    return _by_image_and_score(kept, images, scores)


def soft_nms(
    boxes: ArrayLike,
    scores: ArrayLike,
    iou_threshold: float = 0.5,
    *,
    method: str = "gaussian",
    score_threshold: float = 0.001,
    labels: ArrayLike | None = None,
    images: ArrayLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Lower the score of a box for every better box that overlaps it, instead of removing it.

    The box of the highest remaining score is taken next (equal scores in input order); every box
    left is then multiplied by `1 - iou` where the IoU exceeds the threshold ("linear") or by
    `exp(-iou ** 2 / SIGMA)` ("gaussian", which has no threshold).

    Args:
        boxes: Boxes `(N, 4)`, all in the same kind of pixels.
        scores: Scores `(N,)`.
        iou_threshold: For "linear", the IoU above which a score is lowered.
        method: "gaussian" or "linear".
        score_threshold: Boxes whose lowered score is not greater than this are dropped.
        labels: Integer labels `(N,)`; boxes of different labels leave each other alone.
        images: Integer image numbers `(N,)`, for many images in one call.

    Returns:
        Indices of the kept boxes, `int64 (K,)`, by image and then by falling new score, and the new
        scores, `float64 (K,)`.

    Raises:
        BoxError: Arrays that do not fit each other.
        ParameterError: An unknown method.

    References:
        Bodla et al. 2017, Soft-NMS, https://arxiv.org/abs/1704.04503.
    """
    if method not in ("gaussian", "linear"):
        raise ParameterError(f"soft_nms: expected method 'gaussian' or 'linear', got {method!r}")
    boxes, scores, images, labels = _aligned(boxes, scores, images, labels)
    keys, n_groups = dense_keys(images, labels)
    order, starts = group_by_score(keys, scores, n_groups)
    lowered = scores.copy()
    _soften(boxes, lowered, order, starts, float(iou_threshold), method == "linear")
    kept = np.flatnonzero(lowered > score_threshold)
    kept = _by_image_and_score(kept, images, lowered)
    return kept, lowered[kept]


def _aligned(
    boxes: ArrayLike, scores: ArrayLike, images: ArrayLike | None, labels: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    boxes = np.ascontiguousarray(as_boxes(boxes, np.float64))
    n = len(boxes)
    columns = []
    for name, values, dtype in (
        ("scores", scores, np.float64),
        ("images", images, None),
        ("labels", labels, None),
    ):
        if values is None:
            values = np.zeros(n, dtype=np.int64)
        values = np.asarray(values, dtype=dtype)
        if values.shape != (n,):
            raise BoxError(f"{name}: expected shape ({n},) to go with {n} boxes, got {values.shape}")
        if name != "scores":
            if n and not np.issubdtype(values.dtype, np.integer):
                raise BoxError(f"{name}: expected integers, got {values.dtype}")
            values = values.astype(np.int64, copy=False)
        columns.append(values)
    if n and not np.isfinite(boxes).all():
        row = int((~np.isfinite(boxes).all(axis=1)).argmax())
        raise BoxError(f"box {row}: expected four finite numbers, got {boxes[row].tolist()}")
    if n and np.isnan(columns[0]).any():
        raise BoxError(f"score {int(np.isnan(columns[0]).argmax())}: expected a number, got NaN")
    scores, labels, images = columns
    return boxes, scores, labels, images


def _by_image_and_score(kept: np.ndarray, images: np.ndarray, scores: np.ndarray) -> np.ndarray:
    kept = np.sort(kept)
    return kept[np.lexsort((-scores[kept], images[kept]))]


@compiled
def pair_iou(
    ax0: float, ay0: float, ax1: float, ay1: float, bx0: float, by0: float, bx1: float, by1: float
) -> float:
    """IoU of two boxes given edge by edge; 0 where they do not touch."""
    width = min(ax1, bx1) - max(ax0, bx0)
    height = min(ay1, by1) - max(ay0, by0)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared)


@compiled
def _suppress(boxes: np.ndarray, order: np.ndarray, starts: np.ndarray, threshold: float) -> np.ndarray:
    kept = np.empty(order.shape[0], np.int64)
    n_kept = 0
    for g in range(starts.shape[0] - 1):
        first = n_kept
        for i in range(starts[g], starts[g + 1]):
            index = order[i]
            keep = True
            for k in range(first, n_kept):
                other = kept[k]
                overlap = pair_iou(
                    boxes[index, 0], boxes[index, 1], boxes[index, 2], boxes[index, 3],
                    boxes[other, 0], boxes[other, 1], boxes[other, 2], boxes[other, 3],
                )  # fmt: skip
                if overlap > threshold:
                    keep = False
                    break
            if keep:
                kept[n_kept] = index
                n_kept += 1
    return kept[:n_kept]


@compiled
def _soften(
    boxes: np.ndarray,
    scores: np.ndarray,
    order: np.ndarray,
    starts: np.ndarray,
    threshold: float,
    linear: bool,
) -> None:
    for g in range(starts.shape[0] - 1):
        first, last = starts[g], starts[g + 1]
        members = order[first:last].copy()
        for i in range(last - first):
            best = i
            for j in range(i + 1, last - first):
                better = scores[members[j]] > scores[members[best]]
                equal = scores[members[j]] == scores[members[best]]
                if better or (equal and members[j] < members[best]):
                    best = j
            members[i], members[best] = members[best], members[i]
            taken = members[i]
            for j in range(i + 1, last - first):
                index = members[j]
                overlap = pair_iou(
                    boxes[index, 0], boxes[index, 1], boxes[index, 2], boxes[index, 3],
                    boxes[taken, 0], boxes[taken, 1], boxes[taken, 2], boxes[taken, 3],
                )  # fmt: skip
                if not linear:
                    scores[index] *= np.exp(-(overlap * overlap) / SIGMA)
                elif overlap > threshold:
                    scores[index] *= 1.0 - overlap
