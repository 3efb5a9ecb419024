"""Which code stands for which class.

Public codes are used where they mean the class and no more; the others are of a private scheme. The
scheme `99CXR` is declared in each object (Coding Scheme Identification Sequence, PS3.3 C.12.1).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

SCHEME = "99CXR"
SCHEME_NAME = "cxr abnormality classes"
SCHEME_UID = "2.25.120741526117391872351106734215490816463"
SCHEME_VERSION = "1"


@dataclass(frozen=True)
class Concept:
    """A coded concept: value (at most 16 letters), scheme and meaning (at most 64)."""

    value: str
    scheme: str
    meaning: str


CODES: dict[str, Concept] = {
    "Aortic enlargement": Concept("AORTIC_ENL", SCHEME, "Aortic enlargement"),
    "Atelectasis": Concept("46621007", "SCT", "Atelectasis"),
    "Calcification": Concept("112063", "DCM", "Abnormal calcifications"),
    "Cardiomegaly": Concept("8186001", "SCT", "Cardiomegaly"),
    "Consolidation": Concept("95436008", "SCT", "Lung consolidation"),
    "ILD": Concept("233703007", "SCT", "Interstitial lung disease"),
    "Infiltration": Concept("112121", "DCM", "Infiltrate"),
    "Lung Opacity": Concept("112001", "DCM", "Opacity"),
    "Nodule/Mass": Concept("NODULE_MASS", SCHEME, "Nodule or mass"),
    "Other lesion": Concept("OTHER_LESION", SCHEME, "Other lesion"),
    "Pleural effusion": Concept("60046008", "SCT", "Pleural effusion"),
    "Pleural thickening": Concept("PLEURAL_THICK", SCHEME, "Pleural thickening"),
    "Pneumothorax": Concept("36118008", "SCT", "Pneumothorax"),
    "Pulmonary fibrosis": Concept("51615001", "SCT", "Fibrosis of lung"),
}
"""Codes of VinBigData's findings, by name."""

NOTHING = Concept("NOTHING_FOUND", SCHEME, "No box above the score threshold")
"""Stands in a report where the detector looked and gave no box. It is not a finding of normality."""


def concept_of(class_name: str) -> Concept:
    """The code of a class; for a name of another data set one made from the name.

    The same name always gets the same code: `C` and ten hexadecimal digits of the SHA-256 of the name.
    """
    known = CODES.get(class_name)
    if known is not None:
        return known
    digest = hashlib.sha256(class_name.encode("utf-8")).hexdigest()
    return Concept(f"C{digest[:10].upper()}", SCHEME, class_name.replace("\\", "/")[:64])
