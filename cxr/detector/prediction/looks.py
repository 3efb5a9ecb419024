"""How detectors look at images, and how several looks become one answer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr.boxes import FUSION_METHODS
from cxr.detector.network.spec import Answers
from cxr.errors import DataError, ParameterError
from cxr.recipes import check, flat, from_values, parameter
from cxr.rundir import read_json

log = logging.getLogger("cxr")


@dataclass(frozen=True)
class Looks:
    """Parameters of notebook 07 that decide what detectors find; notebook 08 reads them from its file.

    Several detectors, mirror images and scales each look at every image. What one detector finds in its
    looks is fused, then the detectors' answers are fused likewise.
    """

    score_floor: float = parameter(
        Answers.score_threshold, "boxes below this score are dropped; low, since extra boxes never hurt AP",
        low=0.0, high=1.0,
    )  # fmt: skip
    max_boxes: int = parameter(Answers.max_boxes, "most boxes an image", low=1)
    tta_flip: bool = parameter(True, "also look at the mirror image")
    tta_scales: tuple[float, ...] = parameter(
        (1.0,), "sizes to look at, relative to the network's own", low=0.1, high=10.0
    )
    detector_fusion: str = parameter("wbf", "how several looks are fused", choices=FUSION_METHODS)
    detector_fusion_iou: float = parameter(
        0.55, "boxes of several looks that overlap more than this are one", low=0.0, high=1.0
    )

    def __post_init__(self) -> None:
        check(self)
        if not self.tta_scales:
            raise ParameterError("tta_scales: expected at least one size, got none")


ONE_LOOK = Looks(tta_flip=False)
"""One look at each image, as it is."""


@dataclass(frozen=True)
class LooksRecord:
    """How notebook 07 looked and judged, kept in `looks.json` for notebook 08 and `cxr predict`.

    Attributes:
        looks: How each detector looked.
        checkpoints: Detectors as the parameter `checkpoints` named them; empty for those of notebook 06.
        iou_threshold: IoU above which a box was a hit.
        calibrations: What scores are worth and how much the detector counts, by the hash of its file; fitted
            to `looks`. Empty where there is one detector.
    """

    looks: Looks
    checkpoints: tuple[str, ...]
    iou_threshold: float
    calibrations: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the JSON file."""
        return {
            "looks": flat(self.looks),
            "checkpoints": list(self.checkpoints),
            "iou_threshold": self.iou_threshold,
            "calibrations": dict(self.calibrations),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> LooksRecord:
        """The inverse of `to_dict`; what is missing or wrong raises as Python and `Looks` do."""
        return cls(
            from_values(Looks, content["looks"]),
            tuple(content["checkpoints"]),
            float(content["iou_threshold"]),
            content["calibrations"],
        )

    def warn_unless(self, looks: Looks) -> None:
        """Say where `looks` differ from those that the calibrations were fitted to."""
        one, two = flat(self.looks), flat(looks)
        cut = ("score_floor", "max_boxes")  # they leave out boxes, the scores of the others stay
        other = [
            f"{name} {one[name]}, now {two[name]}"
            for name in one
            if name not in cut and one[name] != two[name]
        ]
        if other:
            log.warning("scores were calibrated with %s: they are no probabilities now", "; ".join(other))


def read_looks(path: Path) -> LooksRecord:
    """Read `looks.json`.

    Raises:
        DataError: The file is absent, or another one.
    """
    content = read_json(path)
    try:
        return LooksRecord.from_dict(content)
    except (KeyError, TypeError, ValueError, ParameterError) as error:
        raise DataError(f"{path}: expected what notebook 07 writes into looks.json ({error!r})") from error
