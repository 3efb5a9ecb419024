"""Make one set of boxes out of those of several models, or of several looks of one model."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from cxr.boxes.agreement import count_models
from cxr.boxes.fusion import FusedBoxes, checked, model_weights, weighted_boxes_fusion
from cxr.boxes.suppression import nms, soft_nms
from cxr.errors import ParameterError

FUSION_METHODS = ("wbf", "nms", "soft-nms", "union", "agreement")
"""Ways of `fuse_models`, and of `annotations.fuse_readers`."""


def check_fusion_method(name: str, method: str) -> None:
    """Refuse a method that is none of `FUSION_METHODS`, before any work is done for it.

    Args:
        name: What asks, for the message.
        method: The method asked for.

    Raises:
        ParameterError: It is unknown.
    """
    if method not in FUSION_METHODS:
        raise ParameterError(f"{name}: expected a method of {', '.join(FUSION_METHODS)}, got {method!r}")


def fuse_models(
    boxes: ArrayLike,
    scores: ArrayLike,
    labels: ArrayLike,
    model_ids: ArrayLike,
    *,
    method: str = "wbf",
    weights: ArrayLike | None = None,
    n_models: int | None = None,
    iou_threshold: float = 0.55,
    images: ArrayLike | None = None,
) -> FusedBoxes:
    """Fuse what several models found.

    - "wbf": weighted boxes fusion, see `weighted_boxes_fusion`;
    - "nms", "soft-nms": suppression over the boxes of all models (soft by a Gaussian, which has no
      threshold);
    - "union": every box;
    - "agreement": of the union, the boxes that at least two models have.

    A model has a box when it drew it or one of the same label that overlaps it by more than the
    threshold (for "wbf": one in the same cluster). For all but "wbf", scores are multiplied by the weight of
    their model over the largest weight, so equal weights leave them alone. (`ensemble-boxes` divides by
    the sum of the weights: all scores are lower by one factor, the boxes the same.)

    Args:
        boxes: Boxes `(N, 4)` of all models, in pixels of their images.
        scores: Scores `(N,)`, at least 0.
        labels: Integer labels `(N,)`; only boxes of one label meet.
        model_ids: Which model drew the box, integers `(N,)` in `[0, number of models)`.
        method: One of `FUSION_METHODS`.
        weights: Weight of every model, above zero; 1 for each where only `n_models` is given.
        n_models: Number of models, those that found nothing included.
        iou_threshold: IoU above which two boxes are the same finding.
        images: Integer image number of every box `(N,)`, for many images in one call.

    Returns:
        The fused boxes, by image and then by falling score. `n_boxes` is 1 for all but "wbf".

    Raises:
        ParameterError: An unknown method, or weights that do not fit.
        BoxError: An impossible box or score, or arrays that do not fit each other.
    """
    check_fusion_method("fuse_models", method)
    if method == "wbf":
        return weighted_boxes_fusion(
            boxes, scores, labels, model_ids,
            weights=weights, n_models=n_models, iou_threshold=iou_threshold, images=images,
        )  # fmt: skip
    share = model_weights(weights, n_models)
    boxes, scores, labels, model_ids, images = checked(boxes, scores, labels, model_ids, images, len(share))
    models = count_models(boxes, labels, model_ids, iou_threshold, images=images)
    scores = scores * (share / share.max())[model_ids]
    if method == "nms":
        kept = nms(boxes, scores, iou_threshold, labels=labels, images=images)
    elif method == "soft-nms":
        kept, lowered = soft_nms(boxes, scores, iou_threshold, labels=labels, images=images)
        scores[kept] = lowered
    else:
        kept = np.lexsort((-scores, images))
    if method == "agreement":
        kept = kept[models[kept] >= 2]
    return FusedBoxes(
        boxes[kept].astype(np.float32),
        scores[kept],
        labels[kept],
        images[kept],
        np.ones(len(kept), dtype=np.int64),
        models[kept],
    )
