"""COCO: instances, images without a truth, and detections as results.

A category's id is its class id, from 0; the normal class is no category. Boxes are `x, y, width,
height` in pixels of the image named in the same folder.

References:
    https://cocodataset.org/#format-data and #format-results
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cxr import schema
from cxr.export.parts import Part
from cxr.files import write_text
from cxr.rundir import write_json
from cxr.schema import ClassTable


def write_boxes(parts: Sequence[Part], out: Path, classes: ClassTable) -> None:
    """Write the documents of all parts below `out/annotations`."""
    for part in parts:
        files = {image_id: f"{image_id}.png" for image_id in part.image_ids}
        kind = "image_info" if part.truth is None else "instances"
        document = images_document(files, part.sizes, classes)
        if part.truth is not None:
            document["annotations"] = annotations_of(part.truth, part.image_ids, classes)
        write_json(out / "annotations" / f"{kind}_{part.name}.json", document)
        if part.detections is not None:
            path = out / "annotations" / f"results_{part.name}.json"
            write_results(path, part.detections, part.image_ids, classes)


def images_document(
    files: Mapping[str, str], sizes: Mapping[str, tuple[int, int]], classes: ClassTable
) -> dict[str, list[dict[str, object]]]:
    """Images and categories; images count from 1 in the order of `files`.

    Args:
        files: Name of each image's file, by image id.
        sizes: (rows, columns) of each image.
        classes: The classes.
    """
    images = [
        {"id": number, "file_name": file, "height": int(sizes[key][0]), "width": int(sizes[key][1])}
        for number, (key, file) in enumerate(files.items(), start=1)
    ]
    return {"images": images, "categories": [{"id": i, "name": classes.name(i)} for i in classes.finding_ids]}


def annotations_of(
    table: pd.DataFrame, image_ids: Sequence[str], classes: ClassTable
) -> list[dict[str, Any]]:
    """Annotations of the findings in a table; `image_ids` gives the images' numbers."""
    found = _findings(table, classes).dropna(subset=schema.BOX_COLUMNS)
    return [
        {"id": i, **entry, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
        for i, entry in enumerate(_entries(found, image_ids), start=1)
    ]


def write_results(path: Path, table: pd.DataFrame, image_ids: Sequence[str], classes: ClassTable) -> int:
    """Write detections as COCO results, a JSON list.

    Args:
        path: File to write.
        table: `schema.DETECTION_COLUMNS`.
        image_ids: Images in the order of the document that numbers them.
        classes: The classes; rows of the normal class are left out.

    Returns:
        Number of results.
    """
    found = _findings(table, classes)
    results = [
        {**entry, "score": float(score)}
        for entry, score in zip(_entries(found, image_ids), found[schema.SCORE], strict=True)
    ]
    write_text(path, json.dumps(results, indent=1) + "\n")
    return len(results)


def _findings(table: pd.DataFrame, classes: ClassTable) -> pd.DataFrame:
    return table[table[schema.CLASS_ID] != classes.normal_id]


def _entries(table: pd.DataFrame, image_ids: Sequence[str]) -> list[dict[str, Any]]:
    numbers = {image_id: number for number, image_id in enumerate(image_ids, start=1)}
    columns = table[[schema.IMAGE_ID, schema.CLASS_ID, *schema.BOX_COLUMNS]]
    return [
        {
            "image_id": numbers[image_id],
            "category_id": int(class_id),
            "bbox": [float(x_min), float(y_min), float(x_max) - float(x_min), float(y_max) - float(y_min)],
        }
        for image_id, class_id, x_min, y_min, x_max, y_max in columns.itertuples(index=False, name=None)
    ]
