"""The tables that preprocessing leaves: headers, failures, and the index that makes a folder a store."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from cxr import schema
from cxr.files import write_bytes
from cxr.preprocess.plan import shard_name
from cxr.preprocess.sources import Failure
from cxr.store import read_shard_records, write_index

FAILURE_COLUMNS = [schema.IMAGE_ID, "split", "file", "reason", "message"]
"""Columns of `failures.csv`."""


def write_tables(out_dir: Path, shards: dict[int, int], failures: list[Failure]) -> None:
    """Write the header table, the failures and, last, the store's index; remove shards that are not in it.

    Args:
        out_dir: Folder of the tables, with the store in `images/`.
        shards: Number and revision of each finished shard, a revision below 0 for one without images.
        failures: Files that could not be read.
    """
    store = out_dir / "images"
    names = [shard_name(number, revision) for number, revision in sorted(shards.items()) if revision >= 0]
    # Shard by shard, and equal texts kept once: 400,000 images are a large data set.
    rows = [
        tuple(
            sys.intern(text) for text in (r.image_id, r.split, *(r.header[c] for c in schema.HEADER_COLUMNS))
        )
        for name in names
        for r in read_shard_records(store / name)
    ]
    headers = pd.DataFrame(rows, columns=[schema.IMAGE_ID, "split", *schema.HEADER_COLUMNS])
    del rows
    failed = pd.DataFrame([f.__dict__ for f in failures], columns=FAILURE_COLUMNS)
    _write_csv(out_dir / "dicom_metadata.csv", headers.sort_values(["split", schema.IMAGE_ID]))
    _write_csv(out_dir / "failures.csv", failed.sort_values(["split", schema.IMAGE_ID, "file"]))
    del headers
    # The index last of all: it is what makes the folder a store.
    write_index(store, ((name, read_shard_records(store / name)) for name in names))
    current = set(names)
    for path in store.glob("shard-*.h5"):
        if path.name not in current:
            path.unlink(missing_ok=True)


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    write_bytes(path, table.to_csv(index=False, lineterminator="\n").encode("utf-8", "replace"))
