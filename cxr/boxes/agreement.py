"""How many models, or readers, mark the same thing."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from cxr.boxes.compiled import compiled
from cxr.boxes.fusion import checked
from cxr.boxes.grouping import dense_keys, group_by_score
from cxr.boxes.suppression import pair_iou
from cxr.errors import ParameterError


def count_models(
    boxes: ArrayLike,
    labels: ArrayLike,
    model_ids: ArrayLike,
    iou_threshold: float,
    *,
    images: ArrayLike | None = None,
) -> np.ndarray:
    """Count, for every box, the models that have it or one that overlaps it.

    Args:
        boxes: Boxes `(N, 4)` of all models, in pixels of their images.
        labels: Integer labels `(N,)`; only boxes of one label compare.
        model_ids: Which model drew the box, integers `(N,)` from 0.
        iou_threshold: IoU above which two boxes mark the same thing.
        images: Integer image number of every box `(N,)`, for many images in one call.

    Returns:
        `int64 (N,)`, at least 1.

    Raises:
        BoxError: Arrays that do not fit each other, a box without area or not finite.
        ParameterError: A negative model id.
    """
    model_ids = np.asarray(model_ids)
    if model_ids.size and model_ids.min() < 0:
        raise ParameterError(f"model_ids: expected numbers from 0, got {model_ids.min()}")
    n_models = int(model_ids.max()) + 1 if model_ids.size else 1
    ones = np.ones(len(model_ids))
    boxes, ones, labels, model_ids, images = checked(boxes, ones, labels, model_ids, images, n_models)
    keys, n_groups = dense_keys(images, labels)
    order, starts = group_by_score(keys, ones, n_groups)
    return _count(boxes, model_ids, order, starts, float(iou_threshold), n_models)


@compiled
def _count(
    boxes: np.ndarray,
    model_ids: np.ndarray,
    order: np.ndarray,
    starts: np.ndarray,
    threshold: float,
    n_models: int,
) -> np.ndarray:
    counts = np.ones(boxes.shape[0], np.int64)
    seen = np.empty(n_models, np.bool_)
    for g in range(starts.shape[0] - 1):
        for i in range(starts[g], starts[g + 1]):
            index = order[i]
            for m in range(n_models):
                seen[m] = False
            seen[model_ids[index]] = True
            for j in range(starts[g], starts[g + 1]):
                other = order[j]
                if seen[model_ids[other]]:
                    continue
                overlap = pair_iou(
                    boxes[index, 0], boxes[index, 1], boxes[index, 2], boxes[index, 3],
                    boxes[other, 0], boxes[other, 1], boxes[other, 2], boxes[other, 3],
                )  # fmt: skip
                if overlap > threshold:
                    seen[model_ids[other]] = True
                    counts[index] += 1
    return counts
