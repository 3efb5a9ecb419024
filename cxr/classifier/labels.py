"""What the classifier learns to tell: labels of images, from reader or consensus tables."""

from __future__ import annotations

import pandas as pd

from cxr import schema


def image_labels(annotations: pd.DataFrame, *, classes: schema.ClassTable = schema.VINBIGDATA) -> pd.Series:
    """Whether an image holds any finding.

    Args:
        annotations: At least `image_id, class_id`; reader rows or consensus rows.
        classes: The class table, whose last class is "normal".

    Returns:
        1 for an image with a finding, else 0; index `image_id`, sorted; name `abnormal`.
    """
    finding = annotations[schema.CLASS_ID] != classes.normal_id
    labels = finding.groupby(annotations[schema.IMAGE_ID]).any().astype(int)
    return labels.rename("abnormal").rename_axis(schema.IMAGE_ID)


def finding_labels(
    annotations: pd.DataFrame, *, classes: schema.ClassTable = schema.VINBIGDATA
) -> pd.DataFrame:
    """Which findings an image holds.

    Args:
        annotations: At least `image_id, class_id`; reader rows or consensus rows.
        classes: The class table, whose last class is "normal".

    Returns:
        0/1 columns `p_<class_id>`, one a finding; index `image_id`, sorted.
    """
    held = pd.crosstab(annotations[schema.IMAGE_ID], annotations[schema.CLASS_ID]).gt(0).astype(int)
    held = held.reindex(columns=list(classes.finding_ids), fill_value=0)
    held.columns = [f"p_{class_id}" for class_id in held.columns]
    return held.rename_axis(schema.IMAGE_ID)
