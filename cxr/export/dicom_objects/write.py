"""The objects of one image as files."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from cxr.errors import DataError, ParameterError
from cxr.export.dicom_objects.algorithm import Algorithm
from cxr.files import replacing
from cxr.schema import ClassTable

KINDS = {"dicom-sr": "sr", "gsps": "gsps"}
"""Kinds of objects, and how the name of their file ends."""


def check_library() -> None:
    """Make sure that objects can be written here.

    Raises:
        ParameterError: The package `highdicom` is missing.
    """
    try:
        import highdicom  # noqa: F401  (an extra)
    except ModuleNotFoundError as error:
        raise ParameterError(
            "DICOM reports and presentation states need the package highdicom: pip install 'cxr[dicom-sr]'"
        ) from error


def write_objects(
    image: Path,
    boxes: pd.DataFrame,
    out: Path,
    name: str,
    *,
    kinds: Sequence[str],
    algorithm: Algorithm,
    classes: ClassTable,
) -> list[Path]:
    """Write what was found on one DICOM image.

    Args:
        image: The DICOM file.
        boxes: `schema.DETECTION_COLUMNS` in pixels of that file, best first; may be empty.
        out: Folder for `NAME.sr.dcm` and `NAME.gsps.dcm`.
        name: Name of the image.
        kinds: Which of `KINDS`.
        algorithm: Who found it.
        classes: The detector's classes.

    Returns:
        The files written.

    Raises:
        ParameterError: The package `highdicom` is missing.
        DataError: The image cannot be referred to.
        DiskError: The disk is full or broken.
    """
    check_library()
    # The library is an extra, so nothing of it loads before here.
    from cxr.export.dicom_objects.presentation import presentation_state
    from cxr.export.dicom_objects.report import structured_report
    from cxr.export.dicom_objects.source import read_source

    makers = {"dicom-sr": structured_report, "gsps": presentation_state}
    with _quiet():
        source = read_source(image)
    written = []
    for kind in kinds:
        path = out / f"{name}.{KINDS[kind]}.dcm"
        with _quiet():
            try:
                made = makers[kind](source, boxes, algorithm, classes=classes)
            except Exception as error:  # a broken header breaks the library anywhere; one image, not all
                raise DataError(f"{image}: no {kind} can refer to it ({type(error).__name__})") from error
            # The library adds who made the image: hospital, station, operator. No object needs to say it.
            made.pop("ContributingEquipmentSequence", None)
            with replacing(path) as temporary:
                made.save_as(temporary, enforce_file_format=True)
        written.append(path)
    return written


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing is said of values that break their type: they are copied, and were the image's before."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
