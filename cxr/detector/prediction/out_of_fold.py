"""What detectors find on images that they have never seen, and what their scores are worth there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from cxr import schema
from cxr.detector.data.pixels import ImageSource
from cxr.detector.prediction.calibration import ScoreCalibration, calibrate_scores
from cxr.detector.prediction.detector import load_detector
from cxr.detector.prediction.ensemble import learn_ensemble
from cxr.detector.prediction.fusion import fuse_detections
from cxr.detector.prediction.looks import Looks
from cxr.detector.prediction.predict import predict_store
from cxr.errors import DataError
from cxr.schema import ClassTable

log = logging.getLogger("cxr")


@dataclass(frozen=True)
class OutOfFold:
    """What detectors find on images that they have never seen.

    Attributes:
        detections: `schema.DETECTION_COLUMNS` and the fold of the image.
        calibrations: Each detector's `ScoreCalibration` as plain data, by the SHA-256 of its file. None where
            there is one detector only, or nothing to learn from.
        comparison: See `Ensemble`; None where weights were not learned.
        weights: How much each family of detectors counts for each finding; None likewise.
    """

    detections: pd.DataFrame
    calibrations: dict[str, Any]
    comparison: pd.DataFrame | None = None
    weights: pd.DataFrame | None = None


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
) -> OutOfFold:
    """What each fold's detectors find on the images that they have never seen.

    Where there are several detectors, they will be fused on the test images, so each is calibrated on
    its own fold. Without that a detector with high scores would outvote one that is right more often.

    Detectors of one training, one a fold, are a family. Where every fold has a detector of each of several
    families, it is also learned how much a family counts for each finding (`learn_ensemble`).

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

    Raises:
        CheckpointError: A file is no detector, or one of other classes.
    """
    members = [_Member(fold, path) for fold, files in checkpoints.items() for path in files]
    ids = {fold: folds.loc[folds[schema.FOLD] == fold, schema.IMAGE_ID].tolist() for fold in checkpoints}
    for member in members:
        detector = load_detector(member.path)
        detector.require_classes(classes)
        member.sha256 = detector.sha256
        member.found = predict_store(
            detector, store, ids[member.fold],
            looks=looks, batch_size=batch_size, num_workers=num_workers, progress=progress,
        )  # fmt: skip
        of_fold = truth[truth[schema.IMAGE_ID].isin(ids[member.fold])]
        try:
            member.fit = calibrate_scores(
                member.found, of_fold,
                image_ids=ids[member.fold], classes=classes, iou_threshold=iou_threshold,
            )  # fmt: skip
        except DataError as error:
            log.warning("%s: %s", member.path, error)
    fits = {member.sha256: member.fit for member in members if member.fit is not None}
    if len(members) == 1 or any(member.fit is None for member in members):
        fits = {}
    for member in members if fits else []:
        member.found = fits[member.sha256].apply_table(member.found)
    families = _families(members, list(ids))
    if fits and families and looks.detector_fusion == "wbf":
        return _weighted(families, truth, ids, looks=looks, classes=classes, iou_threshold=iou_threshold)
    parts = []
    for fold in checkpoints:
        answers = [member.found for member in members if member.fold == fold]
        parts.append(fuse_detections(answers, ids[fold], looks=looks).assign(**{schema.FOLD: fold}))
    plain = {digest: fit.to_dict() for digest, fit in fits.items()}
    return OutOfFold(pd.concat(parts, ignore_index=True), plain)


@dataclass
class _Member:
    """A detector, what it found on its fold, and what its scores are worth."""

    fold: int
    path: Path
    sha256: str = ""
    found: pd.DataFrame = field(default_factory=pd.DataFrame)
    fit: ScoreCalibration | None = None


def _families(members: Sequence[_Member], folds: list[int]) -> dict[str, list[_Member]]:
    """Detectors by the training that made them; empty where not every fold has one of each of several."""
    found: dict[str, list[_Member]] = {}
    for member in members:
        # outputs/NAME/06_detector/checkpoints/fold0/best.ckpt without the fold
        found.setdefault(str(member.path.parent.parent / member.path.name), []).append(member)
    whole = all([member.fold for member in family] == folds for family in found.values())
    return found if whole and len(found) > 1 else {}


def _weighted(
    families: dict[str, list[_Member]],
    truth: pd.DataFrame,
    ids: dict[int, list[str]],
    *,
    looks: Looks,
    classes: ClassTable,
    iou_threshold: float,
) -> OutOfFold:
    ensemble = learn_ensemble(
        [pd.concat([member.found for member in family], ignore_index=True) for family in families.values()],
        truth,
        names=list(families),
        image_ids=[image_id for of_fold in ids.values() for image_id in of_fold],
        looks=looks,
        classes=classes,
        iou_threshold=iou_threshold,
    )
    calibrations = {
        member.sha256: replace(member.fit, weights=tuple(weights.tolist())).to_dict()
        for family, weights in zip(families.values(), ensemble.weights, strict=True)
        for member in family
        if member.fit is not None
    }
    fold_of = {image_id: fold for fold, of_fold in ids.items() for image_id in of_fold}
    found = ensemble.detections
    return OutOfFold(
        found.assign(**{schema.FOLD: found[schema.IMAGE_ID].map(fold_of)}),
        calibrations,
        ensemble.comparison,
        pd.DataFrame(ensemble.weights.T, index=list(classes.finding_names), columns=list(families)),
    )
