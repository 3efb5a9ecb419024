"""Which detection hits which truth box: the rule of PASCAL VOC 2010, in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxr.boxes import areas
from cxr.boxes.compiled import HAVE_NUMBA, compiled
from cxr.metrics.encoding import Boxes


@dataclass(frozen=True)
class Matches:
    """What became of every detection.

    Attributes:
        truth: The truth box of its image and class that it overlaps most, `int64 (N,)`; -1 where no
            IoU is greater than the threshold.
        hit: Whether it is the true positive of that box, `bool (N,)`.
        winner: For every truth box the detection that hits it, `int64 (M,)`; -1 for a missed one.
    """

    truth: np.ndarray
    hit: np.ndarray
    winner: np.ndarray


def match(detections: Boxes, truth: Boxes, *, n_classes: int, iou_threshold: float) -> Matches:
    """Match detections to truth boxes as PASCAL VOC 2010 does.

    A detection belongs to the truth box of its image and class that it overlaps most (equal IoUs: the
    first row of the truth), if that IoU is strictly greater than the threshold. Of the detections
    that belong to one box the best scored is the hit (equal scores: the first row); the others are
    false positives, even where a second-best box is still free.

    Args:
        detections: Detections of any number of images.
        truth: Truth boxes of the same images.
        n_classes: Number of classes the labels count.
        iou_threshold: IoU that must be exceeded.

    Returns:
        Truth box and hit of every detection, and every truth box's winner.

    References:
        Everingham and Winn, The PASCAL VOC 2010 Development Kit, 4.4 and `VOCevaldet.m`.
    """
    run = _match if HAVE_NUMBA else _match_numpy
    keys = truth.image * n_classes + truth.label
    n_keys = int(max(truth.image.max(initial=-1), detections.image.max(initial=-1)) + 1) * n_classes
    belongs, winner = run(
        detections.image * n_classes + detections.label,
        detections.score,
        detections.boxes,
        keys,
        truth.boxes,
        n_keys,
        float(iou_threshold),
    )
    hit = np.zeros(len(detections), dtype=bool)
    hit[winner[winner >= 0]] = True
    return Matches(belongs, hit, winner)


@compiled
def _match(
    keys: np.ndarray,
    scores: np.ndarray,
    boxes: np.ndarray,
    truth_keys: np.ndarray,
    truth_boxes: np.ndarray,
    n_keys: int,
    threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    n, m = keys.shape[0], truth_keys.shape[0]
    starts = np.zeros(n_keys + 1, np.int32)
    for j in range(m):
        starts[truth_keys[j] + 1] += 1
    for k in range(n_keys):
        starts[k + 1] += starts[k]
    fill = starts[:-1].copy()
    order = np.empty(m, np.int64)
    for j in range(m):
        order[fill[truth_keys[j]]] = j
        fill[truth_keys[j]] += 1

    belongs = np.full(n, -1, np.int64)
    winner = np.full(m, -1, np.int64)
    for i in range(n):
        first, last = starts[keys[i]], starts[keys[i] + 1]
        if first == last:
            continue
        x0, y0, x1, y1 = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
        area = (x1 - x0) * (y1 - y0)
        best, best_iou = -1, threshold
        for t in range(first, last):
            j = order[t]
            width = min(x1, truth_boxes[j, 2]) - max(x0, truth_boxes[j, 0])
            height = min(y1, truth_boxes[j, 3]) - max(y0, truth_boxes[j, 1])
            if width <= 0 or height <= 0:
                continue
            shared = width * height
            truth_area = (truth_boxes[j, 2] - truth_boxes[j, 0]) * (truth_boxes[j, 3] - truth_boxes[j, 1])
            iou = shared / (area + truth_area - shared)
            if iou > best_iou:
                best, best_iou = j, iou
        if best < 0:
            continue
        belongs[i] = best
        if winner[best] < 0 or scores[i] > scores[winner[best]]:
            winner[best] = i
    return belongs, winner


def _match_numpy(
    keys: np.ndarray,
    scores: np.ndarray,
    boxes: np.ndarray,
    truth_keys: np.ndarray,
    truth_boxes: np.ndarray,
    n_keys: int,
    threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    belongs = np.full(len(keys), -1, dtype=np.int64)
    winner = np.full(len(truth_keys), -1, dtype=np.int64)
    order = np.argsort(truth_keys, kind="stable")
    starts = np.searchsorted(truth_keys[order], np.arange(n_keys + 1))
    counts = (starts[1:] - starts[:-1])[keys]
    near = np.flatnonzero(counts)
    if len(near) == 0:
        return belongs, winner
    counts = counts[near]
    block = np.concatenate([[0], counts.cumsum()])
    pair_detection = np.repeat(near, counts)
    offset = np.arange(block[-1]) - np.repeat(block[:-1], counts)
    pair_truth = order[np.repeat(starts[keys[near]], counts) + offset]

    a, b = boxes[pair_detection], truth_boxes[pair_truth]
    width = np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
    height = np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
    shared = np.clip(width, 0, None) * np.clip(height, 0, None)
    signed = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    overlap = np.divide(shared, signed + areas(b) - shared, out=np.zeros_like(shared), where=shared > 0)

    best_iou = np.maximum.reduceat(overlap, block[:-1])
    # The first pair of each block that reaches the block's maximum: the first truth row.
    is_best = overlap == np.repeat(best_iou, counts)
    first = np.minimum.reduceat(np.where(is_best, np.arange(block[-1]), block[-1]), block[:-1])
    over = best_iou > threshold
    belongs[near[over]] = pair_truth[first[over]]

    candidates = np.flatnonzero(belongs >= 0)
    candidates = candidates[np.lexsort((candidates, -scores[candidates], belongs[candidates]))]
    boxes_hit, first = np.unique(belongs[candidates], return_index=True)
    winner[boxes_hit] = candidates[first]
    return belongs, winner
