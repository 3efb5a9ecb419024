"""Precision, recall and confusion at one chosen score threshold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxr.metrics.encoding import Problem, encode
from cxr.metrics.froc import detections_from_score
from cxr.metrics.matching import Matches, match
from cxr.metrics.overlap import all_pairs
from cxr.metrics.voc import hit_points
from cxr.schema import CLASS_ID

BACKGROUND = "background"
"""In a confusion table: the detection that hits nothing, or the truth box that nothing hits."""


@dataclass(frozen=True)
class OperatingPoint:
    """What a reader of the output meets when detections below a threshold are hidden.

    Attributes:
        per_class: `class_id, score_threshold, hits, false_positives, missed, precision, recall, f1`; a ratio
            is NaN where there is nothing to divide by.
        precision: Of all detections shown, the share that hit.
        recall: Of all truth boxes, the share that is hit.
        f1: Their harmonic mean.
        false_positives_per_image: Of all classes together.
    """

    per_class: pd.DataFrame
    precision: float
    recall: float
    f1: float
    false_positives_per_image: float


def operating_point(
    detections: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    score_threshold: float | Mapping[int, float] | None = None,
    iou_threshold: float = 0.4,
    image_ids: Iterable[str] | None = None,
    class_ids: Iterable[int] | None = None,
) -> OperatingPoint:
    """Count hits, false positives and misses among detections of at least a given score.

    Args:
        detections: `schema.DETECTION_COLUMNS`, original pixels.
        truth: `image_id, class_id` and box columns, original pixels.
        score_threshold: One for all classes, or one per class id (a class that is not in it shows
            everything). None chooses for each class the threshold of the best F1 on these very data (of
            equal ones the highest), which flatters: take it from validation images. A class without a
            hit has nothing to choose by, so it gets the threshold of the best F1 of all classes together,
            and its false positives count; where nothing hits at all, everything is shown.
        iou_threshold: IoU that must be exceeded; hits are those of `voc_map`.
        image_ids: The images that count; all that occur by default.
        class_ids: The classes that count; all that occur by default.

    Returns:
        Counts and ratios, per class and over all.

    Raises:
        DataError: A column is missing.
        BoxError: An impossible box or score.
    """
    problem = encode(detections, truth, image_ids=image_ids, class_ids=class_ids)
    n_classes = len(problem.class_ids)
    matches = match(problem.detections, problem.truth, n_classes=n_classes, iou_threshold=iou_threshold)
    n_truth = np.bincount(problem.truth.label, minlength=n_classes)
    if score_threshold is None:
        thresholds = _best_f1(problem, matches, n_truth)
    elif isinstance(score_threshold, Mapping):
        thresholds = np.array([score_threshold.get(int(c), -np.inf) for c in problem.class_ids])
    else:
        thresholds = np.full(n_classes, float(score_threshold))
    shown = problem.detections.score >= thresholds[problem.detections.label]
    n_shown = np.bincount(problem.detections.label[shown], minlength=n_classes)
    hits = np.bincount(problem.detections.label[shown & matches.hit], minlength=n_classes)
    table = pd.DataFrame(
        {
            CLASS_ID: problem.class_ids,
            "score_threshold": thresholds,
            "hits": hits,
            "false_positives": n_shown - hits,
            "missed": n_truth - hits,
            "precision": _ratio(hits, n_shown),
            "recall": _ratio(hits, n_truth),
            "f1": _ratio(2 * hits, n_shown + n_truth),
        }
    )
    total, total_shown, total_truth = hits.sum(), n_shown.sum(), n_truth.sum()
    return OperatingPoint(
        table,
        float(_ratio(total, total_shown)),
        float(_ratio(total, total_truth)),
        float(_ratio(2 * total, total_shown + total_truth)),
        float(_ratio(total_shown - total, len(problem.image_ids))),
    )


def confusion(
    detections: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    score_threshold: float = 0.0,
    iou_threshold: float = 0.4,
    image_ids: Iterable[str] | None = None,
    class_ids: Iterable[int] | None = None,
) -> pd.DataFrame:
    """Count which class was detected where which class is true.

    Boxes are paired one to one. Findings of different classes often share a place in a chest, so pairs of
    the same class come first (as in `voc_map`); what is left is paired across classes, best IoU first.

    Args:
        detections: `schema.DETECTION_COLUMNS`, original pixels.
        truth: `image_id, class_id` and box columns, original pixels.
        score_threshold: Detections below it are left out.
        iou_threshold: IoU that must be exceeded.
        image_ids: The images that count; all that occur by default.
        class_ids: The classes that count; all that occur by default.

    Returns:
        Rows are true classes, columns detected ones, ids rising, both ending in `BACKGROUND`: its column
        counts missed truth boxes, its row detections without a truth box.

    Raises:
        DataError: A column is missing.
        BoxError: An impossible box or score.
    """
    shown = detections[detections["score"] >= score_threshold]
    problem = encode(shown, truth, image_ids=image_ids, class_ids=class_ids)
    if class_ids is None:
        problem = encode(detections, truth, image_ids=image_ids)
        problem = encode(shown, truth, image_ids=image_ids, class_ids=problem.class_ids)
    n_classes = len(problem.class_ids)
    found, true = problem.detections, problem.truth
    matches = match(found, true, n_classes=n_classes, iou_threshold=iou_threshold)
    partner = matches.winner.copy()
    free = ~matches.hit
    pairs = all_pairs(found, true)
    usable = (pairs.iou > iou_threshold) & free[pairs.detection] & (partner[pairs.truth] < 0)
    order = np.flatnonzero(usable)
    order = order[np.lexsort((pairs.truth[order], pairs.detection[order], -pairs.iou[order]))]
    for d, t in zip(pairs.detection[order].tolist(), pairs.truth[order].tolist(), strict=True):
        if free[d] and partner[t] < 0:
            partner[t], free[d] = d, False
    counts = np.zeros((n_classes + 1, n_classes + 1), dtype=np.int64)
    paired = partner >= 0
    np.add.at(counts, (true.label[paired], found.label[partner[paired]]), 1)
    np.add.at(counts, (true.label[~paired], np.full(int((~paired).sum()), n_classes)), 1)
    np.add.at(counts, (np.full(int(free.sum()), n_classes), found.label[free]), 1)
    names = [*problem.class_ids.tolist(), BACKGROUND]
    return pd.DataFrame(counts, index=pd.Index(names, name="truth"), columns=pd.Index(names, name="detected"))


def _best_f1(problem: Problem, matches: Matches, n_truth: np.ndarray) -> np.ndarray:
    points = hit_points(problem, matches)
    let_in = detections_from_score(problem, points)
    thresholds = np.full(len(n_truth), np.nan)
    for c in range(len(n_truth)):
        part = slice(points.starts[c], points.starts[c + 1])
        thresholds[c] = _highest_f1(points.score[part], let_in[part], n_truth[c])
    falling = np.sort(points.score)[::-1]
    rising = np.sort(problem.detections.score)
    shown = len(rising) - np.searchsorted(rising, falling, side="left")
    of_all = _highest_f1(falling, shown, n_truth.sum())
    return np.where(np.isnan(thresholds), -np.inf if np.isnan(of_all) else of_all, thresholds)


def _highest_f1(score: np.ndarray, let_in: np.ndarray, n_truth: int) -> float:
    """The score, of those of the hits (falling), from which on F1 is best; NaN without a hit."""
    if len(score) == 0:
        return float("nan")
    hits = np.searchsorted(-score, -score, side="right")
    return float(score[int((2 * hits / (let_in + n_truth)).argmax())])


def _ratio(part: np.ndarray | int, whole: np.ndarray | int) -> np.ndarray:
    whole = np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
