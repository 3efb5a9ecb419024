"""Detections of several views or detectors as one table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxr import boxes as box_tools
from cxr import schema
from cxr.detector.data.targets import usable
from cxr.detector.prediction.looks import Looks


def fuse_detections(
    tables: Sequence[pd.DataFrame],
    image_ids: Sequence[str],
    *,
    looks: Looks,
    weights: np.ndarray | None = None,
) -> pd.DataFrame:
    """Fuse what several looks, or several detectors, found on the same images.

    By weighted boxes fusion a look that finds nothing on an image lowers the scores of the others' boxes.

    Args:
        tables: `schema.DETECTION_COLUMNS`, one a view or detector, in pixels of the same images.
        image_ids: The images, in the order of the result.
        looks: How to fuse, and how many boxes to keep.
        weights: How much each table counts for each class id, (tables, classes); one that counts nothing for
            a class is left out there. All count alike where none are given.

    Returns:
        `schema.DETECTION_COLUMNS`, images in the order given, best boxes first. A single table comes
        back as it is.
    """
    if len(tables) == 1:
        return tables[0]
    rows = pd.concat(tables, ignore_index=True)
    views = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    place = {image_id: number for number, image_id in enumerate(image_ids)}
    images = rows[schema.IMAGE_ID].map(place).to_numpy(np.int64)
    boxes = rows[schema.BOX_COLUMNS].to_numpy(np.float32)
    keep = usable(boxes)  # a box cut at the image's edge may have no area left
    labels = rows[schema.CLASS_ID].to_numpy(np.int64)
    scores = rows[schema.SCORE].to_numpy(np.float64)
    alike = np.ones((len(tables), int(labels.max(initial=0)) + 1)) if weights is None else weights
    columns, column_of = np.unique(alike, axis=1, return_inverse=True)
    column_of = column_of.reshape(-1)  # numpy 2.0 gives another shape
    parts = []
    for number, share in enumerate(columns.T):
        counts = share > 0
        own = keep & (column_of[labels] == number) & counts[views]
        parts.append(
            box_tools.fuse_models(
                boxes[own],
                scores[own],
                labels[own],
                (np.cumsum(counts) - 1)[views[own]],
                method=looks.detector_fusion if counts.sum() > 1 else "union",
                weights=share[counts],
                iou_threshold=looks.detector_fusion_iou,
                images=images[own],
            )
        )
    fused = _together(parts)
    rank = np.arange(len(fused.images)) - np.searchsorted(fused.images, fused.images)
    best = rank < looks.max_boxes
    table = pd.DataFrame(
        {
            schema.IMAGE_ID: np.array([*image_ids, ""], dtype=object)[fused.images[best]],
            schema.CLASS_ID: fused.labels[best].astype(np.int64),
            schema.SCORE: fused.scores[best].astype(np.float64),
        }
    )
    for number, name in enumerate(schema.BOX_COLUMNS):
        table[name] = fused.boxes[best, number].astype(np.float64)
    return table[schema.DETECTION_COLUMNS]


def _together(parts: Sequence[box_tools.FusedBoxes]) -> box_tools.FusedBoxes:
    """Several sets of fused boxes as one, by image and then by falling score."""
    whole = box_tools.FusedBoxes(*(np.concatenate(values) for values in zip(*parts, strict=True)))
    order = np.lexsort((-whole.scores, whole.images))
    return box_tools.FusedBoxes(*(values[order] for values in whole))
