"""Every format of `cxr export` by name, and what each writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cxr import annotations
from cxr.errors import ParameterError
from cxr.export import run
from cxr.rundir import data_dir_of

DETECTOR_FORMATS = ("safetensors", "onnx")
ALL_FORMATS = (*run.FORMATS, *DETECTOR_FORMATS)


def export_as(
    run_dir: Path, out: Path, format: str, *, progress: Callable[[int, int], None] | None = None
) -> list[str]:
    """Write a run's images and boxes, or its detectors, in one format.

    Args:
        run_dir: Folder of a run.
        out: Folder to write; new or empty.
        format: One of `ALL_FORMATS`.
        progress: Called with images done and in all.

    Returns:
        What was written, line by line.

    Raises:
        ParameterError: Unknown format, or a package that it needs is missing.
        DataError: The run lacks what is needed, or `out` is not empty.
        DiskError: The disk is full or broken.
    """
    if format not in ALL_FORMATS:
        raise ParameterError(f"format {format!r}: expected one of {', '.join(ALL_FORMATS)}")
    if format in DETECTOR_FORMATS:
        # Loads PyTorch, which takes seconds that the other formats do not need.
        from cxr.detector.prediction import exports

        run.refuse_filled(out)
        return [str(made.path) for made in exports.export_run(run_dir, out, format=format)]
    data_dir = data_dir_of(run_dir)
    count = run.export_run(
        run_dir,
        out,
        format=format,
        classes=annotations.read_classes(data_dir),
        data_dir=data_dir,
        progress=progress,
    )
    return [f"{count} images in {out}"]
