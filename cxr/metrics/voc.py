"""PASCAL VOC 2010 average precision, the competition's metric."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from cxr.boxes.compiled import HAVE_NUMBA, compiled
from cxr.metrics.encoding import Problem, encode
from cxr.metrics.matching import Matches, match
from cxr.schema import CLASS_ID


@dataclass(frozen=True)
class VocResult:
    """Average precision of every class.

    Attributes:
        map: Mean over the classes that have truth; NaN where none has.
        per_class: `class_id, ap, n_truth, n_detections`, by rising id; `ap` is NaN for a class without
            truth.
        n_images: Number of images that counted.
        iou_threshold: The IoU that had to be exceeded.
        points: The hits of every class, from which the curves are drawn.
    """

    map: float
    per_class: pd.DataFrame
    n_images: int
    iou_threshold: float
    points: HitPoints

    def mean_over(self, class_ids: Iterable[int]) -> float:
        """Mean average precision over those of the given classes that have truth."""
        chosen = self.per_class["ap"][self.per_class[CLASS_ID].isin(list(class_ids))]
        return float(chosen.mean())

    @cached_property
    def curves(self) -> dict[int, pd.DataFrame]:
        """Precision and recall of every class that has truth, by class id.

        One row for each hit, best score first, and one for all detections: `score, recall, precision,
        detections` (how many stand at or before it). Between two hits precision only falls, so nothing
        of the curve's envelope is lost.
        """
        counted = zip(self.per_class[CLASS_ID], self.per_class["n_truth"], strict=True)
        return {int(class_id): self.points.curve(c, int(n)) for c, (class_id, n) in enumerate(counted) if n}


@dataclass(frozen=True)
class HitPoints:
    """The hits of each class, best score first, and how many detections stand before them.

    Attributes:
        starts: Where each class starts, `int64 (classes + 1,)`.
        index: Detection of each hit, `int64 (H,)`.
        score: Its score, `float64 (H,)`.
        seen: Detections of its class up to it, itself included, `int64 (H,)`.
        n_detections: Detections of each class, `int64 (classes,)`.
        lowest: Lowest score of each class, `float64 (classes,)`; infinite without detections.
    """

    starts: np.ndarray
    index: np.ndarray
    score: np.ndarray
    seen: np.ndarray
    n_detections: np.ndarray
    lowest: np.ndarray

    def average_precision(self, n_truth: np.ndarray) -> np.ndarray:
        """All-point average precision of every class, NaN for a class without truth."""
        ap = np.full(len(n_truth), np.nan)
        for c in np.flatnonzero(n_truth):
            seen = self.seen[self.starts[c] : self.starts[c + 1]]
            precision = np.arange(1, len(seen) + 1) / seen
            ap[c] = np.maximum.accumulate(precision[::-1]).sum() / n_truth[c]
        return ap

    def curve(self, c: int, n_truth: int) -> pd.DataFrame:
        """Precision and recall of one class at every hit and at the last detection."""
        part = slice(self.starts[c], self.starts[c + 1])
        seen, score, total = self.seen[part], self.score[part], self.n_detections[c]
        hits = np.arange(1, len(seen) + 1)
        if total > (seen[-1] if len(seen) else 0):
            seen, score = np.append(seen, total), np.append(score, self.lowest[c])
            hits = np.append(hits, len(hits))
        return pd.DataFrame(
            {"score": score, "recall": hits / n_truth, "precision": hits / seen, "detections": seen}
        )


def voc_map(
    detections: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    iou_threshold: float = 0.4,
    image_ids: Iterable[str] | None = None,
    class_ids: Iterable[int] | None = None,
) -> VocResult:
    """Score detections by PASCAL VOC 2010 mean average precision.

    Per class, the detections of all images are ordered by falling score, equal scores in the order of
    their rows. Each belongs to the truth box it overlaps most in its image (see `matching.match`); the first
    to reach a truth box is a true positive, everything else, duplicates and detections in images
    without truth included, a false positive. The average precision is the area under the
    precision-recall curve at all points, precision made monotone from the right.

    Args:
        detections: `schema.DETECTION_COLUMNS`, boxes in pixels of the original images.
        truth: `image_id, class_id` and box columns in the same pixels; rows without coordinates (normal
            images) are no boxes. `with_normal_rows` gives them the box the competition scores.
        iou_threshold: IoU that must be exceeded.
        image_ids: The images that count; all that occur in either table by default.
        class_ids: The classes that count; all that occur by default.

    Returns:
        The mean, the classes, and their curves.

    Raises:
        DataError: A column is missing.
        BoxError: A coordinate or a score that is no number, or a truth box without area.

    References:
        Everingham and Winn, The PASCAL VOC 2010 Development Kit, 3.4.1 and `VOCevaldet.m`.
    """
    problem = encode(detections, truth, image_ids=image_ids, class_ids=class_ids)
    return voc_score(problem, iou_threshold=iou_threshold)


def voc_score(problem: Problem, *, iou_threshold: float = 0.4) -> VocResult:
    """Score a problem that is already in arrays; see `voc_map`."""
    n_classes = len(problem.class_ids)
    matches = match(problem.detections, problem.truth, n_classes=n_classes, iou_threshold=iou_threshold)
    points = hit_points(problem, matches)
    n_truth = np.bincount(problem.truth.label, minlength=n_classes)
    ap = points.average_precision(n_truth)
    per_class = pd.DataFrame(
        {CLASS_ID: problem.class_ids, "ap": ap, "n_truth": n_truth, "n_detections": points.n_detections}
    )
    mean = float(ap[n_truth > 0].mean()) if n_truth.any() else float("nan")
    return VocResult(mean, per_class, len(problem.image_ids), float(iou_threshold), points)


def hit_points(problem: Problem, matches: Matches) -> HitPoints:
    """Order the hits of each class and count the detections before each.

    Only the hits are sorted; every other detection is merely counted into the gap between two hits
    where it belongs, which is much cheaper than sorting them all.
    """
    detections, n_classes = problem.detections, len(problem.class_ids)
    index = matches.winner[matches.winner >= 0]
    index = index[np.lexsort((index, -detections.score[index], detections.label[index]))]
    starts = np.searchsorted(detections.label[index], np.arange(n_classes + 1))
    score = detections.score[index]
    count = _count_gaps if HAVE_NUMBA else _count_gaps_numpy
    gaps, n_detections, lowest = count(detections.label, detections.score, starts, index, score)
    seen = np.empty(len(index), dtype=np.int64)
    for c in range(n_classes):
        part = slice(starts[c], starts[c + 1])
        seen[part] = gaps[part].cumsum()
    return HitPoints(starts, index, score, seen, n_detections, lowest)


_BUCKETS = 1024


@compiled
def _count_gaps(
    labels: np.ndarray,
    scores: np.ndarray,
    starts: np.ndarray,
    hit_index: np.ndarray,
    hit_scores: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the detections that follow the hit before and precede, or are, each hit.

    The hits' scores fall into buckets of equal width, so that the search for a detection's place
    among them starts in a range that holds one or two, not hundreds. The bucket is a falling function of
    the score, so a hit in an earlier bucket certainly comes before, in a later one after.
    """
    n_classes = starts.shape[0] - 1
    gaps = np.zeros(hit_index.shape[0], np.int64)
    n_detections = np.zeros(n_classes, np.int64)
    lowest = np.full(n_classes, np.inf)
    top = np.zeros(n_classes)
    per_score = np.zeros(n_classes)
    bucket_starts = np.zeros((n_classes, _BUCKETS + 1), np.int64)
    for c in range(n_classes):
        first, last = starts[c], starts[c + 1]
        if first == last:
            bucket_starts[c, :] = last
            continue
        top[c] = hit_scores[first]
        spread = top[c] - hit_scores[last - 1]
        if spread > 0 and np.isfinite(_BUCKETS / spread):
            per_score[c] = (_BUCKETS - 2) / spread
        h = first
        for b in range(_BUCKETS):
            bucket_starts[c, b] = h
            while h < last and (top[c] - hit_scores[h]) * per_score[c] < b + 1:
                h += 1
        bucket_starts[c, _BUCKETS] = last
    for i in range(labels.shape[0]):
        c = labels[i]
        score = scores[i]
        n_detections[c] += 1
        lowest[c] = min(lowest[c], score)
        place = (top[c] - score) * per_score[c]
        b = 0
        if place >= _BUCKETS - 1:
            b = _BUCKETS - 1
        elif place > 0:
            b = int(place)
        low, high = bucket_starts[c, b], bucket_starts[c, b + 1]
        while low < high:
            middle = (low + high) // 2
            s = hit_scores[middle]
            if s > score or (s == score and hit_index[middle] < i):
                low = middle + 1
            else:
                high = middle
        if low < starts[c + 1]:
            gaps[low] += 1
    return gaps, n_detections, lowest


def _count_gaps_numpy(
    labels: np.ndarray,
    scores: np.ndarray,
    starts: np.ndarray,
    hit_index: np.ndarray,
    hit_scores: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n_classes = len(starts) - 1
    gaps = np.zeros(len(hit_index), dtype=np.int64)
    order = np.lexsort((-scores, labels))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    first = np.searchsorted(labels[order], np.arange(n_classes + 1))
    lowest = np.full(n_classes, np.inf)
    for c in range(n_classes):
        part = slice(starts[c], starts[c + 1])
        gaps[part] = np.diff(place[hit_index[part]] + 1 - first[c], prepend=0)
        if first[c] < first[c + 1]:
            lowest[c] = scores[order[first[c + 1] - 1]]
    return gaps, np.diff(first), lowest
