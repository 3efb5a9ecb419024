"""A data folder for this project, with smaller copies of the images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cxr import schema
from cxr.export.parts import Part
from cxr.files import write_text
from cxr.schema import ClassTable


def write_boxes(parts: Sequence[Part], out: Path, classes: ClassTable) -> None:
    """Write `train.csv`, `classes.csv` and, where it is known, `test_truth.csv`."""
    for part in parts:
        if part.truth is None:
            continue
        name = schema.TEST_TRUTH_TABLE if part.name == "test" else f"{part.name}.csv"
        table = part.truth.assign(
            **{schema.CLASS_NAME: part.truth[schema.CLASS_ID].map(lambda i: classes.name(int(i)))}
        )
        if schema.RAD_ID not in table.columns:
            table[schema.RAD_ID] = "consensus"
        write_text(out / name, table[schema.ANNOTATION_COLUMNS].to_csv(index=False, float_format="%.3f"))
    named = {schema.CLASS_ID: range(len(classes.names)), schema.CLASS_NAME: classes.names}
    write_text(out / "classes.csv", pd.DataFrame(named).to_csv(index=False))
