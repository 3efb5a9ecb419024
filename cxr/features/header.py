"""Features from the DICOM header, cleaned: numbers that are numbers, missing that is missing.

These say which machine and which hospital made the image. On VinBigData they alone tell normal
from abnormal with AUC 0.96; that is a leak, not medicine, so they are a switch of the classifier.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from cxr import schema
from cxr.dicom import version_code
from cxr.errors import DataError

HEADER_PREFIX = "header_"
GREATEST_AGE = 110.0  # years; VinBigData holds ages up to 238
MOST_VERSIONS = 30
VERSION_PREFIX = f"{HEADER_PREFIX}version_is_"

_NUMBERS = {
    "rows": "Rows",
    "columns": "Columns",
    "bits_stored": "Bits Stored",
    "bits_allocated": "Bits Allocated",
    "high_bit": "High Bit",
    "pixel_representation": "Pixel Representation",
    "rescale_slope": "Rescale Slope",
    "rescale_intercept": "Rescale Intercept",
    "window_center": "Window Center",
    "window_width": "Window Width",
}
_CATEGORIES: dict[str, tuple[str, dict[str, str]]] = {
    "sex": ("Patient's Sex", {"female": "F", "male": "M", "other": "O"}),
    "photometric": (
        "Photometric Interpretation",
        {"monochrome1": "MONOCHROME1", "monochrome2": "MONOCHROME2"},
    ),
    "syntax": (
        "Transfer Syntax UID",
        {
            "implicit_le": "1.2.840.10008.1.2",
            "explicit_le": "1.2.840.10008.1.2.1",
            "jpeg2000_lossless": "1.2.840.10008.1.2.4.90",
        },
    ),
    "sop_class": (
        "SOP Class UID",
        {"cr": "1.2.840.10008.5.1.4.1.1.1", "dx": "1.2.840.10008.5.1.4.1.1.1.1"},
    ),
}
_AGE = re.compile(r"^\s*(\d+)\s*([DWMY]?)\s*$")
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0, "": 1.0}
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def header_features(metadata: pd.DataFrame, *, versions: Sequence[str] | None = None) -> pd.DataFrame:
    """Turn the header table into numbers, in a fixed order of columns.

    - `header_age_years`: years; missing where empty, zero, without a number, or above 110.
    - `header_spacing_mm`: row spacing; missing where absent or `[1, 1]`, a placeholder.
    - Numbers as they are (`header_rows`, ..., `header_window_width`); of several windows the first.
    - One-hots with a column for each known value and one for "missing": sex, photometric
      interpretation, transfer syntax, SOP class. A value not listed has zeros everywhere.
    - `header_version_missing` and `header_version_is_<code>`: the implementation's version name as a
      code, since the name is free text; with the categories known when the classifier was fitted.

    File names and instance UIDs are never features.

    Args:
        metadata: Columns `image_id` and `schema.HEADER_COLUMNS`, as `dicom_metadata.csv`.
        versions: Codes of versions that get a column. `None` takes those of `metadata` itself, the
            commonest 30; for new images pass `header_versions(model.feature_names)`.

    Returns:
        One row an image: `image_id`, then the `header_*` columns; missing is NaN.

    Raises:
        DataError: A column is missing.
    """
    lacking = [name for name in (schema.IMAGE_ID, *schema.HEADER_COLUMNS) if name not in metadata.columns]
    if lacking:
        raise DataError(f"header features: expected the column {lacking[0]!r}, got {list(metadata.columns)}")
    text = metadata[schema.HEADER_COLUMNS].apply(_text)
    columns: dict[str, pd.Series] = {
        "age_years": text["Patient's Age"].map(age_years),
        "spacing_mm": text["Pixel Spacing"].map(spacing_mm),
    }
    columns |= {name: text[source].map(first_number) for name, source in _NUMBERS.items()}
    for name, (source, values) in _CATEGORIES.items():
        columns[f"{name}_missing"] = text[source] == ""
        columns |= {f"{name}_{label}": text[source].str.upper() == value for label, value in values.items()}
    version = text["Version"].map(version_code)
    columns["version_missing"] = version == ""
    if versions is None:
        # By count, then by name: the order must not depend on the order of the rows.
        counts = version[version != ""].value_counts()
        versions = sorted(sorted(counts.index, key=lambda name: (-counts[name], name))[:MOST_VERSIONS])
    table = pd.DataFrame({f"{HEADER_PREFIX}{name}": column.astype(float) for name, column in columns.items()})
    if len(versions):
        codes = map(version_code, versions)
        known = {f"{VERSION_PREFIX}{code}": (version == code).astype(float) for code in codes}
        table = pd.concat([table, pd.DataFrame(known)], axis=1)
    table.insert(0, schema.IMAGE_ID, metadata[schema.IMAGE_ID].astype(str))
    return table.reset_index(drop=True)


def header_versions(feature_names: Iterable[str]) -> list[str]:
    """The codes of versions that a feature table or a fitted classifier has columns for."""
    return [name.removeprefix(VERSION_PREFIX) for name in feature_names if name.startswith(VERSION_PREFIX)]


def age_years(text: str) -> float:
    """Age in years from a DICOM age string such as `045Y` or `006M`; NaN where it says nothing.

    Zero is what scanners write when nobody typed an age, in any unit; above 110 is a typing error.

    References:
        DICOM PS3.5 6.2, value representation AS.
    """
    match = _AGE.match(text.upper())
    if not match:
        return np.nan
    years = int(match[1]) * _YEARS[match[2]]
    return years if 0 < years <= GREATEST_AGE else np.nan


def spacing_mm(text: str) -> float:
    """Distance of two rows in millimetres; NaN where absent, not positive, or exactly 1 (a placeholder)."""
    spacing = first_number(text)
    return spacing if spacing > 0 and spacing != 1.0 else np.nan


def first_number(text: str) -> float:
    """The first number in a header field such as `2048.0`, `[0.139, 0.139]`; NaN if there is none."""
    match = _NUMBER.search(text)
    return float(match[0]) if match else np.nan


def _text(column: pd.Series) -> pd.Series:
    """Header fields as stripped text; a CSV reader's NaN and `None` are empty."""
    return column.where(column.notna(), "").astype(str).str.strip()
