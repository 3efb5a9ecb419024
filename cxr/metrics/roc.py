"""Whole images: is the finding there at all, is the image abnormal at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score, roc_curve

from cxr.errors import DataError
from cxr.metrics.encoding import encode
from cxr.schema import CLASS_ID, CLASS_NAME, VINBIGDATA, ClassTable

ABNORMAL = "Abnormal"
"""Name of the line that tells abnormal images from normal ones."""


@dataclass(frozen=True)
class RocResult:
    """Area under the ROC curve of every finding, by image.

    Attributes:
        mean: Mean area over the findings that have both kinds of images.
        abnormal: Area for abnormal against normal images; NaN where all are of one kind.
        per_class: `class_id, class_name, auc, n_positive, n_negative`: the findings, then `ABNORMAL`
            under the id of the normal class.
        curves: By class id: `threshold, false_positive_rate, true_positive_rate`.
    """

    mean: float
    abnormal: float
    per_class: pd.DataFrame
    curves: dict[int, pd.DataFrame]


def image_roc(
    detections: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    p_abnormal: pd.Series | None = None,
    image_ids: Iterable[str] | None = None,
    classes: ClassTable = VINBIGDATA,
) -> RocResult:
    """Judge images instead of boxes, by the best scored detection of each finding.

    An image's score for a finding is the highest score of its detections of that class, 0 without any;
    it is positive when the truth has a box of the class. Its score as abnormal is `p_abnormal` where
    given; else, where every image has a line of the normal class, one minus its score; else the highest
    score of any finding. (Were an image without a normal line taken as surely abnormal, a gate that leaves
    such lines out would be judged by that alone.)

    Args:
        detections: `schema.DETECTION_COLUMNS`.
        truth: `image_id, class_id` and box columns. Boxes matter only in that they are there.
        p_abnormal: Probability that the image is abnormal, indexed by `image_id`.
        image_ids: The images that count; all that occur in the tables by default.
        classes: Classes of the data set.

    Returns:
        Areas and curves.

    Raises:
        DataError: A column is missing, or `p_abnormal` lacks an image.
    """
    problem = encode(detections, truth, image_ids=image_ids, class_ids=range(len(classes.names)))
    n_images, normal = len(problem.image_ids), classes.normal_id
    score = np.zeros((len(classes.names), n_images))
    found = problem.detections
    np.maximum.at(score, (found.label, found.image), found.score)
    positive = np.zeros((len(classes.names), n_images), dtype=bool)
    positive[problem.truth.label, problem.truth.image] = True

    positive[normal] = positive[:normal].any(axis=0)
    if p_abnormal is not None:
        given = p_abnormal[~p_abnormal.index.duplicated()].reindex(problem.image_ids)
        if given.isna().any():
            raise DataError(f"p_abnormal: expected every image, got none for {given.index[given.isna()][0]}")
        score[normal] = given.to_numpy(np.float64)
    elif n_images and len(np.unique(found.image[found.label == normal])) == n_images:
        score[normal] = 1 - score[normal]
    else:
        score[normal] = score[:normal].max(axis=0, initial=0.0)

    areas, curves = np.full(len(classes.names), np.nan), {}
    for c in range(len(classes.names)):
        if 0 < positive[c].sum() < n_images:
            areas[c] = roc_auc_score(positive[c], score[c])
            rates = roc_curve(positive[c], score[c])
            curves[c] = pd.DataFrame(
                dict(zip(("false_positive_rate", "true_positive_rate", "threshold"), rates, strict=True))
            )
    n_positive = positive.sum(axis=1)
    table = pd.DataFrame(
        {
            CLASS_ID: range(len(classes.names)),
            CLASS_NAME: [*classes.finding_names, ABNORMAL],
            "auc": areas,
            "n_positive": n_positive,
            "n_negative": n_images - n_positive,
        }
    )
    known = areas[:normal][~np.isnan(areas[:normal])]
    mean = float(known.mean()) if len(known) else float("nan")
    return RocResult(mean, float(areas[normal]), table, curves)
