"""Where the errors come from: place, class, repetition, nothing there, or missed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from cxr.metrics.encoding import Boxes, Problem, encode
from cxr.metrics.matching import Matches, match
from cxr.metrics.overlap import all_pairs
from cxr.metrics.voc import voc_score
from cxr.schema import BOX_COLUMNS, CLASS_ID, IMAGE_ID, SCORE

HIT = "hit"
ERRORS = ("localisation", "class", "both", "duplicate", "background", "missed")
"""Kinds of error, see `error_breakdown`."""


@dataclass(frozen=True)
class ErrorBreakdown:
    """Every detection and truth box with what became of it.

    Attributes:
        counts: `class_id, hit` and a column per kind of error; detections count under their own class,
            missed truth boxes under theirs.
        gain: What mean average precision would rise by, were all errors of a kind (and no other) put
            right, indexed by kind. Unlike the counts, over detections of any score.
        detections: The detections shown: `schema.DETECTION_COLUMNS`, `kind`, `iou` (with the truth box
            that decided; 0 for background) and `truth` (its place in `truth`, -1 without one).
        truth: The truth boxes: `image_id, class_id`, box columns, `kind` ("hit", "missed", or the error
            of the detection that comes nearest).
    """

    counts: pd.DataFrame
    gain: pd.Series
    detections: pd.DataFrame
    truth: pd.DataFrame


def error_breakdown(
    detections: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    score_threshold: float = 0.0,
    iou_threshold: float = 0.4,
    background_iou: float = 0.1,
    image_ids: Iterable[str] | None = None,
    class_ids: Iterable[int] | None = None,
) -> ErrorBreakdown:
    """Say of every detection what is wrong with it, and what each kind of error costs.

    The first that holds:

    - hit: the true positive of `voc_map`;
    - duplicate: its truth box is hit already by a better scored detection;
    - localisation: of its own class, a truth box at an IoU of at least `background_iou`;
    - class: a truth box of another class at more than `iou_threshold`;
    - both: a truth box of another class at an IoU of at least `background_iou`;
    - background: nothing there.

    A truth box is missed when no detection hits it and none comes near enough to be a localisation or a
    class error on it.

    For the gains, a localisation or class error gets its truth box's edges and class, unless that box is
    hit already or a better scored detection claims it (then it is removed); the other wrong detections
    are removed; missed truth boxes are removed.

    Args:
        detections: `schema.DETECTION_COLUMNS`, original pixels.
        truth: `image_id, class_id` and box columns, original pixels.
        score_threshold: Detections below it are not shown (and not counted).
        iou_threshold: IoU that must be exceeded.
        background_iou: IoU from which a detection counts as near a truth box.
        image_ids: The images that count; all that occur by default.
        class_ids: The classes that count; all that occur by default.

    Returns:
        Counts, gains, and the two tables.

    Raises:
        DataError: A column is missing.
        BoxError: An impossible box or score.

    References:
        Bolya et al. 2020, TIDE, https://arxiv.org/abs/2008.08115, whose kinds these are. Differences:
        the VOC rule decides what hits, and the order above gives a repeated box to "duplicate" first.
    """
    problem = encode(detections, truth, image_ids=image_ids, class_ids=class_ids)
    gain = _gains(problem, iou_threshold, background_iou)

    shown = problem.detections.score >= score_threshold
    found = Boxes(*(values[shown] for values in _fields(problem.detections)))
    problem = replace(problem, detections=found)
    kind, near, iou, of_truth = _classify(problem, iou_threshold, background_iou)
    table = pd.DataFrame(found.boxes, columns=BOX_COLUMNS)
    table.insert(0, IMAGE_ID, problem.image_ids[found.image])
    table.insert(1, CLASS_ID, problem.class_ids[found.label])
    table.insert(2, SCORE, found.score)
    table["kind"], table["iou"], table["truth"] = kind, iou, near
    true = pd.DataFrame(problem.truth.boxes, columns=BOX_COLUMNS)
    true.insert(0, IMAGE_ID, problem.image_ids[problem.truth.image])
    true.insert(1, CLASS_ID, problem.class_ids[problem.truth.label])
    true["kind"] = of_truth

    counts = pd.DataFrame({CLASS_ID: problem.class_ids})
    for name in (HIT, *ERRORS):
        labels = problem.truth.label[of_truth == name] if name == "missed" else found.label[kind == name]
        counts[name] = np.bincount(labels, minlength=len(problem.class_ids))
    return ErrorBreakdown(counts, gain, table, true)


def _classify(
    problem: Problem, iou_threshold: float, background_iou: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Kind, deciding truth box and its IoU for every detection; kind for every truth box."""
    found, true = problem.detections, problem.truth
    matches = match(found, true, n_classes=len(problem.class_ids), iou_threshold=iou_threshold)
    pairs = all_pairs(found, true)
    same = found.label[pairs.detection] == true.label[pairs.truth]
    own, own_iou = _nearest(len(found), pairs.detection[same], pairs.truth[same], pairs.iou[same])
    other, other_iou = _nearest(len(found), pairs.detection[~same], pairs.truth[~same], pairs.iou[~same])

    kind = np.full(len(found), "background", dtype=object)
    kind[other_iou >= background_iou] = "both"
    kind[other_iou > iou_threshold] = "class"
    kind[own_iou >= background_iou] = "localisation"
    kind[matches.truth >= 0] = "duplicate"
    kind[matches.hit] = HIT
    by_own = np.isin(kind, [HIT, "duplicate", "localisation"])
    by_other = np.isin(kind, ["class", "both"])
    near = np.where(by_own, own, np.where(by_other, other, -1))
    near = np.where(matches.truth >= 0, matches.truth, near)
    iou = np.where(by_own, own_iou, np.where(by_other, other_iou, 0.0))

    of_truth = np.full(len(true), "missed", dtype=object)
    for name in ("class", "localisation"):
        of_truth[near[kind == name]] = name
    of_truth[matches.winner >= 0] = HIT
    return kind, near, iou, of_truth


def _nearest(
    n: int, detection: np.ndarray, truth: np.ndarray, iou: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The truth box of highest IoU for each detection, the first row of equal ones."""
    nearest, best = np.full(n, -1), np.zeros(n)
    order = np.lexsort((truth, -iou, detection))
    first, places = np.unique(detection[order], return_index=True)
    nearest[first], best[first] = truth[order[places]], iou[order[places]]
    return nearest, best


def _gains(problem: Problem, iou_threshold: float, background_iou: float) -> pd.Series:
    kind, near, _, of_truth = _classify(problem, iou_threshold, background_iou)
    found, true = problem.detections, problem.truth
    matches = match(found, true, n_classes=len(problem.class_ids), iou_threshold=iou_threshold)
    before = voc_score(problem, iou_threshold=iou_threshold).map
    gains = {}
    for name in ERRORS:
        if name == "missed":
            kept = of_truth != "missed"
            mended = replace(problem, truth=Boxes(*(values[kept] for values in _fields(true))))
        else:
            mended = _mend(problem, matches, kind, near, name)
        gains[name] = voc_score(mended, iou_threshold=iou_threshold).map - before
    return pd.Series(gains, name="gain", dtype=np.float64).rename_axis("kind")


def _mend(problem: Problem, matches: Matches, kind: np.ndarray, near: np.ndarray, name: str) -> Problem:
    found, true = problem.detections, problem.truth
    wrong = kind == name
    boxes, labels = found.boxes.copy(), found.label.copy()
    keep = ~wrong
    if name in ("localisation", "class"):
        claims = np.flatnonzero(wrong)
        claims = claims[matches.winner[near[claims]] < 0]
        claims = claims[np.lexsort((claims, -found.score[claims]))]
        _, first = np.unique(near[claims], return_index=True)
        chosen = claims[first]
        boxes[chosen], labels[chosen] = true.boxes[near[chosen]], true.label[near[chosen]]
        keep[chosen] = True
    return replace(problem, detections=Boxes(found.image[keep], labels[keep], boxes[keep], found.score[keep]))


def _fields(boxes: Boxes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return boxes.image, boxes.label, boxes.boxes, boxes.score
