"""What was found, as DICOM objects that refer to the image: a Structured Report and a presentation state.

Patient and study attributes are copied from the image into these two objects, since an archive files them
by those; nothing else that this project writes has them.

UIDs are derived from the image, the detectors, their parameters and the boxes: the same work done again
gives the same UIDs, so that an archive keeps one object, while another detector or threshold gives others.
"""

from __future__ import annotations

from cxr.export.dicom_objects.algorithm import Algorithm
from cxr.export.dicom_objects.codes import CODES, concept_of
from cxr.export.dicom_objects.write import KINDS, check_library, write_objects

__all__ = ["CODES", "KINDS", "Algorithm", "check_library", "concept_of", "write_objects"]
