"""Tables of boxes as plain arrays, images and classes numbered from 0."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxr.errors import BoxError, DataError
from cxr.schema import BOX_COLUMNS, CLASS_ID, IMAGE_ID, NORMAL_BOX, SCORE, ClassTable


@dataclass(frozen=True)
class Boxes:
    """Boxes of many images, in pixels of the original images.

    Attributes:
        image: Image number, `int64 (N,)`.
        label: Class number (place in the problem's `class_ids`), `int64 (N,)`.
        boxes: `float64 (N, 4)`.
        score: `float64 (N,)`; ones for truth.
    """

    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class Problem:
    """Detections and truth over the same images and classes.

    Attributes:
        detections: In the order of the table.
        truth: In the order of the table.
        image_ids: Every image that counts, those without any box included.
        class_ids: Ids of the classes, rising.
    """

    detections: Boxes
    truth: Boxes
    image_ids: np.ndarray
    class_ids: np.ndarray


def encode(
    detections: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    image_ids: Iterable[str] | None = None,
    class_ids: Iterable[int] | None = None,
) -> Problem:
    """Number the images and classes of two tables alike.

    Args:
        detections: `schema.DETECTION_COLUMNS`, in original pixels.
        truth: `image_id, class_id` and box columns, in original pixels. A row with no coordinates at all
            makes its image count and is no box.
        image_ids: The images that count; all that occur in either table by default.
        class_ids: The classes that count; all that have a box in either table by default.

    Returns:
        The two tables as arrays; rows of other images or classes are left out.

    Raises:
        DataError: A column is missing, or a class id is no whole number.
        BoxError: A detection with a coordinate or score that is no number, or a truth box with some
            coordinates missing or without area.
    """
    _require(detections, [IMAGE_ID, CLASS_ID, SCORE, *BOX_COLUMNS], "detections")
    _require(truth, [IMAGE_ID, CLASS_ID, *BOX_COLUMNS], "truth")
    found = detections[BOX_COLUMNS].to_numpy(np.float64)
    score = detections[SCORE].to_numpy(np.float64)
    drawn = truth[BOX_COLUMNS].to_numpy(np.float64)
    _check(found, score, drawn, detections, truth)
    has_box = ~np.isnan(drawn).all(axis=1)

    both = pd.concat([truth[IMAGE_ID], detections[IMAGE_ID]], ignore_index=True)
    if image_ids is None:
        codes, images = pd.factorize(both)
    else:
        images = pd.Index(image_ids).unique()
        codes = images.get_indexer(pd.Index(both))
    truth_image, image = codes[: len(truth)].astype(np.int64), codes[len(truth) :].astype(np.int64)

    truth_class, label = _class_ids(truth, "truth"), _class_ids(detections, "detections")
    if class_ids is None:
        present = np.union1d(truth_class[has_box & (truth_image >= 0)], label[image >= 0])
    else:
        present = np.unique(np.fromiter(class_ids, dtype=np.int64))
    kept = (image >= 0) & np.isin(label, present)
    truth_kept = (truth_image >= 0) & np.isin(truth_class, present) & has_box
    return Problem(
        Boxes(image[kept], np.searchsorted(present, label[kept]), found[kept], score[kept]),
        Boxes(
            truth_image[truth_kept],
            np.searchsorted(present, truth_class[truth_kept]),
            drawn[truth_kept],
            np.ones(int(truth_kept.sum())),
        ),
        np.asarray(images, dtype=object),
        present,
    )


def with_normal_rows(truth: pd.DataFrame, classes: ClassTable) -> pd.DataFrame:
    """Give the normal images of a truth table the one-pixel box that the competition scores.

    Args:
        truth: A table with `image_id, class_id` and box columns; a normal image has one row of the normal
            class (or one per reader) without coordinates.
        classes: Classes of the data set.

    Returns:
        The rows of the findings, then one row per normal image with `schema.NORMAL_BOX`; a fresh index.
    """
    _require(truth, [IMAGE_ID, CLASS_ID, *BOX_COLUMNS], "truth")
    normal = truth[CLASS_ID] == classes.normal_id
    one_pixel = truth[normal].drop_duplicates(IMAGE_ID).copy()
    one_pixel[BOX_COLUMNS] = NORMAL_BOX
    return pd.concat([truth[~normal], one_pixel], ignore_index=True)


def _require(table: pd.DataFrame, columns: list[str], name: str) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise DataError(f"{name}: expected a column {missing[0]!r}, got {', '.join(map(str, table.columns))}")


def _class_ids(table: pd.DataFrame, name: str) -> np.ndarray:
    ids = pd.to_numeric(table[CLASS_ID], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    bad = ~(ids == np.floor(ids))
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"{name} row {row + 1} (image {table[IMAGE_ID].iloc[row]}): expected a whole number as class_id, "
            f"got {table[CLASS_ID].iloc[row]}"
        )
    return ids.astype(np.int64)


def _check(
    found: np.ndarray, score: np.ndarray, drawn: np.ndarray, detections: pd.DataFrame, truth: pd.DataFrame
) -> None:
    bad = ~np.isfinite(found).all(axis=1) | ~np.isfinite(score)
    if bad.any():
        row = int(bad.argmax())
        raise BoxError(
            f"detection {row + 1} (image {detections[IMAGE_ID].iloc[row]}): expected a finite score "
            f"and four finite numbers, got {score[row]} and {found[row].tolist()}"
        )
    empty = np.isnan(drawn)
    bad = (empty.any(axis=1) & ~empty.all(axis=1)) | np.isinf(drawn).any(axis=1)
    bad |= (drawn[:, 2] <= drawn[:, 0]) | (drawn[:, 3] <= drawn[:, 1])
    if bad.any():
        row = int(bad.argmax())
        raise BoxError(
            f"truth row {row + 1} (image {truth[IMAGE_ID].iloc[row]}): expected a box with a positive "
            f"area, or no coordinate at all, got {drawn[row].tolist()}"
        )
