"""Features from a detector's boxes, taken only where the detector had not seen the image.

A file of detections that features may be made from has a column `fold`, the fold that the detector
of that row did *not* train on, and a record beside it (same name, `.json`) that says which folds have
a detector and which table of folds they were trained by. Both are checked when the file is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr import schema
from cxr.errors import DataError
from cxr.rundir import read_json, read_table

DETECTOR_PREFIX = "detector_"
_KINDS = ("score", "count", "area")


def detector_feature_names(classes: schema.ClassTable = schema.VINBIGDATA) -> list[str]:
    """Names of the detector features: score, count and area of each finding."""
    return [f"{DETECTOR_PREFIX}{kind}_{class_id}" for class_id in classes.finding_ids for kind in _KINDS]


def detector_features(
    detections: pd.DataFrame,
    image_ids: Sequence[str],
    *,
    oof_image_ids: Iterable[str],
    sizes: pd.DataFrame,
    classes: schema.ClassTable = schema.VINBIGDATA,
    score_threshold: float = 0.1,
) -> pd.DataFrame:
    """Summarise each image's detections by class: highest score, count, share of the image covered.

    A detector is sure of images it was trained on; features from those would teach the classifier
    a certainty that no new image has. So the caller names the images that the detections are
    out-of-fold for, and any other image is refused.

    Args:
        detections: Columns `schema.DETECTION_COLUMNS`, original pixels.
        image_ids: Images to describe, the order of the rows; one without detections gets zeros.
        oof_image_ids: Images whose detections come from a detector that did not train on them.
        sizes: Columns `image_id, rows, columns`: original sizes in pixels.
        classes: The class table; the normal class has no features.
        score_threshold: Least score of a box that counts for count and area.

    Returns:
        One row an image: `image_id`, then for each finding `detector_score_<id>` in [0, 1],
        `detector_count_<id>` and `detector_area_<id>` (sum of box areas over image area).

    Raises:
        DataError: An image that is not out-of-fold, or one without a size.
    """
    ids = pd.Index(list(image_ids), name=schema.IMAGE_ID)
    seen = ids[~ids.isin(list(oof_image_ids))]
    if len(seen):
        raise DataError(
            f"detector features: expected out-of-fold detections only, got {len(seen)} images the detector "
            f"may have trained on (first: {seen[0]})"
        )
    area = sizes.drop_duplicates(schema.IMAGE_ID).set_index(schema.IMAGE_ID)
    unsized = ids[~ids.isin(area.index)]
    if len(unsized):
        raise DataError(f"detector features: no original size for image {unsized[0]}")

    table = detections[
        detections[schema.IMAGE_ID].isin(ids) & detections[schema.CLASS_ID].isin(list(classes.finding_ids))
    ]
    image_area = area["rows"].astype(float) * area["columns"].astype(float)
    box_area = (table["x_max"] - table["x_min"]) * (table["y_max"] - table["y_min"])
    counted = table[schema.SCORE] >= score_threshold
    measured = pd.DataFrame(
        {
            schema.IMAGE_ID: table[schema.IMAGE_ID],
            schema.CLASS_ID: table[schema.CLASS_ID].astype(int),
            "score": table[schema.SCORE].astype(float),
            "count": counted.astype(float),
            "area": np.where(counted, box_area / table[schema.IMAGE_ID].map(image_area), 0.0),
        }
    )
    grouped = measured.groupby([schema.IMAGE_ID, schema.CLASS_ID]).agg(
        score=("score", "max"), count=("count", "sum"), area=("area", "sum")
    )
    wide = grouped.unstack(schema.CLASS_ID)
    wide.columns = [f"{DETECTOR_PREFIX}{kind}_{class_id}" for kind, class_id in wide.columns]
    wide = wide.reindex(index=ids, columns=detector_feature_names(classes)).astype(float).fillna(0.0)
    return wide.reset_index()


def fold_record(folds: pd.DataFrame, detectors: Iterable[int]) -> dict[str, object]:
    """What stands beside a file of detections, see the module's text.

    Args:
        folds: `image_id, fold` of all training images.
        detectors: The folds that have a detector.
    """
    return {"folds_sha256": _hash(folds), "folds": sorted(int(fold) for fold in detectors)}


def read_detections_and_record(path: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """Detections of an earlier run and what is known of their detectors, not yet held against this run.

    Args:
        path: A CSV with `schema.DETECTION_COLUMNS` and `fold`, its record beside it.

    Raises:
        DataError: No file or record, or no such table.
    """
    record_path = path.with_suffix(".json")
    for needed in (path, record_path):
        if not needed.is_file():
            raise DataError(
                f"{needed}: no such file; detections of an earlier run are a CSV and a .json beside it"
            )
    return read_json(record_path), read_table(path)


def read_fold_detections(path: Path, folds: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """Read detections that may become features: each detector's, by the fold it did not train on.

    Args:
        path: A CSV with `schema.DETECTION_COLUMNS` and `fold`, its record beside it.
        folds: `image_id, fold` of this run.

    Returns:
        Fold to detections; a detector that found nothing has an empty table.

    Raises:
        DataError: No file or record, other folds than this run's, or boxes on an image of another
            fold than the one their detector left out.
    """
    record, table = read_detections_and_record(path)
    if record.get("folds_sha256") != _hash(folds):
        raise DataError(
            f"{path}: its detectors were trained by another table of folds than this run's, so they may have "
            f"seen any image; give both runs the same data, seed and number of folds"
        )
    own = table[schema.IMAGE_ID].map(folds.set_index(schema.IMAGE_ID)[schema.FOLD])
    wrong = own.notna() & (own != table[schema.FOLD])
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"{path} row {row + 2} (image {table[schema.IMAGE_ID][row]}): expected a detector that left out "
            f"fold {own[row]:.0f}, got the one that left out fold {table[schema.FOLD][row]}: it was "
            f"trained on this image"
        )
    return {fold: table[table[schema.FOLD] == fold] for fold in record["folds"]}


def oof_detector_features(
    by_fold: Mapping[int, pd.DataFrame],
    folds: pd.DataFrame,
    *,
    sizes: pd.DataFrame,
    classes: schema.ClassTable = schema.VINBIGDATA,
) -> pd.DataFrame:
    """Detector features of the training images, each from the detector that left its fold out.

    Args:
        by_fold: What `read_fold_detections` returned.
        folds: `image_id, fold`.
        sizes: As in `detector_features`; an image without a size (unreadable) is left out.
        classes: The class table.

    Raises:
        DataError: A fold has no detector: its images would have no features, and a table with
            such gaps tells the classifier which fold an image is in.
    """
    if lacking := sorted(set(folds[schema.FOLD]) - set(by_fold)):
        raise DataError(
            f"detector features: detections of all folds are needed, there are none of fold "
            f"{', '.join(map(str, lacking))}; train a detector for each (parameter train_folds)"
        )
    sized = folds[folds[schema.IMAGE_ID].isin(sizes[schema.IMAGE_ID])]
    tables = [
        detector_features(table, ids, oof_image_ids=ids, sizes=sizes, classes=classes)
        for fold, table in by_fold.items()
        for ids in [sized.loc[sized[schema.FOLD] == fold, schema.IMAGE_ID].tolist()]
    ]
    return pd.concat(tables, ignore_index=True)


def _hash(folds: pd.DataFrame) -> str:
    """Of the table's content: the order of its rows and its other columns do not matter."""
    table = folds[[schema.IMAGE_ID, schema.FOLD]].sort_values(schema.IMAGE_ID)
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()
