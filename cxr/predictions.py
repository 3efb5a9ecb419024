"""Predictions on a user's own files: a table, a JSON document, and a picture of each image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cxr import dicom, plots, schema
from cxr.files import replacing
from cxr.rundir import write_json
from cxr.schema import ClassTable

PREDICTIONS_CSV = "predictions.csv"
PREDICTIONS_JSON = "predictions.json"
FAILURES_CSV = "failures.csv"
PICTURE_SIZE = 1024
"""Longer side of the pictures, in pixels."""


def write_predictions(
    detections: pd.DataFrame,
    failures: pd.DataFrame,
    files: Mapping[str, Path],
    out: Path,
    *,
    classes: ClassTable,
    pictures: bool = False,
) -> int:
    """Write what a detector found on a set of files.

    Args:
        detections: `schema.DETECTION_COLUMNS`, boxes in pixels of the original files.
        failures: `file, reason, message` of the files that could not be read.
        files: Path of every file asked for, by image id.
        out: Folder for `predictions.csv`, `predictions.json`, `failures.csv` (where there are
            any) and `pictures/`.
        classes: The detector's classes.
        pictures: Also draw each image with its boxes.

    Returns:
        Number of images that were read; one without a box is in the JSON document all the same.
    """
    out.mkdir(parents=True, exist_ok=True)
    failed = set(failures["file"])
    read = {image_id: path for image_id, path in files.items() if str(path) not in failed}
    table = detections.sort_values([schema.IMAGE_ID, schema.SCORE], ascending=[True, False])
    table.insert(1, "file", table[schema.IMAGE_ID].map(lambda image_id: str(files[image_id])))
    table.insert(3, schema.CLASS_NAME, table[schema.CLASS_ID].map(classes.name))
    with replacing(out / PREDICTIONS_CSV) as temporary:
        table.round({**dict.fromkeys(schema.BOX_COLUMNS, 2), schema.SCORE: 5}).to_csv(temporary, index=False)
    by_image = dict(tuple(table.groupby(schema.IMAGE_ID)))
    nothing = table.iloc[:0]
    images = [_image(i, path, by_image.get(i, nothing)) for i, path in sorted(read.items())]
    write_json(
        out / PREDICTIONS_JSON,
        {"classes": list(classes.names), "images": images, "failures": failures.to_dict("records")},
    )
    if len(failures):
        with replacing(out / FAILURES_CSV) as temporary:
            failures.to_csv(temporary, index=False)
    else:
        (out / FAILURES_CSV).unlink(missing_ok=True)
    if pictures:
        for image_id, path in read.items():
            _draw(path, by_image.get(image_id, nothing), out / "pictures" / f"{image_id}.png", classes)
    return len(read)


def _image(image_id: str, path: Path, rows: pd.DataFrame) -> dict[str, Any]:
    columns = [schema.CLASS_ID, schema.CLASS_NAME, schema.SCORE, *schema.BOX_COLUMNS]
    boxes = json.loads(rows[columns].to_json(orient="records", double_precision=5))
    return {"image_id": image_id, "file": str(path), "boxes": boxes}


def _draw(path: Path, rows: pd.DataFrame, picture: Path, classes: ClassTable) -> None:
    radiograph = dicom.load_radiograph(path, longest_side=PICTURE_SIZE)
    marks = plots.class_marks(rows, radiograph.original_size, radiograph.pixels.shape, classes=classes)
    figure = plots.gallery([plots.Panel(radiograph.pixels, path.name, marks)], columns=1, cell=8.0)
    with replacing(picture) as temporary:
        figure.savefig(temporary, dpi=110)
