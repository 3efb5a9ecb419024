"""A run's detectors as files for others: safetensors for this project, ONNX for any."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cxr import schema
from cxr.detector.checkpoints.run import best_checkpoints
from cxr.detector.network.spec import DetectorSpec
from cxr.detector.prediction.detector import export_detector, load_detector
from cxr.detector.prediction.onnx_file import write_onnx
from cxr.errors import DataError, ParameterError
from cxr.rundir import locate

FORMATS = {"safetensors": export_detector, "onnx": write_onnx}


@dataclass(frozen=True)
class Exported:
    """An exported detector.

    Attributes:
        path: Its file.
        sha256: Of that file.
        fold: The fold that it has never seen.
        made_from: SHA-256 of the checkpoint it was made from.
        spec: Its description.
        parameters: Numbers in its network.
    """

    path: Path
    sha256: str
    fold: int
    made_from: str
    spec: DetectorSpec
    parameters: int


def export_run(run_dir: Path, out: Path, *, format: str = "safetensors") -> list[Exported]:
    """Write each detector of a run for prediction without the training's parts.

    Args:
        run_dir: Folder of a run.
        out: Folder for `fold0.safetensors` and so on, each with its hash beside it.
        format: One of `FORMATS`.

    Raises:
        DataError: The run has no detector.
        ParameterError: Unknown format, or a package that it needs is missing.
        CheckpointError: A detector is damaged.
    """
    if format not in FORMATS:
        raise ParameterError(f"format {format!r}: expected one of {', '.join(FORMATS)}")
    best = best_checkpoints(locate(run_dir) / schema.CHECKPOINTS_DIR)
    if not best:
        raise DataError(f"{run_dir}: no detector; notebook 06 or `cxr train` trains one")
    made = []
    for fold, checkpoint in best.items():
        detector = load_detector(checkpoint, device="cpu")
        path = out / f"fold{fold}.{format}"
        digest = FORMATS[format](detector, path)
        count = sum(parameter.numel() for parameter in detector.net.parameters())
        made.append(Exported(path, digest, fold, detector.sha256, detector.spec, count))
    return made
