"""Scores as probabilities: what a detector's 0.6 is worth, learned on images it did not train on.

Within a class the order of the boxes stays, so the average precision of one detector is the same. It
matters where several are fused: a detector that is sure of itself must not outvote one that is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logit

from cxr import metrics, schema
from cxr.errors import DataError
from cxr.schema import ClassTable

_EDGE = 1e-6


@dataclass(frozen=True)
class ScoreCalibration:
    """The probability that a box is a hit: `sigmoid(slope * logit(score) + offsets[class_id])`.

    Attributes:
        slope: Above zero, so that better stays better.
        offsets: One a finding, by class id.
        weights: How much the detector counts beside others, one a finding; empty for as much as each other.
    """

    slope: float
    offsets: tuple[float, ...]
    weights: tuple[float, ...] = ()

    def apply(self, scores: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
        """Probabilities of boxes with these scores and class ids, float64 (N,)."""
        certain = logit(np.clip(np.asarray(scores, dtype=np.float64), _EDGE, 1 - _EDGE))
        return expit(self.slope * certain + np.asarray(self.offsets)[np.asarray(class_ids, dtype=np.int64)])

    def apply_table(self, detections: pd.DataFrame) -> pd.DataFrame:
        """Detections (`schema.DETECTION_COLUMNS`) with probabilities for scores, best first in each image."""
        scores = self.apply(detections[schema.SCORE], detections[schema.CLASS_ID])
        images = pd.factorize(detections[schema.IMAGE_ID])[0]
        order = np.lexsort((-scores, images))
        return detections.assign(**{schema.SCORE: scores}).iloc[order].reset_index(drop=True)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        return {"slope": self.slope, "offsets": list(self.offsets), "weights": list(self.weights)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ScoreCalibration:
        """The inverse of `to_dict`."""
        offsets, weights = (tuple(float(v) for v in plain.get(name, ())) for name in ("offsets", "weights"))
        return cls(float(plain["slope"]), offsets, weights)


def calibrate_scores(
    detections: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    image_ids: Sequence[str],
    classes: ClassTable = schema.VINBIGDATA,
    iou_threshold: float = 0.4,
    shrinkage: float = 1.0,
) -> ScoreCalibration:
    """Fit a detector's calibration on images it was not trained on.

    A logistic regression of "this box is the hit of a true box" on the score's logit, with one
    slope for all classes, drawn towards 1, and an offset a class, drawn towards their common one.

    Args:
        detections: `schema.DETECTION_COLUMNS` of these images, low scores included.
        truth: Boxes in the same pixels.
        image_ids: The images, those without any box included.
        classes: The data set's classes.
        iou_threshold: IoU of a hit.
        shrinkage: Strength of the pull; a class without a detection gets the common offset.

    Raises:
        DataError: There is no hit or no false alarm to learn from.

    References:
        Platt, Probabilistic outputs for support vector machines (1999).
    """
    ids = list(classes.finding_ids)
    problem = metrics.encode(detections, truth, image_ids=image_ids, class_ids=ids)
    hit = metrics.match(
        problem.detections, problem.truth, n_classes=len(ids), iou_threshold=iou_threshold
    ).hit
    if hit.all() or not hit.any():
        raise DataError(
            f"calibration needs hits and false alarms, got {int(hit.sum())} hits of {len(hit)} boxes"
        )
    certain = logit(problem.detections.score.clip(_EDGE, 1 - _EDGE))
    label, sign = problem.detections.label, np.where(hit, 1.0, -1.0)

    def cost(values: np.ndarray) -> tuple[float, np.ndarray]:
        slope, common, extra = np.exp(values[0]), values[1], values[2:]
        margin = sign * (slope * certain + common + extra[label])
        pull = -sign * expit(-margin)
        gradient = np.concatenate(
            [
                [(pull * slope * certain).sum() + shrinkage * values[0], pull.sum()],
                np.bincount(label, pull, len(ids)) + shrinkage * extra,
            ]
        )
        prior = 0.5 * shrinkage * ((extra**2).sum() + values[0] ** 2)
        return -log_expit(margin).sum() + prior, gradient

    found = minimize(cost, np.zeros(2 + len(ids)), jac=True, method="L-BFGS-B").x
    return ScoreCalibration(float(np.exp(found[0])), tuple((found[1] + found[2:]).tolist()))
