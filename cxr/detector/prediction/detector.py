"""A detector ready to predict, from a file."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxr.detector.checkpoints.files import read_detector, write_safetensors
from cxr.detector.network.base import DetectionNetwork
from cxr.detector.network.device import pick_device
from cxr.detector.network.spec import DetectorSpec
from cxr.detector.prediction.calibration import ScoreCalibration
from cxr.errors import CheckpointError
from cxr.schema import ClassTable

log = logging.getLogger("cxr")


@dataclass(frozen=True)
class Detector:
    """A network ready to predict.

    Attributes:
        net: In evaluation mode, on its device.
        spec: Its description: classes, image size, anchors.
        path: The file it came from.
        sha256: Of that file.
        calibration: Turns scores into probabilities before detectors are fused; see `load_detectors`.
    """

    net: DetectionNetwork
    spec: DetectorSpec
    path: str
    sha256: str
    calibration: ScoreCalibration | None = None

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return next(self.net.parameters()).device

    def require_classes(self, classes: ClassTable) -> None:
        """Refuse a detector of other classes, whose answers would be taken for those of the data.

        Args:
            classes: The data's classes.

        Raises:
            CheckpointError: Its classes differ in number, name or order.
        """
        own, wanted = self.spec.class_names, tuple(classes.names)
        if own == wanted:
            return
        pairs = enumerate(zip_longest(wanted, own))
        place, (expected, got) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
        raise CheckpointError(
            f"{self.path}: expected a detector of the data's {len(wanted)} classes, got one of {len(own)}; "
            f"class {place} is {expected!r} in the data and {got!r} in the detector"
        )


def load_detector(checkpoint: Path | str, *, device: str = "auto") -> Detector:
    """A detector from a training checkpoint or a safetensors export.

    Nothing in the file is executed. Where `<file>.sha256` is beside it, the hash is checked.

    Args:
        checkpoint: `.ckpt` or `.safetensors`.
        device: "auto" (CUDA where there is one), "cpu", "cuda:1" and so on.

    Raises:
        CheckpointError: No such file, damaged, or not a detector of this project.
    """
    net, spec, digest = read_detector(Path(checkpoint))
    return Detector(net.to(pick_device(device)), spec, str(checkpoint), digest)


def load_detectors(
    files: Sequence[Path], calibrations: Mapping[str, Any] | None = None, *, device: str = "auto"
) -> list[Detector]:
    """Detectors to be fused, their scores calibrated where that was learnt for every one of them.

    Args:
        files: `.ckpt` or `.safetensors`.
        calibrations: of `OutOfFold`, by the hash of the detector's file.
        device: See `load_detector`.
    """
    detectors = [load_detector(path, device=device) for path in files]
    known = calibrations or {}
    without = [detector.path for detector in detectors if detector.sha256 not in known]
    if without:
        if known:
            log.warning("scores are not calibrated: no calibration is known for %s", ", ".join(without))
        return detectors
    return [replace(d, calibration=ScoreCalibration.from_dict(known[d.sha256])) for d in detectors]


def class_weights(detectors: Sequence[Detector]) -> np.ndarray | None:
    """How much each detector counts for each finding when they are fused.

    Returns:
        float64 (detectors, findings), for `fuse_detections`; None where that was not learnt for all of them.
    """
    weights = [d.calibration.weights if d.calibration is not None else () for d in detectors]
    return np.array(weights) if all(weights) else None


def export_detector(detector: Detector, path: Path) -> str:
    """Write a detector as safetensors, weights and description in one file; returns its SHA-256."""
    return write_safetensors(detector.net, detector.spec, path)
