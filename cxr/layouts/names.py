"""Class names: compared without letter case and blanks, and brought to the competition's fourteen."""

from __future__ import annotations

import re
from collections.abc import Iterable

from cxr.schema import VINBIGDATA

VINDR_LOCAL = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Clavicle fracture",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Enlarged PA",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Lung cavity",
    "Lung cyst",
    "Mediastinal shift",
    "Nodule/Mass",
    "Other lesion",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "Rib fracture",
)
"""The 22 local labels of VinDr-CXR, by name."""

_NORMAL = {"no finding", "no findings", "nofinding", "no abnormality", "normal", "healthy"}

_TO_KAGGLE = {
    # VinDr-CXR: the competition has no class of its own for these.
    "clavicle fracture": "Other lesion",
    "edema": "Other lesion",
    "emphysema": "Other lesion",
    "enlarged pa": "Other lesion",
    "lung cavity": "Other lesion",
    "lung cyst": "Other lesion",
    "mediastinal shift": "Other lesion",
    "rib fracture": "Other lesion",
    # NIH ChestX-ray14: other names for the same finding.
    "effusion": "Pleural effusion",
    "infiltrate": "Infiltration",
    "nodule": "Nodule/Mass",
    "mass": "Nodule/Mass",
    "fibrosis": "Pulmonary fibrosis",
}


def fold(name: str) -> str:
    """A name without the differences that do not count: letter case, underscores, repeated blanks."""
    return re.sub(r"[\s_]+", " ", name).strip().casefold()


def is_normal(name: str) -> bool:
    """Whether a class name says that nothing was found."""
    return fold(name) in _NORMAL


def kaggle_name(name: str) -> str | None:
    """The competition's class for a finding; None where it has none."""
    folded = fold(name)
    same = {fold(known): known for known in VINBIGDATA.finding_names}
    return same.get(folded) or _TO_KAGGLE.get(folded)


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Names without those that differ from an earlier one in letter case or blanks alone."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(fold(name), name)
    return tuple(first.values())


def spellings(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """For each name the known spelling it is a variant of; names without one are left out."""
    by_fold = {fold(name): name for name in known}
    return {name: by_fold[fold(name)] for name in names if fold(name) in by_fold}
