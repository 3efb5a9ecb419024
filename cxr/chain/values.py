"""Ranges of the parameters that no recipe holds, and the check of all values before a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cxr import classifier
from cxr.boxes import FUSION_METHODS
from cxr.detector.prediction.looks import Looks
from cxr.detector.recipe import Recipe
from cxr.errors import ParameterError
from cxr.recipes import check, from_values, parameter
from cxr.splits import check_held_out
from cxr.store import COMPRESSIONS
from cxr.submission import NAMED_GATES


@dataclass(frozen=True)
class Steps:
    """Parameters of single steps. Paths and lists of folds, which have no range, stand in the cells alone."""

    jobs: int = parameter(-1, "processes, -1 for one a core", machine=True, low=-1)
    example_images: int = parameter(6, "images shown as examples", low=0)
    image_size: int = parameter(512, "longer side of a stored image", unit="px", low=32)
    compression: str = parameter(
        "none", "of the store: none reads fastest, gzip is smaller", choices=COMPRESSIONS
    )
    max_failed_fraction: float = parameter(0.1, "more unreadable files than this stop the run", low=0.0)
    seconds_per_file: float = parameter(
        10.0, "a file that takes longer, twice, has failed", unit="s", low=0.1
    )
    reader_fusion: str = parameter(
        "wbf",
        "of readers' boxes: wbf, nms, soft-nms, union or agreement (at least two readers)",
        choices=FUSION_METHODS,
    )
    reader_fusion_iou: float = parameter(
        0.4, "readers' boxes that overlap more than this are one finding", low=0.0, high=1.0
    )
    folds: int = parameter(5, "number of folds", low=2)
    resamples: int = parameter(500, "bootstrap resamples for intervals", low=0)
    iou_threshold: float = parameter(
        0.4, "a box hits when it overlaps the truth by more than this", low=0.01, high=0.99
    )
    predict_batch_size: int = parameter(8, "images a step", low=1)
    gate_mode: str = parameter(
        "auto",
        "auto: notebook 07's choice; line: normal line only; soft, cut or none",
        choices=("auto", *NAMED_GATES),
    )
    gallery_images: int = parameter(8, "images in each gallery", low=0)

    def __post_init__(self) -> None:
        check(self)
        if self.jobs == 0:
            raise ParameterError("jobs: expected -1 or a number from 1, got 0")


CLASSES: tuple[type, ...] = (Steps, classifier.Recipe, Recipe, Looks)
"""Classes of parameters; each parameter that has a range or choices belongs to one."""


def check_values(values: Mapping[str, Any]) -> None:
    """Hold values to their ranges and choices; files that they name may be on another machine.

    Args:
        values: Of parameters, by name.

    Raises:
        ParameterError: One is out of its range, or none of its choices.
    """
    for recipe in CLASSES:
        from_values(recipe, values)
    if "train_folds" in values:
        check_held_out(values["train_folds"], range(values["folds"]))
