"""FROC: what share of the findings is found at so many false alarms an image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxr.errors import ParameterError
from cxr.metrics.encoding import Problem, encode
from cxr.metrics.matching import match
from cxr.metrics.voc import HitPoints, hit_points
from cxr.schema import CLASS_ID

FROC_RATES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
"""False positives an image at which sensitivity is read off, as in LUNA16 and others before it."""


@dataclass(frozen=True)
class FrocResult:
    """Sensitivities of every class.

    Attributes:
        mean: Mean over classes with truth and over the rates.
        sensitivity: Mean over classes at each rate, indexed by the rate.
        per_class: `class_id, n_truth, mean` and one column `at_<rate>` per rate; NaN without truth.
        curves: For every class with truth: `score, false_positives` (per image), `sensitivity`, one row
            per score of a hit, falling.
    """

    mean: float
    sensitivity: pd.Series
    per_class: pd.DataFrame
    curves: dict[int, pd.DataFrame]


def froc(
    detections: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    rates: Sequence[float] = FROC_RATES,
    iou_threshold: float = 0.4,
    image_ids: Iterable[str] | None = None,
    class_ids: Iterable[int] | None = None,
) -> FrocResult:
    """Read sensitivity off at given rates of false positives, class by class.

    A score threshold lets in every detection of at least that score; hits are those of `voc_map`,
    everything else, duplicates included, is a false positive. The sensitivity at a rate is the best
    of all thresholds that keep the class's false positives per image within it; images without truth
    count like the others.

    Args:
        detections: `schema.DETECTION_COLUMNS`, original pixels.
        truth: `image_id, class_id` and box columns, original pixels.
        rates: False positives per image, per class.
        iou_threshold: IoU that must be exceeded.
        image_ids: The images that count; all that occur by default.
        class_ids: The classes that count; all that occur by default.

    Returns:
        Sensitivities and curves.

    Raises:
        ParameterError: No rate, or a negative one.
        DataError: A column is missing.
        BoxError: An impossible box or score.

    References:
        Bandos et al. 2009, Area under the free-response ROC curve; Setio et al. 2017 (LUNA16), whose
        competition metric is the mean over the same seven rates.
    """
    limits = np.asarray(rates, dtype=np.float64)
    if limits.size == 0 or not (limits >= 0).all():
        raise ParameterError(
            f"rates: expected false positives per image of at least 0, got {limits.tolist()}"
        )
    problem = encode(detections, truth, image_ids=image_ids, class_ids=class_ids)
    n_classes, n_images = len(problem.class_ids), max(len(problem.image_ids), 1)
    matches = match(problem.detections, problem.truth, n_classes=n_classes, iou_threshold=iou_threshold)
    points = hit_points(problem, matches)
    n_truth = np.bincount(problem.truth.label, minlength=n_classes)
    let_in = detections_from_score(problem, points)

    sensitivities = np.full((n_classes, len(limits)), np.nan)
    curves = {}
    for c in np.flatnonzero(n_truth):
        part = slice(points.starts[c], points.starts[c + 1])
        score = points.score[part]
        hits = np.searchsorted(-score, -score, side="right")
        false_positives = (let_in[part] - hits) / n_images
        sensitivity = hits / n_truth[c]
        within = false_positives[None, :] <= limits[:, None] + 1e-12
        sensitivities[c] = np.where(within, sensitivity[None, :], 0.0).max(axis=1, initial=0.0)
        curves[int(problem.class_ids[c])] = pd.DataFrame(
            {"score": score, "false_positives": false_positives, "sensitivity": sensitivity}
        ).drop_duplicates("score", ignore_index=True)
    table = pd.DataFrame(sensitivities, columns=[f"at_{rate:g}" for rate in rates])
    table.insert(0, CLASS_ID, problem.class_ids)
    table.insert(1, "n_truth", n_truth)
    table.insert(2, "mean", sensitivities.mean(axis=1))
    scored = sensitivities[n_truth > 0]
    by_rate = scored.mean(axis=0) if len(scored) else np.full(len(rates), np.nan)
    return FrocResult(
        float(by_rate.mean()), pd.Series(by_rate, index=pd.Index(rates, name="rate")), table, curves
    )


def detections_from_score(problem: Problem, points: HitPoints) -> np.ndarray:
    """Count, for every hit, the detections of its class that have at least its score."""
    labels, scores = problem.detections.label, problem.detections.score
    counts = np.empty(len(points.index), dtype=np.int64)
    for c in range(len(points.starts) - 1):
        part = slice(points.starts[c], points.starts[c + 1])
        rising = np.sort(scores[labels == c])
        counts[part] = len(rising) - np.searchsorted(rising, points.score[part], side="left")
    return counts
