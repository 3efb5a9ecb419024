"""Every format of `cxr export` by name, and what each writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cxr import annotations as ann
from cxr import preprocess, schema
from cxr.errors import DataError, ParameterError
from cxr.export import run
from cxr.export.card import CardDetector, write_card
from cxr.export.dicom_objects import KINDS, Algorithm, check_library
from cxr.export.found import ObjectWriter
from cxr.export.parts import read_detections
from cxr.files import sha256
from cxr.rundir import data_dir_of

DETECTOR_FORMATS = ("safetensors", "onnx")
ALL_FORMATS = (*run.FORMATS, *KINDS, *DETECTOR_FORMATS)


def export_as(
    run_dir: Path,
    out: Path,
    format: str,
    *,
    score_threshold: float = 0.05,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write a run's images and boxes, or its detectors, in one format.

    DICOM objects are written for the images on which the run's detectors looked without having learnt
    from them, where their DICOM files are in the run's data folder.

    Args:
        run_dir: Folder of a run.
        out: Folder to write; new or empty.
        format: One of `ALL_FORMATS`.
        score_threshold: Boxes scored lower are left out of DICOM objects.
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
        made = exports.export_run(run_dir, out, format=format)
        told = [
            CardDetector(
                one.path.name,
                one.sha256,
                one.fold,
                one.made_from,
                one.spec.architecture,
                one.spec.image_size,
                one.parameters,
            )
            for one in made
        ]
        card = write_card(run_dir, out, told, classes=made[0].spec.classes, format=format)
        return [*(str(one.path) for one in made), str(card)]
    data_dir = data_dir_of(run_dir)
    if format in KINDS:
        check_library()
        run.refuse_filled(out)
        return [_objects(run_dir, data_dir, out, format, score_threshold)]
    count = run.export_run(
        run_dir,
        out,
        format=format,
        classes=ann.read_classes(data_dir),
        data_dir=data_dir,
        progress=progress,
    )
    return [f"{count} images in {out}"]


def _objects(run_dir: Path, data_dir: Path, out: Path, kind: str, score_threshold: float) -> str:
    detections = read_detections(run_dir)
    wanted = set(detections[schema.IMAGE_ID])
    if not wanted:
        raise DataError(f"{run_dir}: no detections; notebooks 07 and 08 write them")
    folders = [data_dir / name for name in ("train", "test") if (data_dir / name).is_dir()]
    paths = {preprocess.image_id_of(p): p for folder in folders for p in preprocess.find_images(folder)}
    files = {image_id: paths[image_id] for image_id in sorted(wanted & set(paths))}
    if not files:
        raise DataError(f"{data_dir}: none of the {len(wanted)} images with detections is in train/ or test/")
    checkpoints = sorted((run_dir / schema.CHECKPOINTS_DIR).glob("fold*/best.ckpt"))
    algorithm = Algorithm(
        tuple(sha256(path) for path in checkpoints), (f"score_threshold={score_threshold:g}",)
    )
    writer = ObjectWriter(out, kinds=[kind], algorithm=algorithm, classes=ann.read_classes(data_dir))
    writer.add(detections[detections[schema.SCORE] >= score_threshold], files)
    return writer.summary()
