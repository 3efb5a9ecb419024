"""Read annotation and class tables, and say of every bad row what is wrong with it."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.errors import AnnotationError, DataError, ParameterError, printable
from cxr.schema import (
    ANNOTATION_COLUMNS,
    BOX_COLUMNS,
    CLASS_ID,
    CLASS_NAME,
    IMAGE_ID,
    NORMAL_BOX,
    RAD_ID,
    SIZE_COLUMNS,
    VINBIGDATA,
    ClassTable,
)
from cxr.tables import id_problem, read_text_table

log = logging.getLogger("cxr")

CLASSES_CSV = "classes.csv"


def read_classes(data_dir: Path | str) -> ClassTable:
    """Read the classes of a data set.

    Args:
        data_dir: The data folder. Its `classes.csv` (`class_id,class_name`, ids from 0 without a gap,
            the normal class last) counts; without such a file the classes are VinBigData's.

    Returns:
        The class table.

    Raises:
        AnnotationError: A column is missing, ids do not run from 0, a name is empty or comes twice,
            or there is no finding beside the normal class.
        DataError: The folder does not exist.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise DataError(f"{data_dir}: expected a data folder, found none")
    path = data_dir / CLASSES_CSV
    if not path.is_file():
        return VINBIGDATA
    table = _read_text(path, [CLASS_ID, CLASS_NAME])
    ids = pd.to_numeric(table[CLASS_ID], errors="coerce")
    for row, (expected, got) in enumerate(zip(range(len(table)), ids, strict=True), start=1):
        if got != expected:
            raise AnnotationError(
                f"{path.name} row {row}: expected class_id {expected}, got {table[CLASS_ID].iloc[row - 1]!r}"
            )
    names = [name.strip() for name in table[CLASS_NAME]]
    if "" in names:
        raise AnnotationError(f"{path.name} row {names.index('') + 1}: expected a class_name, got none")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise AnnotationError(f"{path.name}: expected names that differ, got {twice!r} twice")
    if len(names) < 2:
        raise AnnotationError(f"{path.name}: expected a finding and the normal class, got {len(names)} class")
    return ClassTable(tuple(names))


def read_annotations(
    path: Path | str,
    *,
    image_sizes: pd.DataFrame | None = None,
    classes: ClassTable = VINBIGDATA,
    on_problem: str = "raise",
) -> pd.DataFrame:
    """Read a table of readers' boxes and check every row of it.

    Args:
        path: A `.csv` or `.csv.gz` with the columns of `schema.ANNOTATION_COLUMNS`, one row per box and
            reader; other columns are left out. A reader who saw nothing has one row of the normal class
            with empty coordinates, or with the one-pixel box `0 0 1 1`, which is read as empty.
        image_sizes: Original sizes (`schema.SIZE_COLUMNS`); where an image's size is known, its boxes
            must lie inside it.
        classes: Classes of the data set.
        on_problem: "raise", or "drop" to leave bad rows out, saying so in the log.

    Returns:
        The table in file order with a fresh index: strings, `int64` class ids and `float64`
        coordinates in pixels of the original image, NaN in normal rows.

    Raises:
        AnnotationError: A missing column, an empty table, or (with "raise") a bad row; the message names
            file, row (1 is the first after the header), image, what was expected and what came.
        DataError: The file is missing or cannot be read.
        ParameterError: An unknown `on_problem`.
    """
    if on_problem not in ("raise", "drop"):
        raise ParameterError(f"on_problem: expected 'raise' or 'drop', got {on_problem!r}")
    path = Path(path)
    table = read_table(path)
    found = problems(table, image_sizes=image_sizes, classes=classes)
    if len(found) and on_problem == "raise":
        first = found.iloc[0]
        more = f" ({len(found) - 1} more problems follow)" if len(found) > 1 else ""
        raise AnnotationError(
            f"{path.name} row {first.row} (image {printable(first.image_id) or '?'}): {first.problem}{more}"
        )
    if len(found):
        table = drop_problems(table, found)
        log.warning("%s: %d rows left out, %d kept", path.name, found["row"].nunique(), len(table))
        if table.empty:
            raise AnnotationError(f"{path.name}: expected at least one good row, got none")
    return _typed(table, classes)


def read_table(path: Path | str) -> pd.DataFrame:
    """Read the columns of an annotation table as text, nothing checked but that they are there.

    Args:
        path: A `.csv` or `.csv.gz`.

    Returns:
        The columns of `schema.ANNOTATION_COLUMNS`, every cell a string, empty where the file is.

    Raises:
        AnnotationError: A missing column (with the nearest name found) or an empty table.
        DataError: The file is missing or cannot be read.
    """
    return _read_text(Path(path), ANNOTATION_COLUMNS)


def problems(
    table: pd.DataFrame, *, image_sizes: pd.DataFrame | None = None, classes: ClassTable = VINBIGDATA
) -> pd.DataFrame:
    """List everything wrong with an annotation table.

    Args:
        table: A table from `read_table`, or any with the columns of `schema.ANNOTATION_COLUMNS`.
        image_sizes: Original sizes (`schema.SIZE_COLUMNS`) of the images whose size is known.
        classes: Classes of the data set.

    Returns:
        One line per problem, by row: `row` (1 is the first), `image_id`, `kind` (a short code for
        counting) and `problem` (what was expected and what came). Empty when all is well.

    Raises:
        AnnotationError: A missing column.
    """
    _require(table.columns, ANNOTATION_COLUMNS, "the table")
    found = [
        pd.DataFrame({"row": np.flatnonzero(bad) + 1, "kind": kind, "problem": text})
        for kind, bad, text in _checks(table.reset_index(drop=True), image_sizes, classes)
        if bad.any()
    ]
    if not found:
        return pd.DataFrame(columns=["row", IMAGE_ID, "kind", "problem"])
    listed = pd.concat(found).sort_values("row", kind="stable", ignore_index=True)
    listed.insert(1, IMAGE_ID, _text(table[IMAGE_ID]).to_numpy()[listed["row"] - 1])
    return listed


def drop_problems(table: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Leave out the rows that `problems` found.

    Args:
        table: The table that was given to `problems`.
        found: What it returned.

    Returns:
        The other rows, in order, with a fresh index.
    """
    keep = np.ones(len(table), dtype=bool)
    keep[found["row"].to_numpy(dtype=np.int64) - 1] = False
    return table[keep].reset_index(drop=True)


def _checks(
    table: pd.DataFrame, image_sizes: pd.DataFrame | None, classes: ClassTable
) -> Iterator[tuple[str, np.ndarray, list[str]]]:
    """Yield a code, a mask of bad rows, and one sentence for each of them."""
    text = {column: _text(table[column]) for column in ANNOTATION_COLUMNS}

    def sentences(bad: np.ndarray, pattern: str, *columns: str) -> list[str]:
        rows = np.flatnonzero(bad)
        return [pattern.format(*(text[column].iloc[row] for column in columns)) for row in rows]

    for column in (IMAGE_ID, RAD_ID):
        bad = (text[column] == "").to_numpy()
        yield f"empty_{column}", bad, sentences(bad, f"expected {column}, got nothing")
    wrong = {image_id: id_problem(image_id) for image_id in text[IMAGE_ID].unique() if image_id}
    bad = text[IMAGE_ID].isin({image_id for image_id, problem in wrong.items() if problem}).to_numpy()
    yield "image_id", bad, [wrong[image_id] for image_id in text[IMAGE_ID][bad]]

    class_id = pd.to_numeric(text[CLASS_ID], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    known = np.isin(class_id, np.arange(len(classes.names)))
    pattern = f"expected a class_id of 0 to {classes.normal_id}, got '{{}}'"
    yield "class_id", ~known, sentences(~known, pattern, CLASS_ID)
    names = np.array([*classes.names, ""])[np.where(known, class_id, -1).astype(np.int64)]
    bad = known & (names != text[CLASS_NAME].to_numpy(dtype=str))
    pairs = zip(text[CLASS_ID][bad], names[bad].tolist(), text[CLASS_NAME][bad], strict=True)
    yield (
        "class_name",
        bad,
        [f"expected class {number} to be named {name!r}, got {got!r}" for number, name, got in pairs],
    )

    values = np.empty((len(table), 4))
    for k, column in enumerate(BOX_COLUMNS):
        values[:, k] = pd.to_numeric(text[column], errors="coerce").to_numpy(np.float64, na_value=np.nan)
        written = (text[column] != "") & ~text[column].str.lower().isin(["nan", "na", "null"])
        bad = written.to_numpy() & ~np.isfinite(values[:, k])
        yield "number", bad, sentences(bad, f"expected a number as {column}, got '{{}}'", column)
        values[bad, k] = -np.inf  # said once; not a missing coordinate too

    normal = known & (class_id == classes.normal_id)
    empty = np.isnan(values)
    one_pixel = (values == NORMAL_BOX).all(axis=1)
    bad = normal & ~empty.all(axis=1) & ~one_pixel
    yield (
        "normal_with_box",
        bad,
        sentences(bad, "expected no box in a normal row, got {} {} {} {}", *BOX_COLUMNS),
    )

    finding = known & ~normal
    bad = finding & empty.any(axis=1)
    yield "no_box", bad, sentences(bad, "expected a box for a finding, got '{}' '{}' '{}' '{}'", *BOX_COLUMNS)

    whole = finding & np.isfinite(values).all(axis=1)
    for low, high in ((0, 2), (1, 3)):
        bad = whole & (np.nan_to_num(values[:, high]) <= np.nan_to_num(values[:, low]))
        columns = (BOX_COLUMNS[high], BOX_COLUMNS[low])
        yield (
            "inverted",
            bad,
            sentences(bad, f"{columns[0]} {{}} is not greater than {columns[1]} {{}}", *columns),
        )

    limits = _limits(text[IMAGE_ID], image_sizes)
    outside = (values[:, :2] < 0).any(axis=1)
    outside |= (values[:, 2] > limits[:, 1]) | (values[:, 3] > limits[:, 0])
    bad = whole & outside
    sizes = ["" if np.isinf(row).any() else f" of {row[1]:.0f}x{row[0]:.0f} px" for row in limits[bad]]
    got = sentences(bad, "got {} {} {} {}", *BOX_COLUMNS)
    yield (
        "outside",
        bad,
        [f"expected a box inside the image{s}, {g}" for s, g in zip(sizes, got, strict=True)],
    )

    reading = text[IMAGE_ID] + "\n" + text[RAD_ID]  # one reader may find what another does not
    mixed = normal & reading.isin(set(reading[finding])).to_numpy()
    pattern = "expected no normal row by a reader who found something in the image, got one by {}"
    yield "mixed", mixed, sentences(mixed, pattern, RAD_ID)

    content = pd.DataFrame(values, columns=BOX_COLUMNS)
    content[normal] = np.nan
    content = content.assign(image=text[IMAGE_ID], reader=text[RAD_ID], label=class_id)
    bad = content.duplicated().to_numpy() & known
    yield (
        "duplicate",
        bad,
        sentences(
            bad, "expected rows that differ, got one that was there before ({}, {})", RAD_ID, CLASS_NAME
        ),
    )


def _limits(image_ids: pd.Series, image_sizes: pd.DataFrame | None) -> np.ndarray:
    """Rows and columns of every row's image, infinite where unknown."""
    if image_sizes is None:
        return np.full((len(image_ids), 2), np.inf)
    _require(image_sizes.columns, SIZE_COLUMNS, "image_sizes")
    sizes = image_sizes.astype({IMAGE_ID: str}).drop_duplicates(IMAGE_ID)
    sizes = sizes.set_index(IMAGE_ID)[["rows", "columns"]]
    return sizes.reindex(image_ids).to_numpy(dtype=np.float64, na_value=np.inf)


def _typed(table: pd.DataFrame, classes: ClassTable) -> pd.DataFrame:
    typed = table[ANNOTATION_COLUMNS].copy()
    typed[CLASS_ID] = pd.to_numeric(typed[CLASS_ID]).astype(np.int64)
    for column in BOX_COLUMNS:
        typed[column] = pd.to_numeric(typed[column], errors="coerce").astype(np.float64)
    typed.loc[typed[CLASS_ID] == classes.normal_id, BOX_COLUMNS] = np.nan
    return typed


def _text(column: pd.Series) -> pd.Series:
    return column.astype("string").fillna("").str.strip().astype(object)


def _read_text(path: Path, columns: list[str]) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f"{path}: expected a table with {', '.join(columns)}, found no such file")
    table = read_text_table(path, columns, error=AnnotationError)
    if not len(table.columns):
        raise AnnotationError(f"{path.name}: expected {', '.join(columns)}, got an empty file")
    _require(table.columns, columns, path.name)
    if table.empty:
        raise AnnotationError(f"{path.name}: expected at least one row, got a header alone")
    return table[columns].reset_index(drop=True)


def _require(present: pd.Index, columns: list[str], name: str) -> None:
    for column in columns:
        if column not in present:
            near = difflib.get_close_matches(column, [str(other) for other in present], n=1)
            got = f"the nearest is {near[0]!r}" if near else f"got {', '.join(map(str, present))}"
            raise AnnotationError(f"{name}: expected a column {column!r}, {got}")
