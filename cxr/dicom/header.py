"""The header row: the only fields that leave a DICOM file, as text."""

from __future__ import annotations

from pathlib import Path

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.multival import MultiValue

from cxr import schema
from cxr.dicom.container import open_dataset, sniff, transfer_syntax

_KEYWORD_OF = {
    "SOP Class UID": "SOPClassUID",
    "SOP Instance UID": "SOPInstanceUID",
    "Photometric Interpretation": "PhotometricInterpretation",
    "Pixel Representation": "PixelRepresentation",
    "High Bit": "HighBit",
    "Samples per Pixel": "SamplesPerPixel",
    "Bits Allocated": "BitsAllocated",
    "Rescale Intercept": "RescaleIntercept",
    "Rescale Slope": "RescaleSlope",
    "Lossy Image Compression": "LossyImageCompression",
    "Lossy Image Compression Ratio": "LossyImageCompressionRatio",
    "Patient's Sex": "PatientSex",
    "Patient's Age": "PatientAge",
    "Rows": "Rows",
    "Columns": "Columns",
    "Pixel Spacing": "PixelSpacing",
    "Bits Stored": "BitsStored",
    "Window Center": "WindowCenter",
    "Window Width": "WindowWidth",
}


def read_header(path: Path) -> dict[str, str]:
    """Read the header row of one file without touching its pixels.

    Args:
        path: DICOM, PNG or JPEG file.

    Returns:
        A value for each of `schema.HEADER_COLUMNS`, in that order, as text; `""` where the
        file has none. A PNG or JPEG file has its name and nothing else.

    Raises:
        DicomReadError: The file is none of these kinds, or its header cannot be parsed.
    """
    path = Path(path)
    if sniff(path) != "dicom":
        return picture_row(path)
    with open_dataset(path) as (dataset, _):
        return header_row(dataset, path)


def header_row(dataset: FileDataset, path: Path) -> dict[str, str]:
    """Header row of an open data set; see `read_header`."""
    row = dict.fromkeys(schema.HEADER_COLUMNS, "")
    row["File Name"] = path.name
    row["Transfer Syntax UID"] = transfer_syntax(dataset.file_meta)
    row["Version"] = _text(dataset.file_meta, "ImplementationVersionName")
    for column, keyword in _KEYWORD_OF.items():
        row[column] = _text(dataset, keyword)
    return row


def picture_row(path: Path) -> dict[str, str]:
    """Header row of a file that has no header: its name."""
    return dict.fromkeys(schema.HEADER_COLUMNS, "") | {"File Name": path.name}


def _text(dataset: Dataset, keyword: str) -> str:
    tag = tag_for_keyword(keyword)
    raw = None
    try:
        raw = dataset.get_item(tag) if tag is not None else None
        if raw is None:
            return ""
        value = dataset[tag].value
    except Exception:
        # A value that breaks its own representation ("12,5" as a decimal) is shown as it stands.
        value = raw.value if isinstance(raw, RawDataElement) else None
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = value.decode("ascii", errors="replace").strip("\0 ")
    if isinstance(value, (MultiValue, list)):
        return f"[{', '.join(str(v) for v in value)}]"
    return " ".join(str(value).split())
