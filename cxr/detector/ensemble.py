"""Several views, several detectors, one answer: fused, calibrated, and out of fold."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from cxr import schema
from cxr.detector.calibration import ScoreCalibration, calibrate_scores
from cxr.detector.data import ImageSource
from cxr.detector.folds import best_checkpoints
from cxr.detector.fusion import fuse_detections
from cxr.detector.prediction import Detector, export_detector, load_detector, predict_store
from cxr.errors import DataError
from cxr.rundir import locate
from cxr.schema import ClassTable

log = logging.getLogger("cxr")


def predict_out_of_fold(
    store: ImageSource,
    folds: pd.DataFrame,
    checkpoints: Mapping[int, Sequence[Path]],
    truth: pd.DataFrame,
    *,
    classes: ClassTable,
    iou_threshold: float,
    batch_size: int,
    score_threshold: float,
    max_boxes: int,
    flip: bool,
    scales: Sequence[float],
    fusion_iou: float,
    model_fusion: str = "wbf",
    num_workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """What each fold's detectors find on the images that they have never seen.

    Where there are several detectors, they will be fused on the test images, so each is
    calibrated on its own fold: one that is sure of itself must not outvote one that is right.

    Args:
        store: Images.
        folds: `image_id, fold`.
        checkpoints: Files of the detectors of each fold.
        truth: Boxes in original pixels.
        classes: The data set's classes.
        iou_threshold: IoU of a hit, for the calibration.
        batch_size: See `predict_store`, as for the next seven.
        score_threshold: Floor of the score before calibration.
        max_boxes: Most boxes an image.
        flip: Also look at mirror images.
        scales: Sizes to look at.
        fusion_iou: IoU above which two boxes are one.
        model_fusion: How several views, and several detectors of a fold, are fused.
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
            batch_size=batch_size, score_threshold=score_threshold, max_boxes=max_boxes, flip=flip,
            scales=scales, fusion_iou=fusion_iou, model_fusion=model_fusion,
            num_workers=num_workers, progress=progress,
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
        fused = fuse_detections(
            answers, ids[fold], weights=[1.0] * len(answers), fusion_iou=fusion_iou, max_boxes=max_boxes,
            method=model_fusion,
        )  # fmt: skip
        parts.append(fused.assign(**{schema.FOLD: fold}))
    plain = {digest: fit.to_dict() for digest, fit in fits.items()}
    return pd.concat(parts, ignore_index=True), plain


def load_detectors(
    files: Sequence[Path], calibrations: Mapping[str, Any] | None = None, *, device: str = "auto"
) -> list[Detector]:
    """Detectors to be fused, their scores calibrated where that was learnt for every one of them.

    Args:
        files: `.ckpt` or `.safetensors`.
        calibrations: Of `predict_out_of_fold`.
        device: See `load_detector`.
    """
    detectors = [load_detector(path, device=device) for path in files]
    known = calibrations or {}
    without = [detector.path for detector in detectors if detector.sha256 not in known]
    if without:
        if known:
            log.warning("scores are not calibrated: no calibration is known for %s", ", ".join(without))
        return detectors
    return [replace(d, calibration=ScoreCalibration.from_dict(known[d.sha256])) for d in detectors]


def export_run(run_dir: Path, out: Path) -> list[Path]:
    """Write each detector of a run as safetensors, for prediction without the training's parts.

    Args:
        run_dir: Folder of a run.
        out: Folder for `fold0.safetensors` and so on, each with its hash beside it.

    Returns:
        The files written.

    Raises:
        DataError: The run has no detector.
    """
    best = best_checkpoints(locate(run_dir) / schema.CHECKPOINTS_DIR)
    if not best:
        raise DataError(f"{run_dir}: no detector; notebook 06 or `cxr train` trains one")
    paths = []
    for fold, checkpoint in best.items():
        paths.append(out / f"fold{fold}.safetensors")
        export_detector(load_detector(checkpoint, device="cpu"), paths[-1])
    return paths
