"""Make one table of detections out of several models' tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxr.boxes.agreement import count_models
from cxr.boxes.fusion import model_weights, weighted_boxes_fusion
from cxr.boxes.suppression import nms, soft_nms
from cxr.errors import BoxError, ParameterError
from cxr.schema import BOX_COLUMNS, CLASS_ID, DETECTION_COLUMNS, IMAGE_ID, SCORE

ENSEMBLE_METHODS = ("wbf", "nms", "soft-nms", "union", "agreement")
"""Ways of `fuse_detections`."""


def fuse_detections(
    models: Sequence[pd.DataFrame],
    *,
    method: str = "wbf",
    weights: Sequence[float] | None = None,
    iou_threshold: float = 0.55,
    skip_below: float = 0.0,
    conf_type: str = "avg",
    allows_overflow: bool = False,
    min_models: int | None = None,
) -> pd.DataFrame:
    """Fuse what several models found.

    - "wbf": weighted boxes fusion, see `weighted_boxes_fusion`;
    - "nms", "soft-nms": suppression over the boxes of all models (soft by a Gaussian);
    - "union": every box;
    - "agreement": of the union, the boxes that at least two models have (or `min_models`).

    A model has a box when it drew it or one of the same class that overlaps it by more than the
    threshold (for "wbf": one in the same cluster). Weights multiply scores; for all but "wbf" they are first
    divided by their sum, as `ensemble-boxes` does, and leave scores alone when not given.

    Args:
        models: One table (`schema.DETECTION_COLUMNS`) per model, all in pixels of the original images. A
            model that found nothing has an empty table, and counts.
        method: One of `ENSEMBLE_METHODS`.
        weights: One weight per model, above zero; 1 for each by default.
        iou_threshold: IoU above which two boxes are the same finding.
        skip_below: Detections of a lower score are left out before anything else.
        conf_type: For "wbf", how a fused box gets its score.
        allows_overflow: For "wbf", see there.
        min_models: Keep only what at least so many models have; 2 for "agreement", else 1.

    Returns:
        `schema.DETECTION_COLUMNS` and `n_models`, images in the order of their first detection, by
        falling score within an image.

    Raises:
        ParameterError: No model, an unknown method, weights that do not fit.
        BoxError: An impossible box, or a column missing.
    """
    if method not in ENSEMBLE_METHODS:
        raise ParameterError(
            f"fuse_detections: expected one of {', '.join(ENSEMBLE_METHODS)}, got {method!r}"
        )
    if not models:
        raise ParameterError("fuse_detections: expected at least one model's table, got none")
    if min_models is None:
        min_models = 2 if method == "agreement" else 1
    share = model_weights(weights, len(models))
    for number, table in enumerate(models):
        missing = [column for column in DETECTION_COLUMNS if column not in table]
        if missing:
            raise BoxError(f"model {number}: expected a column {missing[0]!r}, got {', '.join(table)}")

    filled = [table for table in models if len(table)]
    if not filled:
        return pd.DataFrame(columns=[*DETECTION_COLUMNS, "n_models"])
    joined = pd.concat([table[DETECTION_COLUMNS] for table in filled], ignore_index=True)
    model = np.repeat(np.arange(len(models)), [len(table) for table in models])
    kept = (joined[SCORE] >= skip_below).to_numpy()
    joined, model = joined[kept], model[kept]
    images, image_ids = pd.factorize(joined[IMAGE_ID])
    boxes, labels = joined[BOX_COLUMNS].to_numpy(np.float64), joined[CLASS_ID].to_numpy(np.int64)
    scores = joined[SCORE].to_numpy(np.float64)
    if method == "wbf":
        fused = weighted_boxes_fusion(
            boxes,
            scores,
            labels,
            model,
            weights=share,
            iou_threshold=iou_threshold,
            conf_type=conf_type,
            allows_overflow=allows_overflow,
            images=images,
        )
        return _table(*fused[:4], fused.n_models, image_ids, min_models)

    n_models = count_models(boxes, labels, model, iou_threshold, images=images)
    if weights is not None:
        scores = scores * share[model] / share.sum()
    kept = np.lexsort((-scores, images))
    if method == "nms":
        kept = nms(boxes, scores, iou_threshold, labels=labels, images=images)
    elif method == "soft-nms":
        kept, lowered = soft_nms(boxes, scores, iou_threshold, labels=labels, images=images)
        scores = scores.copy()
        scores[kept] = lowered
    return _table(
        boxes[kept], scores[kept], labels[kept], images[kept], n_models[kept], image_ids, min_models
    )


def _table(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    images: np.ndarray,
    n_models: np.ndarray,
    image_ids: pd.Index,
    min_models: int,
) -> pd.DataFrame:
    table = pd.DataFrame(boxes, columns=BOX_COLUMNS, dtype=np.float64)
    table.insert(0, IMAGE_ID, np.asarray(image_ids, dtype=object)[images])
    table.insert(1, CLASS_ID, labels)
    table.insert(2, SCORE, scores)
    table["n_models"] = n_models
    return table[n_models >= min_models].reset_index(drop=True)
