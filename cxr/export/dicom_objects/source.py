"""The image that objects refer to: its header, whole enough for them to be filed beside it."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from highdicom.enum import PatientSexValues
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pydicom.valuerep import DA, TM

from cxr import dicom
from cxr.errors import DataError

log = logging.getLogger("cxr")

_TYPE_2 = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
"""Attributes that every object has, empty where the image has none (PS3.3 C.7.1.1, C.7.2.1)."""

_SEXES = {value.value for value in PatientSexValues} | {""}
_CHECKS: dict[str, Callable[[str], object]] = {
    "PatientBirthDate": DA,
    "StudyDate": DA,
    "StudyTime": TM,
}


def uid(*parts: object) -> str:
    """A UID that depends on nothing but `parts` (PS3.5 B.2: derived as from a UUID)."""
    digest = hashlib.sha256("\n".join(map(str, parts)).encode("utf-8", "surrogateescape")).digest()
    return "2.25." + str(int.from_bytes(digest[:16], "big"))


def read_source(path: Path) -> Dataset:
    """The header of a DICOM image, with all that objects referring to it need.

    Values that their type forbids (a sex of "X", a date of "unknown") are left empty, since no object
    could be written with them. An image without a study or series, as de-identified ones are, gets UIDs
    derived from its own; the log says so.

    Args:
        path: A DICOM file with one grey frame.

    Raises:
        DataError: The header cannot be read, or has no SOP Class or SOP Instance UID.
    """
    try:
        dicom.read_header(path)  # refuses what is no DICOM, is too large, or hides too much in deflated bytes
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
            _complete(dataset, path)
    except DataError:
        raise
    except Exception as error:  # pydicom raises nine kinds of exception on damaged files
        raise DataError(
            f"{path}: its header cannot be read well enough to refer to it ({type(error).__name__})"
        ) from error
    return dataset


def _complete(dataset: Dataset, path: Path) -> None:
    for keyword, meta in (
        ("SOPClassUID", "MediaStorageSOPClassUID"),
        ("SOPInstanceUID", "MediaStorageSOPInstanceUID"),
    ):
        value = str(dataset.get(keyword) or dataset.file_meta.get(meta) or "")
        if not UID(value).is_valid:
            raise DataError(f"{path}: no valid {keyword}, so nothing can refer to this image")
        setattr(dataset, keyword, UID(value))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        if not UID(str(dataset.get(keyword) or "")).is_valid:
            log.warning("%s: no %s; one is derived, which an archive will not know", path, keyword)
            setattr(dataset, keyword, uid(keyword, dataset.SOPInstanceUID))
    for keyword in _TYPE_2:
        if not _sound(dataset, keyword):
            setattr(dataset, keyword, "")
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or int(dataset.get("NumberOfFrames") or 1) != 1:
        raise DataError(f"{path}: expected one grey frame to refer to")
    for sequence in ("ModalityLUTSequence", "VOILUTSequence"):
        for item in dataset.get(sequence) or ():
            _pack_table(item)
    dataset.SamplesPerPixel = 1
    dataset.Rows, dataset.Columns = int(dataset.Rows), int(dataset.Columns)


def _pack_table(item: Dataset) -> None:
    """A look-up table as words in bytes: files in explicit form may list it as numbers (PS3.3 C.11.1)."""
    table = item.get("LUTData")
    if table is not None and not isinstance(table, bytes):
        words = np.asarray(table, dtype=np.int64).astype("<u2").tobytes()
        item["LUTData"] = DataElement("LUTData", "OW", words)


def _sound(dataset: Dataset, keyword: str) -> bool:
    try:
        value = str(dataset.get(keyword) or "")
        if keyword == "PatientSex":
            return keyword in dataset and value in _SEXES
        if keyword in _CHECKS and value:
            _CHECKS[keyword](value)
    except Exception:
        return False
    return keyword in dataset
