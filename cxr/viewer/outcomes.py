"""What became of every box, and how wrong each image is."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from cxr import metrics
from cxr.metrics.breakdown import HIT
from cxr.schema import BOX_COLUMNS, CLASS_ID, IMAGE_ID, SCORE, ClassTable

KINDS = (HIT, *(kind for kind in metrics.ERRORS if kind != "missed"))
"""What a detection can be: a hit, or one of the kinds of false alarm."""

KIND = "kind"
HIT_SCORE = "hit_score"
"""Column of the truth: score of the detection that hits the box, missing where none does."""


def judge(
    detections: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    image_ids: Sequence[str],
    classes: ClassTable,
    iou_threshold: float,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Say of each detection what it is, and of each truth box what hits it.

    The answers hold for every score threshold: of the detections on one truth box the best scored is
    the hit, so it is the last to go when the threshold rises. A box is missed at the thresholds above
    its `hit_score`.

    Args:
        detections: `schema.DETECTION_COLUMNS`, original pixels.
        truth: `image_id, class_id` and box columns, original pixels; further columns are kept.
        image_ids: The images whose truth is known.
        classes: The data set's classes; boxes of the normal class are left out.
        iou_threshold: IoU that must be exceeded.

    Returns:
        The detections on these images with `kind` (one of `KINDS`), and the truth boxes of these images
        with `hit_score`.
    """
    true = _findings(truth[truth[IMAGE_ID].isin(image_ids)].dropna(subset=BOX_COLUMNS), classes)
    found = _findings(detections[detections[IMAGE_ID].isin(image_ids)], classes)
    errors = metrics.error_breakdown(
        found, true, iou_threshold=iou_threshold, image_ids=image_ids, class_ids=classes.finding_ids
    ).detections
    hits = errors[errors[KIND] == HIT].set_index("truth")[SCORE]
    return found.assign(**{KIND: errors[KIND].to_numpy()}), true.assign(**{HIT_SCORE: hits})


def how_wrong(found: pd.DataFrame, true: pd.DataFrame, score_threshold: float) -> pd.Series:
    """How wrong each image is: its missed boxes, plus the scores of its false alarms.

    Args:
        found: Detections with a `kind`, see `judge`.
        true: Truth boxes with a `hit_score`.
        score_threshold: Detections below it are not shown, so they neither hit nor alarm.

    Returns:
        The number by image id; images without an error are left out.
    """
    missed = true[~(true[HIT_SCORE] >= score_threshold)].groupby(IMAGE_ID).size()
    alarms = found[(found[KIND] != HIT) & (found[SCORE] >= score_threshold)]
    return missed.add(alarms.groupby(IMAGE_ID)[SCORE].sum(), fill_value=0.0)


def _findings(rows: pd.DataFrame, classes: ClassTable) -> pd.DataFrame:
    return rows[rows[CLASS_ID].isin(classes.finding_ids)].reset_index(drop=True)
