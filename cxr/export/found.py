"""What detectors found on a user's files, for other tools: COCO results and DICOM objects."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from cxr import dicom, schema
from cxr.errors import DataError, ParameterError
from cxr.export import coco
from cxr.export.dicom_objects import KINDS, Algorithm, check_library, write_objects
from cxr.rundir import write_json
from cxr.schema import ClassTable

log = logging.getLogger("cxr")

FOUND_FORMATS = ("coco", *KINDS)
COCO_IMAGES = "coco_images.json"
COCO_RESULTS = "coco_results.json"
OBJECTS_DIR = "dicom"


def check_formats(formats: Sequence[str]) -> None:
    """Make sure, before hours of work, that these formats can be written here.

    Raises:
        ParameterError: An unknown format, or one whose package is missing.
    """
    for format in formats:
        if format not in FOUND_FORMATS:
            raise ParameterError(f"format {format!r}: expected one of {', '.join(FOUND_FORMATS)}")
    if set(formats) & set(KINDS):
        check_library()


def write_found(
    detections: pd.DataFrame,
    files: Mapping[str, Path],
    out: Path,
    *,
    formats: Sequence[str],
    algorithm: Algorithm,
    classes: ClassTable,
) -> list[str]:
    """Write detections for other tools.

    - `coco`: `coco_images.json`, which numbers the files, and `coco_results.json`.
    - `dicom-sr` and `gsps`: `dicom/IMAGE_ID.sr.dcm` and `dicom/IMAGE_ID.gsps.dcm` for each DICOM file.

    Args:
        detections: `schema.DETECTION_COLUMNS` in pixels of the files.
        files: Path of every file that was read, by image id; one without a box counts too.
        out: Folder to write to.
        formats: Some of `FOUND_FORMATS`.
        algorithm: Who found it.
        classes: The detectors' classes.

    Returns:
        What was written and what not, line by line.

    Raises:
        ParameterError: An unknown format, or one whose package is missing.
        DataError: There was no DICOM file to write objects for.
        DiskError: The disk is full or broken.
    """
    check_formats(formats)
    lines = []
    if "coco" in formats:
        sizes = {image_id: original_size(path) for image_id, path in files.items()}
        names = {image_id: path.name for image_id, path in files.items()}
        write_json(out / COCO_IMAGES, coco.images_document(names, sizes, classes))
        count = coco.write_results(out / COCO_RESULTS, detections, list(files), classes)
        lines.append(f"{count} COCO results of {len(files)} images")
    kinds = [kind for kind in KINDS if kind in formats]
    if kinds:
        lines.append(
            write_all_objects(
                detections, files, out / OBJECTS_DIR, kinds=kinds, algorithm=algorithm, classes=classes
            )
        )
    return lines


def write_all_objects(
    detections: pd.DataFrame,
    files: Mapping[str, Path],
    out: Path,
    *,
    kinds: Sequence[str],
    algorithm: Algorithm,
    classes: ClassTable,
) -> str:
    """Write DICOM objects for all images that are DICOM; arguments as for `write_found`.

    An image that no object can refer to is left out, which the log says with the reason.

    Returns:
        How many were written, in words.

    Raises:
        DataError: None could be written.
    """
    found = detections[detections[schema.CLASS_ID] != classes.normal_id]
    found = found.sort_values(schema.SCORE, ascending=False, kind="stable")
    by_image = dict(tuple(found.groupby(schema.IMAGE_ID)))
    written, other, refused = 0, 0, 0
    for image_id, path in files.items():
        try:
            if not is_dicom(path):
                other += 1
                continue
            boxes = by_image.get(image_id, found.iloc[:0])
            made = write_objects(
                path, boxes, out, image_id, kinds=kinds, algorithm=algorithm, classes=classes
            )
            written += len(made)
        except DataError as error:
            refused += 1
            log.warning("no DICOM object: %s", error)
    if not written:
        raise DataError(
            f"no DICOM object written: of {len(files)} images {other} are no DICOM files "
            f"and {refused} cannot be referred to"
        )
    left = f", {other} images are no DICOM files" if other else ""
    left += f", {refused} cannot be referred to" if refused else ""
    return f"{written} DICOM objects in {out}{left}"


def is_dicom(path: Path) -> bool:
    """Whether a file has the marker of PS3.10.

    Raises:
        DataError: It cannot be opened.
    """
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def original_size(path: Path) -> tuple[int, int]:
    """(rows, columns) to which boxes on a file refer.

    Raises:
        DicomReadError: The file cannot be read.
    """
    if is_dicom(path):
        header = dicom.read_header(path)
        try:
            return int(header["Rows"]), int(header["Columns"])
        except ValueError as error:
            raise DataError(f"{path}: no rows and columns in the header") from error
    # Only the reader knows which way up a picture is.
    return dicom.load_radiograph(path, longest_side=32).original_size
