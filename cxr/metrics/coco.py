"""COCO average precision, by faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cxr.errors import DataError
from cxr.metrics.encoding import encode
from cxr.schema import CLASS_ID


@dataclass(frozen=True)
class CocoResult:
    """COCO's average precision.

    Attributes:
        map: Mean over classes and the IoU thresholds 0.50, 0.55, ... 0.95.
        ap50: Mean over classes at IoU 0.50.
        ap75: Mean over classes at IoU 0.75.
        per_class: `class_id, ap, ap50, n_truth`; NaN for a class without truth.
    """

    map: float
    ap50: float
    ap75: float
    per_class: pd.DataFrame


def coco_map(
    detections: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    max_detections: int = 100,
    image_ids: Iterable[str] | None = None,
    class_ids: Iterable[int] | None = None,
) -> CocoResult:
    """Score detections by COCO's average precision.

    It differs from `voc_map` in more than the thresholds: a detection takes the best truth box that is
    still free (not the best of all), an IoU equal to the threshold counts, precision is read at 101
    recalls, and only the best `max_detections` of an image and class count.

    Args:
        detections: `schema.DETECTION_COLUMNS`, original pixels.
        truth: `image_id, class_id` and box columns, original pixels.
        max_detections: Detections per image and class that count.
        image_ids: The images that count; all that occur by default.
        class_ids: The classes that count; all that occur by default.

    Returns:
        Average precisions.

    Raises:
        DataError: A column is missing, or faster-coco-eval is not installed.
        BoxError: An impossible box or score.

    References:
        Lin et al. 2014, https://cocodataset.org/#detection-eval; `pycocotools` gives the same numbers.
    """
    try:
        # Needed here alone, and Kaggle's image may lack it.
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise DataError("coco_map: pip install faster-coco-eval is needed for it") from error
    problem = encode(detections, truth, image_ids=image_ids, class_ids=class_ids)
    found, true = problem.detections, problem.truth
    n_classes = len(problem.class_ids)
    n_truth = np.bincount(true.label, minlength=n_classes)
    table = pd.DataFrame({CLASS_ID: problem.class_ids, "ap": np.nan, "ap50": np.nan, "n_truth": n_truth})
    if not len(true):
        return CocoResult(float("nan"), float("nan"), float("nan"), table)
    if not len(found):
        table.loc[n_truth > 0, ["ap", "ap50"]] = 0.0
        return CocoResult(0.0, 0.0, 0.0, table)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {
            "images": [{"id": image} for image in range(len(problem.image_ids))],
            "categories": [{"id": label} for label in range(n_classes)],
            # Ids from 1: COCOeval takes a match with id 0 for none.
            "annotations": _records(true.image, true.label, true.boxes),
        }
        reference.createIndex()
        results = COCO()
        results.dataset = {
            "images": reference.dataset["images"],
            "categories": reference.dataset["categories"],
            "annotations": _records(found.image, found.label, found.boxes, found.score),
        }
        results.createIndex()
        evaluation = COCOeval_faster(reference, results, "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    # (thresholds, recalls, classes, areas, detections); -1 where a class has no truth.
    precision = evaluation.eval["precision"][:, :, :, 0, 0]
    by_threshold = precision.mean(axis=1)
    by_threshold[:, n_truth == 0] = np.nan
    table["ap"], table["ap50"] = by_threshold.mean(axis=0), by_threshold[0]
    means = np.nanmean(by_threshold[:, n_truth > 0], axis=1)
    return CocoResult(float(means.mean()), float(means[0]), float(means[5]), table)


def _records(
    images: np.ndarray, labels: np.ndarray, boxes: np.ndarray, scores: np.ndarray | None = None
) -> list[dict[str, Any]]:
    edges = np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
    areas = edges[:, 2] * edges[:, 3]
    records = [
        {"id": i + 1, "image_id": image, "category_id": label, "bbox": box, "area": area, "iscrowd": 0}
        for i, (image, label, box, area) in enumerate(
            zip(images.tolist(), labels.tolist(), edges.tolist(), areas.tolist(), strict=True)
        )
    ]
    if scores is not None:
        for record, score in zip(records, scores.tolist(), strict=True):
            record["score"] = score
    return records
