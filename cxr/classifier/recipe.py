"""How the classifier is trained: every parameter of it, with its meaning, unit and range.

This is the only place that says what a parameter is. Notebook 05 repeats names, types, defaults and
meanings in its parameters cell, because papermill needs literals there; a test holds the two equal.
"""

from __future__ import annotations

from dataclasses import dataclass

from cxr.classifier.calibration import CALIBRATIONS
from cxr.features import GROUPS
from cxr.recipes import check, parameter


@dataclass(frozen=True)
class Recipe:
    """What the classifier may know, and how its trees are found."""

    seed: int = parameter(0, "for subsampling, the search and resampling", low=0)
    feature_groups: tuple[str, ...] = parameter(
        ("pixel",), "what the classifier may know, one or more", choices=GROUPS
    )
    calibration: str = parameter("sigmoid", "how margins become probabilities", choices=CALIBRATIONS)
    max_rounds: int = parameter(400, "most boosting rounds", low=1)
    trials: int = parameter(1, "settings of the trees to try; the first is the default", low=1)
    search_seconds: float = parameter(
        3600.0, "safety net: no new trial is begun after this, and a warning is given", unit="s", low=0.0
    )
    threads: int = parameter(1, "threads of XGBoost; the trees do not depend on it", machine=True, low=1)

    def __post_init__(self) -> None:
        check(self)
