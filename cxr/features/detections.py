"""Features from a detector's boxes, taken only where the detector had not seen the image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from cxr import schema
from cxr.errors import DataError

DETECTOR_PREFIX = "detector_"
_KINDS = ("score", "count", "area")


def detector_feature_names(classes: schema.ClassTable = schema.VINBIGDATA) -> list[str]:
    """Names of the detector features: score, count and area of each finding."""
    return [f"{DETECTOR_PREFIX}{kind}_{class_id}" for class_id in classes.finding_ids for kind in _KINDS]


def detector_features(
    detections: pd.DataFrame,
    image_ids: Sequence[str],
    *,
    oof_image_ids: Iterable[str],
    sizes: pd.DataFrame,
    classes: schema.ClassTable = schema.VINBIGDATA,
    score_threshold: float = 0.1,
) -> pd.DataFrame:
    """Summarise each image's detections by class: highest score, count, share of the image covered.

    A detector is sure of images it was trained on; features from those would teach the classifier
    a certainty that no new image has. So the caller names the images that the detections are
    out-of-fold for, and any other image is refused.

    Args:
        detections: Columns `schema.DETECTION_COLUMNS`, original pixels.
        image_ids: Images to describe, the order of the rows; one without detections gets zeros.
        oof_image_ids: Images whose detections come from a detector that did not train on them.
        sizes: Columns `image_id, rows, columns`: original sizes in pixels.
        classes: The class table; the normal class has no features.
        score_threshold: Least score of a box that counts for count and area.

    Returns:
        One row an image: `image_id`, then for each finding `detector_score_<id>` in [0, 1],
        `detector_count_<id>` and `detector_area_<id>` (sum of box areas over image area).

    Raises:
        DataError: An image that is not out-of-fold, or one without a size.
    """
    ids = pd.Index(list(image_ids), name=schema.IMAGE_ID)
    seen = ids[~ids.isin(list(oof_image_ids))]
    if len(seen):
        raise DataError(
            f"detector features: expected out-of-fold detections only, got {len(seen)} images the detector "
            f"may have trained on (first: {seen[0]})"
        )
    area = sizes.drop_duplicates(schema.IMAGE_ID).set_index(schema.IMAGE_ID)
    unsized = ids[~ids.isin(area.index)]
    if len(unsized):
        raise DataError(f"detector features: no original size for image {unsized[0]}")

    table = detections[
        detections[schema.IMAGE_ID].isin(ids) & detections[schema.CLASS_ID].isin(list(classes.finding_ids))
    ]
    image_area = area["rows"].astype(float) * area["columns"].astype(float)
    box_area = (table["x_max"] - table["x_min"]) * (table["y_max"] - table["y_min"])
    counted = table[schema.SCORE] >= score_threshold
    measured = pd.DataFrame(
        {
            schema.IMAGE_ID: table[schema.IMAGE_ID],
            schema.CLASS_ID: table[schema.CLASS_ID].astype(int),
            "score": table[schema.SCORE].astype(float),
            "count": counted.astype(float),
            "area": np.where(counted, box_area / table[schema.IMAGE_ID].map(image_area), 0.0),
        }
    )
    grouped = measured.groupby([schema.IMAGE_ID, schema.CLASS_ID]).agg(
        score=("score", "max"), count=("count", "sum"), area=("area", "sum")
    )
    wide = grouped.unstack(schema.CLASS_ID)
    wide.columns = [f"{DETECTOR_PREFIX}{kind}_{class_id}" for kind, class_id in wide.columns]
    wide = wide.reindex(index=ids, columns=detector_feature_names(classes)).astype(float).fillna(0.0)
    return wide.reset_index()
