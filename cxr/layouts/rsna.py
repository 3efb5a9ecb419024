"""RSNA Pneumonia Detection Challenge: `stage_2_train_labels.csv`.

Boxes are x, y, width, height in pixels of the 1024 x 1024 DICOM files, corners counted from 0.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cxr.errors import AnnotationError
from cxr.layouts.folder import SourceFolder
from cxr.layouts.layout import NORMAL, ONE_READER, REFERENCE, Layout, Notes, Part
from cxr.layouts.loose import corners, find_columns, read_loose
from cxr.schema import BOX_COLUMNS, CLASS_NAME, IMAGE_ID, RAD_ID

FINDING = "Lung Opacity"
"""What a box of the challenge marks, by its own `stage_2_detailed_class_info.csv`."""


def recognise(source: SourceFolder) -> bool:
    """`stage_2_train_labels.csv` (or stage 1's) is there."""
    return bool(source.named("stage_2_train_labels.csv", "stage_1_train_labels.csv"))


def read(source: SourceFolder, notes: Notes) -> Layout:
    """Read boxes (Target 1) and images without one (Target 0).

    Raises:
        AnnotationError: There is no column `Target` or `patientId`.
    """
    path = source.named("stage_2_train_labels.csv", "stage_1_train_labels.csv")[0]
    raw = read_loose(path, notes)
    lower = [str(name).lower() for name in raw.columns]
    for needed in ("patientid", "target"):
        if needed not in lower:
            raise AnnotationError(
                f"{path.name}: expected a column {needed!r}, got {', '.join(map(str, raw.columns))}"
            )
    table = find_columns(raw, path, Notes())
    target = raw.iloc[:, lower.index("target")]
    rows = pd.DataFrame({REFERENCE: table[IMAGE_ID], RAD_ID: ONE_READER})
    rows[CLASS_NAME] = np.where(target.isin(["1", "1.0"]), FINDING, NORMAL)
    rows[BOX_COLUMNS] = corners(table, path, notes)
    rows.loc[rows[CLASS_NAME] == NORMAL, BOX_COLUMNS] = np.nan
    unknown = ~target.isin(["0", "1", "0.0", "1.0"])
    notes.leave("rows whose Target is neither 0 nor 1", list(table[IMAGE_ID][unknown]))
    notes.take(
        f"{source.relative(path)}: Target 1 for {FINDING!r}, Target 0 for {NORMAL!r} "
        "(no opacity; there may be other findings)"
    )
    notes.take(f"all boxes for those of one reader, {ONE_READER}")
    test = tuple(
        source.relative(p) for p in source.below("stage_2_test_images", "stage_1_test_images", "test")
    )
    empty = rows.iloc[:0]
    return Layout(
        (Part(rows[~unknown].reset_index(drop=True), folder="stage_2_train_images"),),
        (Part(empty, test),) if test else (),
        (FINDING,),
    )
