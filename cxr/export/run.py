"""A run's preprocessed images and boxes in the layout that another tool reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from cxr.errors import DataError, ParameterError
from cxr.export import coco, png, yolo
from cxr.export.parts import needed, read_parts
from cxr.files import write_bytes
from cxr.schema import IMAGES_DIR, ClassTable
from cxr.store import ImageStore

FORMATS = ("png", "coco", "yolo")


def export_run(
    root: Path,
    out: Path,
    *,
    format: str,
    classes: ClassTable,
    data_dir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the images of a run as PNG files, with boxes in pixels of those files.

    - `png`: a data folder for this project (`train/`, `test/`, `train.csv` with every reader's
      boxes, `classes.csv`).
    - `coco`: `images/{train,val,test}` and `annotations/instances_{train,val,test}.json`, fused
      boxes. Test images without a truth are listed in `annotations/image_info_test.json`, which
      claims nothing about findings. `results_{train,val,test}.json` hold what the run's detectors
      found, where it looked.
    - `yolo`: `images/{train,val,test}`, `labels/{train,val,test}` (class, centre and size as
      shares of the image) and `data.yaml`, fused boxes; test labels only where there is a truth.

    Args:
        root: Folder of a run in which notebooks 01, 02 and, for COCO and YOLO, 04 have finished.
        out: Folder to write; must be new or empty.
        format: One of `FORMATS`.
        classes: The data set's classes.
        data_dir: Data folder of the run, for the truth of its test images.
        progress: Called with images done and in all.

    Returns:
        Number of images written.

    Raises:
        ParameterError: Unknown format.
        DataError: The run lacks a file that is needed, or `out` is not empty.
        DiskError: The disk is full or broken.
    """
    if format not in FORMATS:
        raise ParameterError(f"format {format!r}: expected one of {', '.join(FORMATS)}")
    refuse_filled(out)
    store = ImageStore(needed(root, IMAGES_DIR))
    parts = read_parts(root, store, every_reader=format == "png", classes=classes, data_dir=data_dir)
    {"png": png, "coco": coco, "yolo": yolo}[format].write_boxes(parts, out, classes)
    wanted = [(part, image_id) for part in parts for image_id in part.image_ids]
    for done, (part, image_id) in enumerate(wanted, start=1):
        folder = out / part.name if format == "png" else out / "images" / part.name
        write_png(folder / f"{image_id}.png", store[image_id])
        if progress:
            progress(done, len(wanted))
    return len(wanted)


def refuse_filled(out: Path) -> None:
    """Make sure that an export starts in a new or empty folder.

    Raises:
        DataError: It holds something, or is a file.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: expected a new or empty folder, got a file")
    if out.is_dir() and any(out.iterdir()):
        raise DataError(f"{out}: not empty; give a new folder")


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write a grey image, complete or not at all.

    OpenCV's own writer says with a bare `False` that the disk is full, so it only encodes here.

    Args:
        path: File to write.
        pixels: uint8 (H, W).

    Raises:
        DiskError: The disk is full or broken.
    """
    encoded, content = cv2.imencode(".png", pixels)
    if not encoded:
        raise DataError(f"{path}: OpenCV cannot write these {pixels.shape} {pixels.dtype} pixels as PNG")
    write_bytes(path, content.tobytes())
