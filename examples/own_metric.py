"""Score a submission by a measure of your own: images on which every finding was hit.

    python examples/own_metric.py outputs/demo/08_submission/test_predictions.csv data/demo/test_truth.csv

`encode` checks and numbers the tables, `match` pairs detections with truth as PASCAL VOC does. A new
measure is what you count afterwards.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from cxr import annotations, metrics, schema, submission


def complete_images(
    detections: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    classes: schema.ClassTable = schema.VINBIGDATA,
    score_threshold: float = 0.2,
) -> float:
    """Share of the images with findings on which every finding was hit.

    Args:
        detections: `schema.DETECTION_COLUMNS`, boxes in pixels of the original images.
        truth: `image_id, class_id` and box columns, likewise.
        classes: Classes of the data set.
        score_threshold: Detections with a lower score do not count.

    Returns:
        In [0, 1]; NaN where no image has a finding.
    """
    shown = detections[detections[schema.SCORE] >= score_threshold]
    problem = metrics.encode(shown, truth, class_ids=classes.finding_ids)
    n_classes = len(problem.class_ids)
    matches = metrics.match(problem.detections, problem.truth, n_classes=n_classes, iou_threshold=0.4)
    images = np.unique(problem.truth.image)
    with_a_miss = np.unique(problem.truth.image[matches.winner < 0])
    return 1 - len(with_a_miss) / len(images) if len(images) else float("nan")


def main(submission_file: str, truth_file: str) -> None:
    """Print the measure of a submission in the competition's format."""
    classes = annotations.read_classes(Path(truth_file).parent)
    truth = annotations.read_annotations(Path(truth_file), classes=classes)
    found = submission.parse(Path(submission_file), classes=classes)
    print(f"complete images: {complete_images(found, truth, classes=classes):.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
