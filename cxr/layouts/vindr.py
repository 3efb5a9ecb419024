"""VinDr-CXR as PhysioNet gives it: local labels by reader, the test set by consensus."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cxr.layouts.folder import SourceFolder
from cxr.layouts.layout import NORMAL, REFERENCE, ROW_COLUMNS, Layout, Notes, Part, normal_row, rows_table
from cxr.layouts.loose import corners, find_columns, read_loose
from cxr.layouts.names import VINDR_LOCAL, is_normal
from cxr.schema import BOX_COLUMNS, CLASS_NAME, IMAGE_ID, RAD_ID

CONSENSUS = "consensus"
"""Reader name of the test set, which five radiologists agreed on."""


def recognise(source: SourceFolder) -> bool:
    """`annotations_train.csv` or `annotations_test.csv` is there."""
    return bool(source.named("annotations_train.csv", "annotations_test.csv"))


def read(source: SourceFolder, notes: Notes) -> Layout:
    """Read both parts; pixels of the DICOM files, edges as in the competition's own table.

    A reader whom `image_labels_*.csv` names and who drew nothing has a normal row.

    Raises:
        AnnotationError: A table has no column of images, classes or boxes.
    """
    parts = {}
    for name in ("train", "test"):
        tables = source.named(f"annotations_{name}.csv")
        parts[name] = (_part(source, tables[0], name, notes),) if tables else ()
    return Layout(parts["train"], parts["test"], VINDR_LOCAL)


def _part(source: SourceFolder, path: Path, name: str, notes: Notes) -> Part:
    rows = _annotations(path, "R1" if name == "train" else CONSENSUS, notes)
    readers = (
        "the consensus of the readers, to score against" if name == "test" else "one row a box and reader"
    )
    notes.take(f"{source.relative(path)} for the {name} boxes, {readers}")
    labels = source.named(f"image_labels_{name}.csv")
    images: tuple[str, ...] = ()
    if labels:
        table = find_columns(read_loose(labels[0], notes), labels[0], notes, (IMAGE_ID,))
        readers_column = table[RAD_ID] if RAD_ID in table else pd.Series(CONSENSUS, index=table.index)
        readings = set(zip(rows[REFERENCE], rows[RAD_ID], strict=True))
        silent = [
            pair
            for pair in dict.fromkeys(zip(table[IMAGE_ID], readers_column, strict=True))
            if pair not in readings
        ]
        added = rows_table([normal_row(image, NORMAL, reader) for image, reader in silent])
        rows = pd.concat([rows, added], ignore_index=True) if silent else rows
        images = tuple(dict.fromkeys(table[IMAGE_ID]))
        notes.take(
            f"{source.relative(labels[0])} for who read which image ({len(silent)} readings without a box); "
            "its global labels have no boxes and are not used"
        )
    if name == "test":
        images = images or tuple(source.relative(path) for path in source.below("test"))
    return Part(rows, images, folder=name)


def _annotations(path: Path, reader: str, notes: Notes) -> pd.DataFrame:
    table = find_columns(read_loose(path, notes), path, notes, (IMAGE_ID, CLASS_NAME))
    boxes = corners(table, path, notes)
    rows = pd.DataFrame(
        {
            REFERENCE: table[IMAGE_ID],
            RAD_ID: table.get(RAD_ID, reader),
            CLASS_NAME: [NORMAL if is_normal(name) else name for name in table[CLASS_NAME]],
        }
    )
    rows[BOX_COLUMNS] = boxes
    return rows[ROW_COLUMNS]
