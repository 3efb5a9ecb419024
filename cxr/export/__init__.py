"""Give what a run or a prediction knows to other tools, one module a format.

- `png`: a data folder for this project; `coco` and `yolo`: images and boxes for other tools.
- `dicom_objects`: DICOM Structured Reports and presentation states, for viewers and archives.
- `formats`: all formats of a run by name, the detectors' included; `found`: those of a prediction.
"""

from __future__ import annotations

from cxr.export.dicom_objects import Algorithm
from cxr.export.formats import ALL_FORMATS, export_as
from cxr.export.found import FOUND_FORMATS, FoundWriter, check_formats
from cxr.export.run import FORMATS, export_run

__all__ = [
    "ALL_FORMATS",
    "FORMATS",
    "FOUND_FORMATS",
    "Algorithm",
    "FoundWriter",
    "check_formats",
    "export_as",
    "export_run",
]
