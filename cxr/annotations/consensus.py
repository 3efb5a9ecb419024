"""Make one table of boxes out of several readers' tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cxr.boxes import check_fusion_method, count_models, nms, soft_nms, weighted_boxes_fusion
from cxr.schema import (
    BOX_COLUMNS,
    CLASS_ID,
    CLASS_NAME,
    CONSENSUS_COLUMNS,
    IMAGE_ID,
    RAD_ID,
    VINBIGDATA,
    ClassTable,
)


def fuse_readers(
    annotations: pd.DataFrame,
    *,
    iou_threshold: float = 0.4,
    method: str = "wbf",
    classes: ClassTable = VINBIGDATA,
) -> pd.DataFrame:
    """Fuse the boxes that an image's readers drew of the same finding.

    Every box counts the same, so where order matters (which box opens a cluster, which one NMS keeps)
    the readers' names decide, the last name first, and then the table's order, the last row first. That is
    what `ensemble-boxes` makes of equal scores when it is given one list per reader, and does not
    depend on how the readers' rows are mixed.

    - "wbf": the mean of each cluster of boxes (`boxes.weighted_boxes_fusion`);
    - "nms": of overlapping boxes, the first visited;
    - "soft-nms": as "nms", but a box stays when its score, lowered by `1 - iou` for each kept box that
      overlaps it by more than the threshold, is still above one half;
    - "union": every box as it was drawn;
    - "agreement": of the union, the boxes that at least two readers drew.

    For the last four, a reader drew a box when one of that reader's boxes of the same class is the
    box itself or overlaps it by more than the threshold; for "wbf", when a box of theirs is in the cluster.

    Args:
        annotations: Reader table (`schema.ANNOTATION_COLUMNS`), as `read_annotations` returns it.
        iou_threshold: IoU above which two boxes are the same finding.
        method: One of `boxes.FUSION_METHODS`.
        classes: Classes of the data set.

    Returns:
        `schema.CONSENSUS_COLUMNS`, images in the order of their first row: a row per fused box, with
        `n_readers` who drew it and `agreement`, their share of the image's readers. A normal image has one
        row of the normal class, NaN coordinates, and the readers who called it normal. So has an image
        of whose boxes "agreement" left none; its `n_readers` is 0.

    Raises:
        ParameterError: An unknown method.
        BoxError: A finding without a usable box.
    """
    check_fusion_method("fuse_readers", method)
    if annotations.empty:
        none = np.empty(0, np.int64)
        return _table(np.empty((0, 4)), none, none, none, [], np.empty(0), classes)

    images, image_ids = pd.factorize(annotations[IMAGE_ID])
    readers, rad_ids = pd.factorize(annotations[RAD_ID], sort=True)
    seen_by = pd.Series(readers).groupby(images).nunique().to_numpy()
    drawn = np.flatnonzero((annotations[CLASS_ID] != classes.normal_id).to_numpy())
    drawn = drawn[np.argsort(readers[drawn], kind="stable")][::-1]
    boxes = annotations[BOX_COLUMNS].to_numpy(np.float64)[drawn]
    labels = annotations[CLASS_ID].to_numpy(np.int64)[drawn]
    box_images, box_readers = images[drawn], readers[drawn]

    if method == "wbf":
        fused = weighted_boxes_fusion(
            boxes, np.ones(len(boxes)), labels, box_readers, n_models=max(len(rad_ids), 1),
            iou_threshold=iou_threshold, images=box_images,
        )  # fmt: skip
        boxes, labels, box_images, n_readers = fused.boxes, fused.labels, fused.images, fused.n_models
    else:
        kept = np.arange(len(boxes))
        if method == "nms":
            kept = nms(boxes, np.ones(len(boxes)), iou_threshold, labels=labels, images=box_images)
        elif method == "soft-nms":
            kept, _ = soft_nms(
                boxes, np.ones(len(boxes)), iou_threshold,
                method="linear", score_threshold=0.5, labels=labels, images=box_images,
            )  # fmt: skip
        n_readers = count_models(boxes, labels, box_readers, iou_threshold, images=box_images)[kept]
        boxes, labels, box_images = boxes[kept], labels[kept], box_images[kept]

    enough = n_readers >= (2 if method == "agreement" else 1)
    boxes, labels, box_images, n_readers = (
        boxes[enough],
        labels[enough],
        box_images[enough],
        n_readers[enough],
    )
    empty = np.setdiff1d(np.arange(len(image_ids)), box_images)
    had_boxes = np.bincount(images[drawn], minlength=len(image_ids)) > 0
    boxes = np.concatenate([boxes, np.full((len(empty), 4), np.nan)])
    labels = np.concatenate([labels, np.full(len(empty), classes.normal_id)])
    n_readers = np.concatenate([n_readers, np.where(had_boxes[empty], 0, seen_by[empty])])
    box_images = np.concatenate([box_images, empty])
    order = np.lexsort((-n_readers, labels, box_images))
    return _table(
        boxes[order], labels[order], n_readers[order], box_images[order], image_ids, seen_by, classes
    )


def _table(
    boxes: np.ndarray,
    labels: np.ndarray,
    n_readers: np.ndarray,
    images: np.ndarray,
    image_ids: pd.Index | list[str],
    seen_by: np.ndarray,
    classes: ClassTable,
) -> pd.DataFrame:
    table = pd.DataFrame(boxes, columns=BOX_COLUMNS, dtype=np.float64)
    table[IMAGE_ID] = pd.Index(image_ids, dtype=object)[images] if len(images) else pd.Series(dtype=object)
    table[CLASS_ID] = labels.astype(np.int64)
    table[CLASS_NAME] = np.array(classes.names, dtype=object)[table[CLASS_ID].to_numpy()]
    table["n_readers"] = n_readers.astype(np.int64)
    table["agreement"] = n_readers / seen_by[images] if len(images) else np.empty(0)
    return table[CONSENSUS_COLUMNS]
