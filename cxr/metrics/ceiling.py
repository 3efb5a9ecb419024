"""What readers reach themselves, on the metric the detector is judged by."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd

from cxr.annotations import fuse_readers
from cxr.metrics.intervals import bootstrap_map, paired_difference
from cxr.metrics.voc import VocResult, voc_map
from cxr.schema import CLASS_ID, IMAGE_ID, RAD_ID, SCORE, VINBIGDATA, ClassTable

LEAST_IMAGES = 20
"""Fewest images with findings, read beside another reader, on which a reader is scored."""

_COLUMNS = ["images", "map", "map_tied", "precision", "recall"]
_CEILING_COLUMNS = ["images", "abnormal", "map", "low", "high", "map_tied", "precision", "recall"]
_CEILING_COLUMNS += [f"{name}{end}" for name in ("detector", "difference") for end in ("", "_low", "_high")]


def reader_pairs(
    annotations: pd.DataFrame,
    *,
    readers: tuple[str, ...] | None = None,
    min_images: int = 1,
    iou_threshold: float = 0.4,
    classes: ClassTable = VINBIGDATA,
) -> pd.DataFrame:
    """Score every reader against every other one, as if the other were the truth.

    A reader gives no scores, so all boxes score 1. `map` is `voc_map` with its rule for equal scores (the
    table's order); `map_tied` takes all boxes of a class as one point of its curve, precision times
    recall, which no order can change and which is a little lower.

    Args:
        annotations: Reader table (`schema.ANNOTATION_COLUMNS`).
        readers: The readers to compare; all by default.
        min_images: Pairs with fewer common images are left out.
        iou_threshold: IoU that must be exceeded.
        classes: Classes of the data set; the mean is over its findings.

    Returns:
        `rad_id` (who is scored), `truth` (who is the truth), `images` (common ones), `map`, `map_tied`,
        `precision` and `recall` over all findings together. NaN where the truth has no box.
    """
    names = list(readers) if readers is not None else sorted(annotations[RAD_ID].unique())
    of_reader = {name: annotations[annotations[RAD_ID] == name] for name in names}
    images = {name: set(table[IMAGE_ID]) for name, table in of_reader.items()}
    rows = []
    for name, other in permutations(names, 2):
        common = images[name] & images[other]
        if len(common) < max(min_images, 1):
            continue
        in_order = of_reader[name][IMAGE_ID].drop_duplicates()
        in_order = in_order[in_order.isin(common)]
        found = _as_detections(of_reader[name], classes)
        result = voc_map(
            found,
            of_reader[other],
            iou_threshold=iou_threshold,
            image_ids=in_order,
            class_ids=classes.finding_ids,
        )
        rows.append({RAD_ID: name, "truth": other, **_numbers(result)})
    return pd.DataFrame(rows, columns=[RAD_ID, "truth", *_COLUMNS])


def reader_ceiling(
    annotations: pd.DataFrame,
    *,
    detections: pd.DataFrame | None = None,
    readers: tuple[str, ...] | None = None,
    min_images: int = LEAST_IMAGES,
    iou_threshold: float = 0.4,
    fusion_method: str = "wbf",
    fusion_iou_threshold: float = 0.4,
    resamples: int = 0,
    seed: int = 0,
    classes: ClassTable = VINBIGDATA,
) -> pd.DataFrame:
    """Score every reader, and a detector beside, against the fused boxes of the other readers.

    Both meet the same truth on the same images: what the others who read them drew. (Against the fused
    boxes of all readers a detector is judged by this reader's boxes too, and a reader is partly judged by
    their own, so those scores do not compare with these.) A detector that scores like the reader is as good
    as the labels can show. Rows of different readers are of different images and do not compare.

    Args:
        annotations: Reader table (`schema.ANNOTATION_COLUMNS`).
        detections: A detector's boxes on the same images (`schema.DETECTION_COLUMNS`).
        readers: The readers to score; all by default. The others fuse all who read the image.
        min_images: Readers are left out who read fewer images (or none) in which another reader marked a
            finding.
        iou_threshold: IoU that must be exceeded.
        fusion_method: How the others' boxes are fused, see `annotations.fuse_readers`.
        fusion_iou_threshold: IoU above which two of the others' boxes are one finding.
        resamples: Resamples of the bootstrap intervals; 0 leaves them out.
        seed: Seed of the bootstrap.
        classes: Classes of the data set; the mean is over its findings.

    Returns:
        One row per reader: `rad_id, images` (that another reader read too), `abnormal` (in how many
        of them another reader marked a finding), `map, map_tied, precision, recall` as in
        `reader_pairs`, `low, high`; the detector's `detector, detector_low, detector_high`; and
        `difference, difference_low, difference_high`, the detector minus the reader, resampled pair by pair.
        NaN for what was not asked for.
    """
    names = list(readers) if readers is not None else sorted(annotations[RAD_ID].unique())
    rows = []
    for name in names:
        own = annotations[annotations[RAD_ID] == name]
        others = annotations[(annotations[RAD_ID] != name) & annotations[IMAGE_ID].isin(own[IMAGE_ID])]
        common = own[IMAGE_ID].drop_duplicates()
        common = common[common.isin(others[IMAGE_ID])]
        abnormal = others.loc[others[CLASS_ID] != classes.normal_id, IMAGE_ID].nunique()
        if abnormal < max(min_images, 1):
            continue
        truth = fuse_readers(
            others, method=fusion_method, iou_threshold=fusion_iou_threshold, classes=classes
        )
        limits = {"iou_threshold": iou_threshold, "image_ids": common, "class_ids": classes.finding_ids}
        found = _as_detections(own, classes)
        row = {RAD_ID: name, "abnormal": abnormal, **_numbers(voc_map(found, truth, **limits))}
        if detections is not None:
            row["detector"] = voc_map(detections, truth, **limits).map
            row["difference"] = row["detector"] - row["map"]
        if resamples:
            drawn = {"resamples": resamples, "seed": seed, **limits}
            reader = bootstrap_map(found, truth, **drawn)
            row |= {"low": reader.low, "high": reader.high}
            if detections is not None:
                detector = bootstrap_map(detections, truth, **drawn)
                gap = paired_difference(detector, reader)
                row |= {"detector_low": detector.low, "detector_high": detector.high}
                row |= {"difference_low": gap.low, "difference_high": gap.high}
        rows.append(row)
    table = pd.DataFrame(rows, columns=[RAD_ID, *_CEILING_COLUMNS])
    return table.astype({"images": np.int64, "abnormal": np.int64})


def _as_detections(annotations: pd.DataFrame, classes: ClassTable) -> pd.DataFrame:
    return annotations[annotations[CLASS_ID] != classes.normal_id].assign(**{SCORE: 1.0})


def _numbers(result: VocResult) -> dict[str, float]:
    ends = [curve.iloc[-1] for curve in result.curves.values() if len(curve)]
    tied = sum(end.precision * end.recall for end in ends) / max(len(result.curves), 1)
    hits = sum(end.precision * end.detections for end in ends)
    n_found, n_truth = result.per_class["n_detections"].sum(), result.per_class["n_truth"].sum()
    return {
        "images": result.n_images,
        "map": result.map,
        "map_tied": tied if n_truth else float("nan"),
        "precision": hits / n_found if n_found else float("nan"),
        "recall": hits / n_truth if n_truth else float("nan"),
    }
