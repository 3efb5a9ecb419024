"""Scores on groups of images that differ in kind, made as comparable as they can be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from cxr.metrics.intervals import bias_corrected, bootstrap_map, mean_of_known
from cxr.schema import CLASS_ID, IMAGE_ID, VINBIGDATA, ClassTable


def group_scores(
    detections: pd.DataFrame,
    truth: pd.DataFrame,
    groups: Mapping[str, Iterable[str]],
    *,
    iou_threshold: float = 0.4,
    resamples: int = 1000,
    seed: int = 0,
    classes: ClassTable = VINBIGDATA,
) -> pd.DataFrame:
    """Score the same detections on groups of images.

    Average precision falls with the share of images that do not have the finding, and a mean over
    other classes is another score. So only images with a finding count, and only findings that every group
    has. What remains different between groups, besides who read them, is how common each finding is in
    them.

    Args:
        detections: `schema.DETECTION_COLUMNS`, original pixels.
        truth: `image_id, class_id` and box columns, original pixels.
        groups: The images of each group, by its name; those without a finding are left out.
        iou_threshold: IoU that must be exceeded.
        resamples: Resamples of the bootstrap intervals.
        seed: Seed of the bootstrap.
        classes: Classes of the data set; the mean is over its findings.

    Returns:
        One row per group that has an image with a finding: `group, images, classes` (how many count),
        `n_truth` (boxes of these), `map, low, high` and, for all but the first, `gap, gap_low, gap_high`: the
        first group's score minus this one's. Groups have no image in common, so they are resampled
        independently. NaN where no finding is in every group.
    """
    drawn = truth[truth[CLASS_ID].isin(classes.finding_ids)]
    parts = {name: drawn[drawn[IMAGE_ID].isin(list(ids))] for name, ids in groups.items()}
    parts = {name: part for name, part in parts.items() if len(part)}
    shared = set(classes.finding_ids).intersection(*(part[CLASS_ID].unique() for part in parts.values()))
    rows: list[dict[str, Any]] = []
    first = None
    for number, (name, part) in enumerate(parts.items()):
        boot = bootstrap_map(
            detections, part, resamples=resamples, seed=seed + number, iou_threshold=iou_threshold,
            image_ids=part[IMAGE_ID].unique(), class_ids=sorted(shared),
        )  # fmt: skip
        row = {"group": name, "images": len(boot.image_ids), "classes": len(shared)}
        row |= {"n_truth": int(boot.per_class["n_truth"].sum())}
        row |= {"map": boot.map, "low": boot.low, "high": boot.high}
        if first is None:
            first = boot
        else:
            gap = first.map - boot.map
            gaps = mean_of_known(first.class_samples - boot.class_samples)
            low, high = bias_corrected(gaps, gap, boot.level)
            row |= {"gap": gap, "gap_low": low, "gap_high": high}
        rows.append(row)
    columns = ["group", "images", "classes", "n_truth", "map", "low", "high", "gap", "gap_low", "gap_high"]
    return pd.DataFrame(rows, columns=columns)
