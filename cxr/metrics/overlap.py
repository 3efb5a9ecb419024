"""Every detection with every truth box of its image, whatever their classes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cxr.boxes import areas
from cxr.metrics.encoding import Boxes


class Pairs(NamedTuple):
    """Detections and truth boxes of one image that touch.

    Attributes:
        detection: Index of the detection, `int64 (K,)`, rising.
        truth: Index of the truth box, `int64 (K,)`.
        iou: Their IoU, `float64 (K,)`, above 0.
    """

    detection: np.ndarray
    truth: np.ndarray
    iou: np.ndarray


def all_pairs(detections: Boxes, truth: Boxes) -> Pairs:
    """Find all pairs of a detection and a truth box of the same image that touch."""
    order = np.argsort(truth.image, kind="stable")
    images = truth.image[order]
    first = np.searchsorted(images, detections.image, side="left")
    counts = np.searchsorted(images, detections.image, side="right") - first
    detection = np.repeat(np.arange(len(detections)), counts)
    offset = np.arange(len(detection)) - np.repeat(counts.cumsum() - counts, counts)
    index = order[np.repeat(first, counts) + offset]
    a, b = detections.boxes[detection], truth.boxes[index]
    width = np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
    height = np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
    touch = (width > 0) & (height > 0)
    shared = (width * height)[touch]
    union = areas(a)[touch] + areas(b)[touch] - shared
    return Pairs(detection[touch], index[touch], shared / union)
