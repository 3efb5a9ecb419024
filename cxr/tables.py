"""Read a table that somebody else wrote: every row as wide as the header, every column once."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cxr.errors import CxrError, DataError, printable
from cxr.schema import IMAGE_ID

_BLANKS = {chr(code) for code in (0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000)}
"""Blanks of other scripts, which Python does not count as printable."""


def read_text_table(
    path: Path, columns: Sequence[str], *, error: type[CxrError] = DataError, first_row: int = 1
) -> pd.DataFrame:
    """Read a CSV as text, nothing guessed: no index, no missing values, no renamed columns.

    Args:
        path: A `.csv` or `.csv.gz` in UTF-8.
        columns: Columns that must not be there twice.
        error: What to raise.
        first_row: Number of the first row after the header, for messages.

    Returns:
        Every cell a string, without blanks around it, in the order of the file. Empty lines are left out,
        and the index is each row's number.

    Raises:
        error: A column twice, or a row with more or fewer cells than the header; the message names file and
            row. An empty file gives an empty table without columns.
        DataError: The file cannot be read as a CSV in UTF-8.
    """
    rows: list[list[str]] = []
    numbers: list[int] = []
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            for name in columns:
                if header.count(name) > 1:
                    raise error(f"{path.name}: expected the column {name!r} once, got it twice")
            for number, cells in enumerate(reader, start=first_row):
                if not cells:
                    continue
                if len(cells) != len(header):
                    place = header.index(IMAGE_ID) if IMAGE_ID in header else len(cells)
                    of = f" (image {printable(cells[place].strip())})" if place < len(cells) else ""
                    text = f"expected {len(header)} fields, got {len(cells)}"
                    raise error(f"{path.name} row {number}{of}: {text}")
                rows.append([cell.strip() for cell in cells])
                numbers.append(number)
    except (UnicodeDecodeError, OSError, EOFError, csv.Error) as problem:
        raise DataError(f"{path}: expected a readable CSV table, got: {problem}") from problem
    return pd.DataFrame(rows, columns=header, index=numbers, dtype=object)


def id_problem(image_id: str) -> str:
    """What keeps a text from being an image's id, or nothing.

    An id becomes a file's name and a line of a log. So it may not lead into another folder, and has no
    control characters.
    """
    if not image_id:
        return "expected an image id, got nothing"
    if image_id in (".", "..") or "/" in image_id or "\\" in image_id:
        return f"expected an image id without slashes, and not '.' or '..', got '{printable(image_id)}'"
    if any(not letter.isprintable() and letter not in _BLANKS for letter in image_id):
        return f"expected an image id without control characters, got '{printable(image_id)}'"
    return ""
