"""The header row: the only fields that leave a DICOM file, and no free text of it.

Any text attribute can hold what identifies a patient, on purpose or by a slip. So a coded attribute
leaves only with a value of its code, a number only as a number, and the two texts that are neither
(the version of the software that wrote the file, the UID of the image) only as codes: equal texts
have equal codes, and the text cannot be read from one.

This is no de-identification in the sense of PS3.15: age and sex stay, and so does the file's name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

from cxr import schema
from cxr.dicom.container import open_dataset, sniff, transfer_syntax

_PHOTOMETRIC = {
    "MONOCHROME1",
    "MONOCHROME2",
    "PALETTE COLOR",
    "RGB",
    "HSV",
    "ARGB",
    "CMYK",
    "YBR_FULL",
    "YBR_FULL_422",
    "YBR_PARTIAL_422",
    "YBR_PARTIAL_420",
    "YBR_ICT",
    "YBR_RCT",
    "XYB",
}
"""PS3.3 C.7.6.3.1.2."""

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_AGE = re.compile(r"\d{0,3}[DWMY]?", re.ASCII)
"""An age of PS3.5 6.2, and what scanners make of one: without a unit, or the unit alone."""

_CODE = re.compile(r"[uv][0-9a-f]{12}")


def version_code(name: str) -> str:
    """A code for an Implementation Version Name; `""` and a code stay as they are."""
    return _code("v", name)


def uid_code(uid: str) -> str:
    """The code that stands for a SOP Instance UID in all tables of this project."""
    return _code("u", uid)


def _code(kind: str, text: str) -> str:
    """`kind`, a letter that keeps a table's reader from taking it for a number, and 12 digits of a hash."""
    if not text or _CODE.fullmatch(text):
        return text
    return kind + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _one_of(*allowed: str) -> Callable[[str], str]:
    return lambda text: text.upper() if text.upper() in allowed else schema.INVALID


def _numbers(text: str) -> str:
    """A number or a list of numbers, as `[a, b]`."""
    parts = text.removeprefix("[").removesuffix("]").split(", ")
    return text if all(len(part) <= 24 and _NUMBER.fullmatch(part) for part in parts) else schema.INVALID


def _age(text: str) -> str:
    return text.upper() if _AGE.fullmatch(text.upper()) else schema.INVALID


def _sop_class(text: str) -> str:
    return text if UID(text).type == "SOP Class" else schema.INVALID


def _transfer_syntax(text: str) -> str:
    return text if UID(text).type == "Transfer Syntax" else schema.INVALID


_FIELDS: dict[str, tuple[str, Callable[[str], str]]] = {
    "SOP Class UID": ("SOPClassUID", _sop_class),
    "SOP Instance UID": ("SOPInstanceUID", uid_code),
    "Photometric Interpretation": ("PhotometricInterpretation", _one_of(*_PHOTOMETRIC)),
    "Pixel Representation": ("PixelRepresentation", _numbers),
    "High Bit": ("HighBit", _numbers),
    "Samples per Pixel": ("SamplesPerPixel", _numbers),
    "Bits Allocated": ("BitsAllocated", _numbers),
    "Rescale Intercept": ("RescaleIntercept", _numbers),
    "Rescale Slope": ("RescaleSlope", _numbers),
    "Lossy Image Compression": ("LossyImageCompression", _one_of("00", "01")),
    "Lossy Image Compression Ratio": ("LossyImageCompressionRatio", _numbers),
    "Patient's Sex": ("PatientSex", _one_of("F", "M", "O")),
    "Patient's Age": ("PatientAge", _age),
    "Rows": ("Rows", _numbers),
    "Columns": ("Columns", _numbers),
    "Pixel Spacing": ("PixelSpacing", _numbers),
    "Bits Stored": ("BitsStored", _numbers),
    "Window Center": ("WindowCenter", _numbers),
    "Window Width": ("WindowWidth", _numbers),
}
"""Column of the header table: keyword of the attribute, and what may leave of its text."""


def read_header(path: Path) -> dict[str, str]:
    """Read the header row of one file without touching its pixels.

    Args:
        path: DICOM, PNG or JPEG file.

    Returns:
        A value for each of `schema.HEADER_COLUMNS`, in that order, as text; `""` where the
        file has none, `schema.INVALID` where it has one that is not allowed. A PNG or JPEG file has
        its name and nothing else.

    Raises:
        DicomReadError: The file is none of these kinds, or its header cannot be parsed.
    """
    path = Path(path)
    if sniff(path) != "dicom":
        return picture_row(path)
    with open_dataset(path) as (dataset, _):
        return header_row(dataset, path)


def read_uid(path: Path) -> str:
    """The SOP Instance UID of a file as it stands there; `""` without one, and for PNG and JPEG.

    It identifies the image (PS3.15 Table E.1-1), so only who asks for it gets it; see `survey.uid_table`.

    Raises:
        DicomReadError: The file is none of these kinds, or its header cannot be parsed.
    """
    path = Path(path)
    if sniff(path) != "dicom":
        return ""
    with open_dataset(path) as (dataset, _):
        return _text(dataset, "SOPInstanceUID")


def header_row(dataset: FileDataset, path: Path) -> dict[str, str]:
    """Header row of an open data set; see `read_header`."""
    row = dict.fromkeys(schema.HEADER_COLUMNS, "")
    row["File Name"] = path.name
    syntax = transfer_syntax(dataset.file_meta)
    row["Transfer Syntax UID"] = _transfer_syntax(syntax) if syntax else ""
    row["Version"] = version_code(_text(dataset.file_meta, "ImplementationVersionName"))
    for column, (keyword, allowed) in _FIELDS.items():
        text = _text(dataset, keyword)
        row[column] = allowed(text) if text else ""
    return row


def picture_row(path: Path) -> dict[str, str]:
    """Header row of a file that has no header: its name."""
    return dict.fromkeys(schema.HEADER_COLUMNS, "") | {"File Name": path.name}


def _text(dataset: Dataset, keyword: str) -> str:
    tag = tag_for_keyword(keyword)
    raw = None
    try:
        raw = dataset.get_item(tag) if tag is not None else None
        if tag is None or raw is None:
            return ""
        value = dataset[tag].value
    except Exception:
        # A value that breaks its own representation ("12,5" as a decimal) is there all the same.
        value = raw.value if isinstance(raw, RawDataElement) else None
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = value.decode("ascii", errors="replace").strip("\0 ")
    if isinstance(value, (MultiValue, list)):
        return f"[{', '.join(str(v) for v in value)}]"
    return " ".join(str(value).split())
