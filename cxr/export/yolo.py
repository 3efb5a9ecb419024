"""YOLO: one text file of labels an image, and a `data.yaml` that names folders and classes.

References:
    https://docs.ultralytics.com/datasets/detect/ (the layout; without `path` the folders in
    `data.yaml` start at the folder of the file, with `path: .` at the working directory)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cxr import schema
from cxr.export.parts import Part
from cxr.files import write_text
from cxr.schema import ClassTable


def write_boxes(parts: Sequence[Part], out: Path, classes: ClassTable) -> None:
    """Write the labels of all parts whose truth is known, and `data.yaml`."""
    for part in parts:
        if part.truth is not None:
            _write_labels(part, out / "labels" / part.name, classes)
    folders = "".join(f"{part.name}: images/{part.name}\n" for part in parts if part.sizes)
    names = "".join(f"  {i}: {json.dumps(classes.name(i))}\n" for i in classes.finding_ids)
    write_text(out / "data.yaml", f"{folders}nc: {len(classes.finding_ids)}\nnames:\n{names}")


def _write_labels(part: Part, folder: Path, classes: ClassTable) -> None:
    assert part.truth is not None, "a part without a truth has no labels"
    found = part.truth[part.truth[schema.CLASS_ID] != classes.normal_id].dropna(subset=schema.BOX_COLUMNS)
    by_image = dict(tuple(found.groupby(schema.IMAGE_ID)))
    for image_id, size in part.sizes.items():
        lines = _lines(by_image[image_id], size) if image_id in by_image else []
        write_text(folder / f"{image_id}.txt", "".join(lines))


def _lines(rows: pd.DataFrame, size: tuple[int, int]) -> list[str]:
    height, width = size
    lines = []
    for row in rows.itertuples(index=False):
        x, y = (row.x_min + row.x_max) / 2 / width, (row.y_min + row.y_max) / 2 / height
        w, h = (row.x_max - row.x_min) / width, (row.y_max - row.y_min) / height
        lines.append(f"{int(row.class_id)} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n")
    return lines
