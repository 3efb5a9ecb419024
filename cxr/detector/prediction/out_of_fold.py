"""What detectors find on images that they have never seen, and what their scores are worth there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cxr import schema
from cxr.detector.data.pixels import ImageSource
from cxr.detector.prediction.calibration import ScoreCalibration, calibrate_scores
from cxr.detector.prediction.detector import load_detector
from cxr.detector.prediction.fusion import fuse_detections
from cxr.detector.prediction.looks import Looks
from cxr.detector.prediction.predict import predict_store
from cxr.errors import DataError
from cxr.schema import ClassTable

log = logging.getLogger("cxr")


def predict_out_of_fold(
    store: ImageSource,
    folds: pd.DataFrame,
    checkpoints: Mapping[int, Sequence[Path]],
    truth: pd.DataFrame,
    *,
    looks: Looks,
    classes: ClassTable,
    iou_threshold: float,
    batch_size: int,
    num_workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """What each fold's detectors find on the images that they have never seen.

    Where there are several detectors, they will be fused on the test images, so each is calibrated on
    its own fold. Without that a detector with high scores would outvote one that is right more often.

    Args:
        store: Images.
        folds: `image_id, fold`.
        checkpoints: Files of the detectors of each fold.
        truth: Boxes in original pixels.
        looks: How each detector looks, and how answers are fused.
        classes: The data set's classes.
        iou_threshold: IoU of a hit, for the calibration.
        batch_size: Images a step.
        num_workers: Loading processes.
        progress: Called with images done and all images of one detector.

    Returns:
        Detections with `schema.DETECTION_COLUMNS` and the fold of their image; and each detector's
        calibration as plain data by the SHA-256 of its file, none where there is one detector only, or
        nothing to learn from.
    """
    members = [(fold, path) for fold, files in checkpoints.items() for path in files]
    ids = {fold: folds.loc[folds[schema.FOLD] == fold, schema.IMAGE_ID].tolist() for fold in checkpoints}
    tables: list[pd.DataFrame] = []
    fits: dict[str, ScoreCalibration] = {}
    hashes: list[str] = []
    for fold, path in members:
        detector = load_detector(path)
        table = predict_store(
            detector, store, ids[fold],
            looks=looks, batch_size=batch_size, num_workers=num_workers, progress=progress,
        )  # fmt: skip
        of_fold = truth[truth[schema.IMAGE_ID].isin(ids[fold])]
        try:
            fits[detector.sha256] = calibrate_scores(
                table, of_fold, image_ids=ids[fold], classes=classes, iou_threshold=iou_threshold
            )
        except DataError as error:
            log.warning("%s: %s", path, error)
        tables.append(table)
        hashes.append(detector.sha256)
    if len(members) == 1 or set(hashes) != set(fits):
        fits = {}
    else:
        tables = [fits[digest].apply_table(table) for digest, table in zip(hashes, tables, strict=True)]
    parts = []
    for fold in checkpoints:
        answers = [table for (of, _), table in zip(members, tables, strict=True) if of == fold]
        fused = fuse_detections(answers, ids[fold], looks=looks)
        parts.append(fused.assign(**{schema.FOLD: fold}))
    plain = {digest: fit.to_dict() for digest, fit in fits.items()}
    return pd.concat(parts, ignore_index=True), plain
