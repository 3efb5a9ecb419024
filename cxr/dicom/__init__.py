"""One radiograph file in, one displayable greyscale picture and its header row out.

DICOM files of one monochrome frame, and greyscale PNG or JPEG files, told apart by their
content. White means dense tissue, row 0 is at the top, and the picture is ready to display.

A file passes through four stages, one module each: `container` (what kind of file is this,
what does its header say), `layout` (do its pixel attributes describe one grey frame),
`codecs` (samples out of the file, for JPEG 2000 no finer than needed: `jpeg2000`) and `tone`
(modality LUT, window, inversion). Every failure is a `DicomReadError` with a short reason
code; `reasons` lists them.
"""

from __future__ import annotations

from cxr.dicom.header import read_header, version_code
from cxr.dicom.isolated import IsolatedReader
from cxr.dicom.radiograph import Radiograph, load_radiograph, load_reference
from cxr.errors import DicomReadError

__all__ = [
    "DicomReadError",
    "IsolatedReader",
    "Radiograph",
    "load_radiograph",
    "load_reference",
    "read_header",
    "version_code",
]
