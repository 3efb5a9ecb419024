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
) -> pd.DataFrame:
    """Fuse what several looks, or several detectors, found on the same images.

    By weighted boxes fusion a look that finds nothing on an image lowers the scores of the others' boxes.

    Args:
        tables: `schema.DETECTION_COLUMNS`, one a view or detector, in pixels of the same images.
        image_ids: The images, in the order of the result.
        looks: How to fuse, and how many boxes to keep.

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
    fused = box_tools.fuse_models(
        boxes[keep],
        rows[schema.SCORE].to_numpy(np.float64)[keep],
        rows[schema.CLASS_ID].to_numpy(np.int64)[keep],
        views[keep],
        method=looks.detector_fusion,
        n_models=len(tables),
        iou_threshold=looks.detector_fusion_iou,
        images=images[keep],
    )
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
