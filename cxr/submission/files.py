"""The competition's file: one line an image, groups of six numbers; written whole, read strictly.

Tables with a box in each row are read as strictly.
"""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr import schema
from cxr.errors import DataError, SubmissionError, printable
from cxr.files import replacing
from cxr.tables import id_problem, read_text_table

PREDICTION = "PredictionString"
_GROUP = 6
_FIELDS = ("class_id", "score", "x_min", "y_min", "x_max", "y_max")
_log = logging.getLogger("cxr")


def write(
    detections: pd.DataFrame,
    image_ids: Sequence[str],
    path: Path,
    *,
    classes: schema.ClassTable = schema.VINBIGDATA,
) -> None:
    """Write a submission: every image once, in the given order, complete or not at all.

    Scores are written so that reading gives the same single-precision number back, boxes with at
    most two decimals. An image without detections gets its own normal line, `14 1 0 0 1 1`.

    Args:
        detections: Columns `schema.DETECTION_COLUMNS`, original pixels, lines of the normal class
            included (see `gate`). Within an image the order is kept.
        image_ids: The images, in the order of the sample submission.
        path: The CSV to write; its folder is made.
        classes: The class table.

    Raises:
        SubmissionError: An image twice in `image_ids`, detections of another image, an unknown
            class, a score outside [0, 1], or a box that is not finite or has no area.
    """
    path = Path(path)
    ids = pd.Index(list(image_ids), dtype=object)
    if ids.has_duplicates:
        raise SubmissionError(f"{path.name}: image {ids[ids.duplicated()][0]} is listed twice")
    _validate(detections, ids, path, classes)
    place = ids.get_indexer(detections[schema.IMAGE_ID])
    order = np.argsort(place, kind="stable")
    sorted_rows = detections.iloc[order]
    boxes = sorted_rows[schema.BOX_COLUMNS].to_numpy(float).round(2)
    # A sliver thinner than the rounding must not become a box without area.
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 0.01).round(2)
    columns = [
        sorted_rows[schema.CLASS_ID].astype(int).astype(str).tolist(),
        [_score_text(score) for score in sorted_rows[schema.SCORE].to_numpy(np.float32)],
        *([_pixel_text(value) for value in column] for column in boxes.T.tolist()),
    ]
    groups = [" ".join(fields) for fields in zip(*columns, strict=True)]
    ends = np.searchsorted(place[order], np.arange(len(ids)), side="right")
    normal = f"{classes.normal_id} 1 " + " ".join(f"{value:g}" for value in schema.NORMAL_BOX)
    start, lines = 0, []
    for image_id, end in zip(ids, ends.tolist(), strict=True):
        lines.append((image_id, " ".join(groups[start:end]) if end > start else normal))
        start = end
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([schema.IMAGE_ID, PREDICTION])
        table.writerows(lines)


def parse(path: Path, *, classes: schema.ClassTable = schema.VINBIGDATA) -> pd.DataFrame:
    """Read a submission, and accept nothing that the competition would not.

    Args:
        path: A CSV with the columns `image_id, PredictionString`.
        classes: The class table.

    Returns:
        Columns `schema.DETECTION_COLUMNS`, in the order of the file; every image has a row.

    Raises:
        SubmissionError: Missing file or columns, an image twice or without a prediction, a group
            that is not six numbers, an unknown class, a score outside [0, 1], a box that is not
            finite or has no area, a normal line whose box is not `0 0 1 1`. The message names
            file, row (the header is row 1) and image.
    """
    path = Path(path)
    rows = _rows(path, (schema.IMAGE_ID, PREDICTION))
    ids: list[str] = []
    counts: list[int] = []
    numbers: list[float] = []
    seen: dict[str, int] = {}
    for row, (image_id, text) in enumerate(rows, start=2):
        where = f"{path.name} row {row} (image {image_id or '?'})"
        if not image_id:
            raise SubmissionError(f"{where}: expected an image id, got an empty field")
        if image_id in seen:
            raise SubmissionError(f"{where}: the image is already in row {seen[image_id]}")
        seen[image_id] = row
        fields = text.split()
        if not fields or len(fields) % _GROUP:
            raise SubmissionError(
                f"{where}: expected groups of six numbers (class_id confidence x_min y_min x_max y_max), "
                f"got {len(fields)} numbers"
            )
        numbers.extend(_numbers(fields, where))
        ids.append(image_id)
        counts.append(len(fields) // _GROUP)
    values = np.array(numbers, dtype=np.float64).reshape(-1, _GROUP)
    images = np.repeat(np.array(ids, dtype=object), counts)
    file_rows = np.repeat(np.arange(2, 2 + len(ids)), counts)
    return _table(values, images, file_rows, path, classes)


def read_detections(path: Path, *, classes: schema.ClassTable = schema.VINBIGDATA) -> pd.DataFrame:
    """Read what is to be scored: a submission, or a table with a box in each row.

    `cxr predict` writes such a table, and so does notebook 07. An image without a box has no row in it.

    Args:
        path: A CSV with `schema.DETECTION_COLUMNS`, others are passed over; or as in `parse`.
        classes: The class table.

    Returns:
        Columns `schema.DETECTION_COLUMNS`, in the order of the file.

    Raises:
        SubmissionError: As in `parse`; the message about a table names file, row (the header is 1) and
            image.
    """
    path = Path(path)
    header = _header(path)
    if PREDICTION in header or not header:
        return parse(path, classes=classes)
    if not set(schema.DETECTION_COLUMNS) <= set(header):
        raise SubmissionError(
            f"{path.name}: expected the columns {schema.IMAGE_ID}, {PREDICTION}, or "
            f"{', '.join(schema.DETECTION_COLUMNS)}; got {', '.join(header)}"
        )
    rows = _rows(path, schema.DETECTION_COLUMNS)
    wheres = [f"{path.name} row {number} (image {row[0]})" for number, row in enumerate(rows, start=2)]
    numbers = [_numbers(row[1:], where) for row, where in zip(rows, wheres, strict=True)]
    values = np.array(numbers, dtype=np.float64).reshape(-1, _GROUP)
    images = np.array([row[0] for row in rows], dtype=object)
    return _table(values, images, np.arange(2, 2 + len(rows)), path, classes)


def check(path: Path, sample_path: Path, *, classes: schema.ClassTable = schema.VINBIGDATA) -> pd.DataFrame:
    """Hold a submission against the sample submission: the same images, each once, in any order.

    Returns:
        What `parse` read.

    Raises:
        SubmissionError: As in `parse`; or images missing or too many, with a count and the first.
    """
    table = parse(path, classes=classes)
    expected = pd.Index(sample_ids(sample_path))
    got = pd.Index(table[schema.IMAGE_ID].unique())
    for images, problem in (
        (expected.difference(got), "missing"),
        (got.difference(expected), "not expected"),
    ):
        if len(images):
            raise SubmissionError(
                f"{Path(path).name}: expected the {len(expected)} images of {Path(sample_path).name}, "
                f"got {len(got)}: {len(images)} {problem} (first: {images[0]})"
            )
    return table


def sample_ids(sample_path: Path) -> list[str]:
    """Image ids of a sample submission, in its order.

    Raises:
        SubmissionError: Missing file or column, or an image twice.
    """
    path = Path(sample_path)
    ids = [fields[0] for fields in _rows(path, (schema.IMAGE_ID,))]
    twice = pd.Index(ids)
    if twice.has_duplicates:
        raise SubmissionError(f"{path.name}: image {twice[twice.duplicated()][0]} is listed twice")
    return ids


def reformat(
    detections: pd.DataFrame,
    image_ids: Sequence[str],
    *,
    classes: schema.ClassTable = schema.VINBIGDATA,
) -> pd.DataFrame:
    """A submission as a table a person can read: one row a box, with the class's name.

    An image without detections gets one row of its own, normal with score 1, never a copy of
    another image's.

    Args:
        detections: Columns `schema.DETECTION_COLUMNS`.
        image_ids: All images, the order of the table.
        classes: The class table.

    Returns:
        `image_id, class_id, class_name, score, x_min, y_min, x_max, y_max`.
    """
    ids = pd.Index(list(image_ids), dtype=object)
    _validate(detections, ids, Path("detections"), classes)
    silent = ids[~ids.isin(detections[schema.IMAGE_ID])]
    filler = pd.DataFrame(
        {schema.IMAGE_ID: silent, schema.CLASS_ID: classes.normal_id, schema.SCORE: 1.0}
    ).assign(**dict(zip(schema.BOX_COLUMNS, schema.NORMAL_BOX, strict=True)))
    parts = [part for part in (detections[schema.DETECTION_COLUMNS], filler) if len(part)]
    table = pd.concat(parts, ignore_index=True) if parts else filler
    order = np.argsort(ids.get_indexer(table[schema.IMAGE_ID]), kind="stable")
    table = table.iloc[order].reset_index(drop=True).astype({schema.CLASS_ID: int})
    table.insert(2, schema.CLASS_NAME, [classes.name(class_id) for class_id in table[schema.CLASS_ID]])
    return table


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, complete or not at all."""
    with replacing(Path(path)) as beside:
        table.to_csv(beside, index=False)


def _table(
    values: NDArray[np.float64],
    images: NDArray[np.object_],
    rows: NDArray[np.integer],
    path: Path,
    classes: schema.ClassTable,
) -> pd.DataFrame:
    """Groups that were read, checked, as `schema.DETECTION_COLUMNS`."""
    _validate_groups(values, images, rows, path, classes)
    table = pd.DataFrame(values, columns=list(_FIELDS)).astype({schema.CLASS_ID: int})
    table.insert(0, schema.IMAGE_ID, images)
    return table[schema.DETECTION_COLUMNS]


def _header(path: Path) -> list[str]:
    """The columns of a CSV; none where it cannot be read as one, which reading it will say better."""
    try:
        return [name.strip() for name in pd.read_csv(path, nrows=0).columns]
    except (OSError, ValueError, EOFError):
        return []


def _rows(path: Path, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The named fields of each row, as text."""
    if not path.exists():
        raise SubmissionError(f"{path}: no such submission file")
    try:
        table = read_text_table(path, columns, error=SubmissionError, first_row=2)
    except SubmissionError:
        raise
    except DataError as error:
        raise SubmissionError(f"{path}: expected a CSV file, got something else ({error})") from error
    if any(name not in table.columns for name in columns):
        got = ", ".join(table.columns) or "none"
        raise SubmissionError(f"{path.name}: expected the columns {', '.join(columns)}, got {got}")
    for row, image_id in table[columns[0]].items():
        if problem := id_problem(image_id):
            raise SubmissionError(f"{path.name} row {row} (image {printable(image_id) or '?'}): {problem}")
    return list(table[list(columns)].itertuples(index=False, name=None))


def _numbers(fields: Sequence[str], where: str) -> list[float]:
    try:
        # Python's own reading takes 1_4 for 14, and digits of any script.
        if all(field.isascii() for field in fields) and not any("_" in field for field in fields):
            return [float(field) for field in fields]
        raise ValueError
    except ValueError:
        for place, field in enumerate(fields):
            try:
                if "_" in field or not field.isascii():
                    raise ValueError
                float(field)
            except ValueError:
                raise SubmissionError(
                    f"{where}: expected a number for {_FIELDS[place % _GROUP]} of box {place // _GROUP + 1}, "
                    f"got {field!r}"
                ) from None
        raise


def _validate(detections: pd.DataFrame, ids: pd.Index, path: Path, classes: schema.ClassTable) -> None:
    lacking = [name for name in schema.DETECTION_COLUMNS if name not in detections.columns]
    if lacking:
        raise SubmissionError(f"{path.name}: expected the column {lacking[0]!r} in the detections")
    images = detections[schema.IMAGE_ID].to_numpy(object)
    unknown = ids.get_indexer(images) < 0
    if unknown.any():
        raise SubmissionError(
            f"{path.name}: image {images[unknown][0]} is not one of the {len(ids)} expected"
        )
    names = [schema.CLASS_ID, schema.SCORE, *schema.BOX_COLUMNS]
    _validate_groups(detections[names].to_numpy(float), images, None, path, classes)


def _validate_groups(
    values: NDArray[np.float64],
    images: NDArray[np.object_],
    rows: NDArray[np.integer] | None,
    path: Path,
    classes: schema.ClassTable,
) -> None:
    """Check class, score and box of every group `(class_id, score, x_min, y_min, x_max, y_max)`."""
    class_id, score, x_min, y_min, x_max, y_max = values.T
    normal = class_id == classes.normal_id
    one_pixel = (values[:, 2:] == np.array(schema.NORMAL_BOX)).all(axis=1)
    checks = (
        (np.isin(class_id, np.arange(len(classes.names))), f"a class id of 0..{classes.normal_id}", [0]),
        ((score >= 0) & (score <= 1), "a score in [0, 1]", [1]),
        (np.isfinite(values[:, 2:]).all(axis=1), "finite coordinates", [2, 3, 4, 5]),
        ((x_min >= 0) & (y_min >= 0), "coordinates of at least 0", [2, 3, 4, 5]),
        ((x_max > x_min) & (y_max > y_min), "x_max above x_min and y_max above y_min", [2, 3, 4, 5]),
        (~normal | one_pixel, f"the box 0 0 1 1 for class {classes.normal_id}", [2, 3, 4, 5]),
    )
    for good, expected, columns in checks:
        if good.all():
            continue
        first = int(np.argmin(good))
        row = "" if rows is None else f" row {rows[first]}"
        got = " ".join(f"{value:g}" for value in values[first, columns])
        raise SubmissionError(f"{path.name}{row} (image {images[first]}): expected {expected}, got {got}")


def _score_text(score: np.float32) -> str:
    """The shortest decimal that reads back as the same single-precision number, no exponent."""
    return np.format_float_positional(score, unique=True, trim="-")


def _pixel_text(value: float) -> str:
    return str(int(value)) if math.floor(value) == value else repr(value)
