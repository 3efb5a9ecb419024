"""Feature tables: which group a feature belongs to, and joining the groups."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from cxr import schema
from cxr.errors import DataError
from cxr.features.detections import DETECTOR_PREFIX
from cxr.features.header import HEADER_PREFIX

GROUPS = ("pixel", "header", "detector")


def feature_group(name: str) -> str:
    """Group of a feature, by its name: "header", "detector" or "pixel"."""
    if name.startswith(HEADER_PREFIX):
        return "header"
    return "detector" if name.startswith(DETECTOR_PREFIX) else "pixel"


def feature_names(table: pd.DataFrame, groups: Iterable[str] = GROUPS) -> list[str]:
    """Feature columns of a table that belong to the given groups, in the table's order.

    Raises:
        DataError: An unknown group.
    """
    wanted = set(groups)
    if unknown := wanted - set(GROUPS):
        raise DataError(f"feature groups: expected some of {', '.join(GROUPS)}, got {sorted(unknown)}")
    return [name for name in table.columns if name != schema.IMAGE_ID and feature_group(str(name)) in wanted]


def join_features(*tables: pd.DataFrame) -> pd.DataFrame:
    """Put feature tables side by side, one row an image; what a table lacks is missing (NaN).

    Args:
        tables: Each with `image_id` and its own feature columns.

    Returns:
        Rows in the order of the first table, then images that only later tables have.

    Raises:
        DataError: No `image_id` column, an image twice in a table, or a feature in two tables.
    """
    joined: pd.DataFrame | None = None
    for table in tables:
        if schema.IMAGE_ID not in table.columns:
            raise DataError(f"features: expected a column image_id, got {', '.join(map(str, table.columns))}")
        twice = table[schema.IMAGE_ID][table[schema.IMAGE_ID].duplicated()]
        if len(twice):
            raise DataError(f"features: image {twice.iloc[0]} has more than one row")
        indexed = table.set_index(schema.IMAGE_ID)
        if joined is None:
            joined = indexed
            continue
        if shared := sorted(set(joined.columns) & set(indexed.columns)):
            raise DataError(f"features: two tables hold the same feature, {shared[0]}")
        order = joined.index.append(indexed.index.difference(joined.index, sort=False))
        joined = joined.reindex(order).join(indexed)
    if joined is None:
        return pd.DataFrame(columns=[schema.IMAGE_ID])
    return joined.rename_axis(schema.IMAGE_ID).reset_index()
