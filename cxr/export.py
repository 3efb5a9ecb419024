"""Give a run's preprocessed images and boxes to other tools: a PNG data folder, COCO or YOLO."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cxr import boxes, schema
from cxr.errors import DataError, ParameterError
from cxr.files import replacing, write_text
from cxr.rundir import read_table, write_json
from cxr.schema import ClassTable
from cxr.store import ImageStore

FORMATS = ("png", "coco", "yolo")


def export_run(
    root: Path,
    out: Path,
    *,
    format: str,
    classes: ClassTable,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the images of a run as PNG files, with boxes in pixels of those files.

    - `png`: a data folder for this project (`train/`, `test/`, `train.csv` with every reader's
      boxes, `classes.csv`).
    - `coco`: `train/`, `val/`, `test/` and `annotations/instances_{train,val}.json`, fused boxes.
    - `yolo`: `images/{train,val,test}`, `labels/{train,val}` (class, centre and size as shares
      of the image) and `data.yaml`, fused boxes.

    Args:
        root: Folder of a run in which notebooks 01, 02 and, for COCO and YOLO, 04 have finished.
        out: Folder to write; must be new or empty.
        format: One of `FORMATS`.
        classes: The data set's classes.
        progress: Called with images done and in all.

    Returns:
        Number of images written.

    Raises:
        ParameterError: Unknown format.
        DataError: The run lacks a file that is needed, or `out` is not empty.
    """
    if format not in FORMATS:
        raise ParameterError(f"format {format!r}: expected one of {', '.join(FORMATS)}, safetensors")
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out}: not empty; give a new folder")
    store = ImageStore(_needed(root, schema.IMAGES_DIR))
    parts = _parts(root, store, format)
    for name, table in parts.items():
        image_ids = list(dict.fromkeys(table[schema.IMAGE_ID]))
        if name != "test":
            _write_boxes(_in_stored_pixels(table, store), image_ids, store, out, name, format, classes)
    if format == "png":
        class_table = pd.DataFrame(
            {schema.CLASS_ID: range(len(classes.names)), schema.CLASS_NAME: classes.names}
        )
        class_table.to_csv(out / "classes.csv", index=False)
    elif format == "yolo":
        names = "".join(f"  {i}: {json.dumps(classes.name(i))}\n" for i in classes.finding_ids)
        write_text(out / "data.yaml", f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}")
    wanted = [
        (name, image_id)
        for name, table in parts.items()
        for image_id in dict.fromkeys(table[schema.IMAGE_ID])
    ]
    for done, (name, image_id) in enumerate(wanted, start=1):
        folder = out / "images" / name if format == "yolo" else out / name
        with replacing(folder / f"{image_id}.png") as temporary:
            cv2.imwrite(str(temporary), store[image_id])
        if progress:
            progress(done, len(wanted))
    return len(wanted)


def _needed(root: Path, artefact: str) -> Path:
    if not (root / artefact).exists():
        raise DataError(f"{root / artefact}: not found; notebook {artefact.split('/')[0]} writes it")
    return root / artefact


def _parts(root: Path, store: ImageStore, format: str) -> dict[str, pd.DataFrame]:
    """Tables of boxes by part; only images that are in the store."""
    if format == "png":
        parts = {"train": read_table(_needed(root, schema.TRAIN_FULL_CSV))}
    else:
        parts = {
            "train": read_table(_needed(root, schema.TRAIN_CSV)),
            "val": read_table(_needed(root, schema.VAL_CSV)),
        }
    stored = set(store.ids)
    parts = {name: table[table[schema.IMAGE_ID].isin(stored)] for name, table in parts.items()}
    return {**parts, "test": pd.DataFrame({schema.IMAGE_ID: store.ids_of("test")})}


def _in_stored_pixels(table: pd.DataFrame, store: ImageStore) -> pd.DataFrame:
    scaled = table.copy()
    corners = scaled[schema.BOX_COLUMNS].to_numpy(np.float32, copy=True)
    for image_id, rows in scaled.groupby(schema.IMAGE_ID).indices.items():
        corners[rows] = boxes.scale(corners[rows], store.original_size(image_id), store[image_id].shape)
    scaled[schema.BOX_COLUMNS] = corners
    return scaled


def _write_boxes(
    table: pd.DataFrame,
    image_ids: Sequence[str],
    store: ImageStore,
    out: Path,
    name: str,
    format: str,
    classes: ClassTable,
) -> None:
    if format == "png":
        out.mkdir(parents=True, exist_ok=True)
        table[schema.ANNOTATION_COLUMNS].to_csv(out / f"{name}.csv", index=False, float_format="%.3f")
        return
    found = table[table[schema.CLASS_ID] != classes.normal_id]
    if format == "coco":
        write_json(out / "annotations" / f"instances_{name}.json", _coco(found, image_ids, store, classes))
        return
    by_image = dict(tuple(found.groupby(schema.IMAGE_ID)))
    for image_id in image_ids:
        lines = _yolo_lines(by_image[image_id], store[image_id].shape) if image_id in by_image else []
        write_text(out / "labels" / name / f"{image_id}.txt", "".join(lines))


def _coco(
    found: pd.DataFrame, image_ids: Sequence[str], store: ImageStore, classes: ClassTable
) -> dict[str, list[dict[str, object]]]:
    numbers = {image_id: i for i, image_id in enumerate(image_ids, start=1)}
    images = []
    for image_id, number in numbers.items():
        height, width = store[image_id].shape
        images.append({"id": number, "file_name": f"{image_id}.png", "height": height, "width": width})
    annotations = []
    for i, row in enumerate(found.itertuples(index=False), start=1):
        width, height = float(row.x_max - row.x_min), float(row.y_max - row.y_min)
        annotations.append(
            {
                "id": i,
                "image_id": numbers[row.image_id],
                "category_id": int(row.class_id),
                "bbox": [float(row.x_min), float(row.y_min), width, height],
                "area": width * height,
                "iscrowd": 0,
            }
        )
    categories = [{"id": i, "name": classes.name(i)} for i in classes.finding_ids]
    return {"images": images, "annotations": annotations, "categories": categories}


def _yolo_lines(rows: pd.DataFrame, size: tuple[int, int]) -> list[str]:
    height, width = size
    lines = []
    for row in rows.itertuples(index=False):
        x, y = (row.x_min + row.x_max) / 2 / width, (row.y_min + row.y_max) / 2 / height
        w, h = (row.x_max - row.x_min) / width, (row.y_max - row.y_min) / height
        lines.append(f"{int(row.class_id)} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n")
    return lines
