"""Give what a run or a prediction knows to other tools, one module a format.

- `png`: a data folder for this project; `coco` and `yolo`: images and boxes for other tools.
- `dicom_objects`: DICOM Structured Reports and presentation states, for viewers and archives.
- `card`: a model card beside an exported detector.
"""

from __future__ import annotations

from cxr.export.run import FORMATS, export_run

__all__ = ["FORMATS", "export_run"]
