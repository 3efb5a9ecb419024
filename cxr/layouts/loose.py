"""Read tables as they are found: any encoding, delimiter, letter case of headers, decimal commas."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cxr.errors import AnnotationError, DataError, printable
from cxr.layouts.folder import read_bytes
from cxr.layouts.layout import Notes
from cxr.schema import BOX_COLUMNS, CLASS_ID, CLASS_NAME, IMAGE_ID, RAD_ID

_EMPTY = {"", "nan", "na", "n/a", "none", "null", "-"}

SYNONYMS = {
    IMAGE_ID: (
        "imageid",
        "image",
        "imageindex",
        "imagename",
        "filename",
        "file",
        "filepath",
        "path",
        "patientid",
        "id",
    ),
    CLASS_NAME: ("classname", "class", "label", "finding", "findinglabel", "category", "name"),
    CLASS_ID: ("classid", "labelid", "categoryid"),
    RAD_ID: ("radid", "reader", "readerid", "radiologist", "annotator", "annotatorid", "rater"),
    "x_min": ("xmin", "x1", "left"),
    "y_min": ("ymin", "y1", "top"),
    "x_max": ("xmax", "x2", "right"),
    "y_max": ("ymax", "y2", "bottom"),
    "x": ("x", "bboxx", "xleft"),
    "y": ("y", "bboxy", "ytop"),
    "width": ("width", "w", "bboxw", "bboxwidth"),
    "height": ("height", "h", "bboxh", "bboxheight"),
}
"""Plain spellings of each column: letters and digits alone, lower case; the first that occurs counts."""


def read_loose(path: Path, notes: Notes) -> pd.DataFrame:
    """Read a delimited text file, every cell as text without blanks around it.

    Args:
        path: `.csv`, `.tsv`, `.txt` or `.csv.gz`.
        notes: Where mended kinds are counted.

    Returns:
        The table; empty cells and the words for "nothing" are "".

    Raises:
        AnnotationError: An empty file.
        DataError: No delimited text.
    """
    raw = read_bytes(path)
    if path.suffix.lower() == ".gz":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{printable(path)}: expected a gzip file, got: {error}") from error
    text = _decode(raw, path, notes)
    text = re.sub(r"\A\s*\"?sep=.\"?[ \t]*\n", "", text)  # Excel's own first line
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise AnnotationError(f"{path.name}: expected a table, got an empty file")
    delimiter = max(",;\t|", key=lines[0].count)
    if delimiter != ",":
        shown = "tab" if delimiter == "\t" else delimiter
        notes.mend(f"tables with {shown!r} between columns instead of ','", [path.name])
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=delimiter))
    except csv.Error as error:
        raise DataError(f"{printable(path)}: expected delimited text, got: {error}") from error
    rows = [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
    header = rows[0]
    width = len(header)
    numbered = [(f"{path.name} row {i}", row) for i, row in enumerate(rows[1:], start=1)]
    notes.leave("rows with more cells than the header", [name for name, row in numbered if any(row[width:])])
    notes.mend("rows that end early, the rest empty", [name for name, row in numbered if len(row) < width])
    kept = [(row + [""] * width)[:width] for _, row in numbered if not any(row[width:])]
    table = pd.DataFrame(kept, columns=range(width), dtype=object)
    table = table.map(lambda cell: "" if cell.lower() in _EMPTY else cell) if len(table) else table
    table.columns = header
    return table


def find_columns(table: pd.DataFrame, path: Path, notes: Notes, needed: Sequence[str] = ()) -> pd.DataFrame:
    """Rename columns to the words of `SYNONYMS`; others fall away.

    Raises:
        AnnotationError: A column of those needed is there under no name that is known.
    """
    plain = [re.sub(r"[^a-z0-9]", "", str(name).lower()) for name in table.columns]
    found = {}
    for word, spellings in SYNONYMS.items():
        places = [plain.index(s) for s in (word.replace("_", ""), *spellings) if s in plain]
        if places:
            found[word] = places[0]
    renamed = [f"{table.columns[place]!r}" for word, place in found.items() if table.columns[place] != word]
    notes.mend(f"headers of {path.name} in other words or letters", renamed)
    if missing := [word for word in needed if word not in found]:
        got = ", ".join(map(str, table.columns))
        raise AnnotationError(f"{path.name}: expected a column {missing[0]}, got {printable(got)}")
    return pd.DataFrame({word: table.iloc[:, place] for word, place in found.items()}, dtype=object)


def numbers(table: pd.DataFrame, columns: list[str], path: Path, notes: Notes) -> pd.DataFrame:
    """Columns as float64; a decimal comma is mended, what is no number becomes infinite.

    Returns:
        The columns; NaN where a cell is empty, infinite where it is no finite number.
    """
    result = {}
    for column in columns:
        text = table[column].astype(str)
        comma = text.str.fullmatch(r"[-+]?\d*,\d+([eE][-+]?\d+)?")
        if comma.any():
            notes.mend("numbers with a decimal comma", list(text[comma]))
            text = text.where(~comma, text.str.replace(",", ".", regex=False))
        values = pd.to_numeric(text.where(text != ""), errors="coerce").astype(float)
        bad = (text != "") & ~(values.abs() < float("inf"))
        result[column] = values.where(~bad, float("inf"))
    return pd.DataFrame(result, index=table.index)


def corners(table: pd.DataFrame, path: Path, notes: Notes) -> pd.DataFrame:
    """Corners of a table's boxes from whichever columns it has, corners or x, y, width, height.

    Raises:
        AnnotationError: It has neither.
    """
    if set(BOX_COLUMNS) <= set(table.columns):
        return numbers(table, BOX_COLUMNS, path, notes)
    needed = ["x", "y", "width", "height"]
    if not set(needed) <= set(table.columns):
        raise AnnotationError(
            f"{path.name}: expected columns {', '.join(BOX_COLUMNS)}, or x, y, width, height; "
            f"got {', '.join(map(str, table.columns)) or 'none that is known'}"
        )
    notes.take(f"x, y, width, height in {path.name} for the left upper corner and the size of a box")
    values = numbers(table, needed, path, notes)
    return pd.DataFrame(
        {
            "x_min": values["x"],
            "y_min": values["y"],
            "x_max": values["x"] + values["width"],
            "y_max": values["y"] + values["height"],
        }
    )


def _decode(raw: bytes, path: Path, notes: Notes) -> str:
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif raw[:200].count(b"\0") > 20:
        encoding = "utf-16-le" if raw[1:2] == b"\0" else "utf-16-be"
    else:
        encoding = "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        encoding = "latin-1"
        text = raw.decode(encoding)
    if "\0" in text:
        raise DataError(f"{printable(path)}: expected a table of text, got binary data")
    if encoding != "utf-8-sig":
        notes.mend(f"tables in {encoding.upper()} instead of UTF-8", [path.name])
    return text.replace("\r\n", "\n").replace("\r", "\n")
