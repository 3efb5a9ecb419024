"""Give what a run or a prediction knows to other tools, one module a format.

- `png`: a data folder for this project; `coco` and `yolo`: images and boxes for other tools.
- `formats`: all formats by name, the detectors' included.
"""

from __future__ import annotations

from cxr.export.formats import ALL_FORMATS, export_as
from cxr.export.run import FORMATS, export_run

__all__ = ["ALL_FORMATS", "FORMATS", "export_as", "export_run"]
